import pytest

from stabilizers import (
    BilateralFilter,
    FlowFilter,
    GaussianFilter,
    KalmanFilter,
    MedianFilter,
    OneEuroFilter,
    SavitzkyGolayFilter,
    TotalVariationFilter,
    parse_filter,
    parse_mask_filter,
)


@pytest.mark.parametrize("parse", [parse_filter, parse_mask_filter])
@pytest.mark.parametrize(
    ("text", "filter_"),
    [
        ("none", None),
        ("gaussian", GaussianFilter()),
        ("gaussian:sigma=0.12", GaussianFilter(sigma_seconds=0.12)),
        (" gaussian: sigma=0 ", GaussianFilter(sigma_seconds=0)),
        ("savgol:window=0.3,order=3", SavitzkyGolayFilter(window_seconds=0.3, order=3)),
        ("median:window=0.2", MedianFilter(window_seconds=0.2)),
        ("bilateral:steps=2,sigma=0.1", BilateralFilter(sigma_seconds=0.1, steps=2)),
        (
            "one-euro:cutoff=2,beta=0.1,derivative=3",
            OneEuroFilter(cutoff_hz=2, beta=0.1, derivative_hz=3),
        ),
        ("kalman", KalmanFilter()),
        ("kalman:time=0.2", KalmanFilter(time_seconds=0.2)),
        ("tv", TotalVariationFilter()),
        ("tv:time=0.4", TotalVariationFilter(time_seconds=0.4)),
    ],
)
def test_filters_are_read_as_written(parse, text, filter_):
    assert parse(text) == filter_


def test_masks_may_also_follow_the_flow():
    expected = FlowFilter(time_seconds=0.1, levels=20, radius=0.05, edge=0.1)
    assert parse_mask_filter("flow:time=0.1,levels=20,radius=0.05,edge=0.1") == expected
    with pytest.raises(ValueError, match="filter is 'flow', expected none, gaussian, savgol"):
        parse_filter("flow")


@pytest.mark.parametrize("text", ["", "mean", "none:sigma=1", "Gaussian", "gaussianx"])
def test_unknown_filters_are_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match="expected none, gaussian, savgol, median, bilateral"):
        parse_filter(text)


@pytest.mark.parametrize(
    "text", ["gaussian:", "gaussian:width=1", "gaussian:sigma", "gaussian:0.1", "gaussian:sigma=1,"]
)
def test_unknown_parameters_are_refused(text):
    with pytest.raises(ValueError, match="expected sigma=NUMBER"):
        parse_filter(text)


@pytest.mark.parametrize("text", ["gaussian:sigma=", "gaussian:sigma=wide", "savgol:order=2.5"])
def test_a_value_must_be_a_number(text):
    with pytest.raises(ValueError, match=r"expected a (whole )?number"):
        parse_filter(text)


def test_a_value_out_of_range_is_refused_when_read():
    with pytest.raises(ValueError, match="expected a value >= 0"):
        parse_filter("gaussian:sigma=-1")
