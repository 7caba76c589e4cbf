import argparse
import io
from pathlib import Path

import pytest

from stabilizers import FlowFilter, GaussianFilter
from vidinvert.cli import build_parser
from vidinvert.cli.options import (
    ProgressBars,
    change_filter_text,
    count,
    filter_text,
    mask_filter_text,
    number,
    plans_from,
    span_from,
)
from vidinvert.pipeline import Span
from vidinvert.types import Plans

EDIT = ["edit", "in.mp4", "-o", "out.mp4"]


@pytest.mark.parametrize("text", ["x", "nan", "inf", "-1", "1.5"])
def test_numbers_out_of_range_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a number from 0 to 1"):
        number(0, 1)(text)
    assert number(0, 1)("0.25") == 0.25


def test_a_range_without_an_end_says_so():
    with pytest.raises(argparse.ArgumentTypeError, match=r"'-3': expected a number from 0$"):
        number(0)("-3")


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many", ""])
def test_counts_that_are_not_whole_and_positive_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 1"):
        count(text)
    assert count("12") == 12


def test_a_filter_is_checked_before_anything_is_loaded():
    assert filter_text("gaussian:sigma=0.1") == "gaussian:sigma=0.1"
    with pytest.raises(argparse.ArgumentTypeError, match="expected window=NUMBER"):
        filter_text("median:width=3")


def test_changes_are_smoothed_by_a_gaussian_or_along_the_flow():
    plans = plans_from(build_parser().parse_args([*EDIT, "--change-smoothing", "none"]))
    assert plans.stabilizer.change is None
    arguments = build_parser().parse_args([*EDIT, "--change-smoothing", "flow:time=0.1,levels=30"])
    assert plans_from(arguments).stabilizer.change == FlowFilter(time_seconds=0.1, levels=30)
    assert change_filter_text("gaussian:sigma=0.3") == "gaussian:sigma=0.3"
    for text in ("median", "flow:radius=0.1"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected none, gaussian.* or flow"):
            change_filter_text(text)


def test_masks_may_follow_the_flow_and_nothing_else_may():
    assert mask_filter_text("flow:time=0.1") == "flow:time=0.1"
    with pytest.raises(argparse.ArgumentTypeError, match="filter is 'flow'"):
        filter_text("flow")
    plans = plans_from(build_parser().parse_args([*EDIT, "--mask-smoothing", "flow:time=0.2"]))
    assert plans.stabilizer.mask == FlowFilter(time_seconds=0.2)
    assert plans_from(build_parser().parse_args([*EDIT, "--fade", "0"])).render.fade_seconds == 0


def test_options_that_are_not_given_leave_the_plans_defaults():
    plans, defaults = plans_from(build_parser().parse_args(EDIT)), Plans()
    for name in ("tracking", "stabilizer", "render", "encode"):
        assert getattr(plans, name) == getattr(defaults, name)


def test_options_that_are_given_reach_the_plans():
    given = ["--crf", "18", "--composite", "residual", "--no-mark", "--mask-smoothing", "none"]
    more = ["--align-smoothing", "gaussian:sigma=0.5", "--min-score", "0.7", "--batch-size", "3"]
    plans = plans_from(build_parser().parse_args([*EDIT, *given, *more]))
    assert (plans.encode.crf, plans.encode.mark) == (18.0, False)
    assert (plans.render.composite, plans.render.batch_size) == ("residual", 3)
    assert plans.stabilizer.mask is None
    assert plans.stabilizer.transforms == GaussianFilter(sigma_seconds=0.5)
    assert plans.stabilizer.latents == Plans().stabilizer.latents
    assert plans.tracking.min_score == 0.7


def test_masks_are_shaped_as_the_options_say():
    given = ["--mask-min", "0.1", "--mask-max", "0.9", "--mask-dilate", "-0.02"]
    more = ["--mask-blur", "0.01", "--mask-override", "painted"]
    render = plans_from(build_parser().parse_args([*EDIT, *given, *more])).render
    assert (render.mask_min, render.mask_max) == (0.1, 0.9)
    assert (render.mask_dilate, render.mask_blur) == (-0.02, 0.01)
    assert render.mask_override == Path("painted")


def test_a_span_is_given_only_where_the_options_name_one():
    def span(*options):
        return span_from(build_parser().parse_args([*EDIT, *options]))

    assert span() is None
    assert span("--start", "0") == Span()
    assert span("--end", "2") == Span(end_seconds=2.0)


def test_every_stage_has_a_bar_of_its_own(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    bars = ProgressBars(quiet=False)
    for stage in ("detect", "render"):
        for done in (1, 4):
            bars(stage, done, 4)
    bars.close()
    assert "detect: 100%" in screen.getvalue()
    assert "render: 100%" in screen.getvalue()


def test_quiet_shows_nothing(capsys):
    bars = ProgressBars(quiet=True)
    bars("detect", 1, 2)
    bars.close()
    assert capsys.readouterr().err == ""
