import threading

import numpy as np
import pytest
import torch

from stabilizers import BilateralFilter, FlowFilter, GaussianFilter, Interval, smooth, smooth_masks

FILTER = GaussianFilter(sigma_seconds=0.08)


def masks(count: int = 14) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, 1, 5, 7), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("chunk_bytes", [1 << 25, 8 * 14 * 4])
def test_pixels_are_smoothed_by_themselves_and_rounded(monkeypatch, chunk_bytes):
    monkeypatch.setattr("stabilizers.masks._CHUNK_BYTES", chunk_bytes)
    ood, seconds, cut = masks(), np.arange(14) / 25, [Interval(0, 6), Interval(6, 14)]
    smoothed = smooth_masks(ood, seconds, FILTER, intervals=cut)
    expected = np.rint(smooth(ood.numpy(), seconds, FILTER, intervals=cut))
    assert smoothed.dtype == torch.uint8
    np.testing.assert_array_equal(smoothed.numpy(), expected.astype(np.uint8))


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_constant_mask_stays(value):
    ood = torch.full((9, 1, 3, 3), value, dtype=torch.uint8)
    smoothed = smooth_masks(ood, np.arange(9) / 25, FILTER, intervals=[Interval(0, 9)])
    assert torch.equal(smoothed, ood)


def test_a_flicker_of_one_frame_is_damped():
    ood = torch.zeros(21, 1, 2, 2, dtype=torch.uint8)
    ood[10] = 255
    smoothed = smooth_masks(ood, np.arange(21) / 25, FILTER, intervals=[Interval(0, 21)])
    assert int(smoothed.max()) < 64


def test_no_mask_leaks_across_a_cut():
    ood = torch.cat([torch.zeros(8, 1, 2, 2), torch.full((8, 1, 2, 2), 255)]).to(torch.uint8)
    cut = [Interval(0, 8), Interval(8, 16)]
    assert torch.equal(smooth_masks(ood, np.arange(16) / 25, FILTER, intervals=cut), ood)


def test_an_empty_track_stays_empty():
    smoothed = smooth_masks(masks(0), np.zeros(0), FILTER, intervals=[])
    assert smoothed.shape == (0, 1, 5, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 1, 2, 2),
        torch.zeros(3, 2, 2, dtype=torch.uint8),
        torch.zeros(3, 2, 2, 2, dtype=torch.uint8),
    ],
)
def test_dtype_and_shape_are_checked(wrong):
    with pytest.raises(ValueError, match=r"expected torch.uint8 \(T, 1, h, w\)"):
        smooth_masks(wrong, np.arange(3.0), FILTER, intervals=[])


ALONG = FlowFilter(time_seconds=0.1, levels=20.0)


def travelling_square(count: int, step: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright textured square that moves right over a dark ground; its mask and the pictures."""
    rng = np.random.default_rng(7)
    ground = rng.integers(20, 60, (32, 64)).astype(np.uint8)
    texture = rng.integers(180, 240, (12, 12)).astype(np.uint8)
    pictures, true = np.repeat(ground[None], count, 0), np.zeros((count, 32, 64), np.uint8)
    for t in range(count):
        place = (t, slice(10, 22), slice(4 + step * t, 16 + step * t))
        pictures[place], true[place] = texture, 255
    return torch.as_tensor(true)[:, None], torch.as_tensor(pictures)[:, None]


def known_flow(step: int = 2):
    """The true flow of `travelling_square`, told from the brightness of the pixel."""

    def estimate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        columns = [np.flatnonzero((picture > 120).any(axis=0))[0] for picture in (a, b)]
        flow = np.zeros((*a.shape, 2), np.float32)
        flow[a > 120, 0] = columns[1] - columns[0]
        return flow

    return estimate


def test_a_mask_moves_with_what_it_covers():
    true, pictures = travelling_square(16)
    hole = true.clone()
    hole[8] = 0  # one frame missed
    arguments = {"intervals": [Interval(0, 16)]}
    along = smooth_masks(
        hole, np.arange(16) / 25, ALONG, guide=pictures, flow=known_flow(), **arguments
    )
    still = smooth_masks(hole, np.arange(16) / 25, GaussianFilter(sigma_seconds=0.1), **arguments)
    inside, outside = true[8] == 255, true[8] == 0
    assert along[8][inside].min() > 150
    assert along[8][outside].max() == 0  # nothing is mixed across the moving edge
    assert along[4][true[4] == 0].max() == 0
    assert still[4][true[4] == 0].max() > 50


def test_along_the_flow_nothing_crosses_an_interval_and_time_may_run_backwards():
    true, pictures = travelling_square(12)
    noisy = torch.where(
        torch.rand(true.shape, generator=torch.Generator().manual_seed(1)) < 0.2, 255 - true, true
    )
    seconds = np.cumsum(np.random.default_rng(2).uniform(0.02, 0.06, 12))
    arguments = {"guide": pictures, "flow": known_flow()}
    runs = [Interval(0, 5), Interval(5, 12)]
    both = smooth_masks(noisy, seconds, ALONG, intervals=runs, **arguments)
    for run in runs:
        part = slice(run.start, run.stop)
        alone = smooth_masks(
            noisy[part],
            seconds[part],
            ALONG,
            intervals=[Interval(0, len(run))],
            guide=pictures[part],
            flow=known_flow(),
        )
        assert torch.equal(both[part], alone)
    whole = smooth_masks(noisy, seconds, ALONG, intervals=[Interval(0, 12)], **arguments)
    backwards = smooth_masks(
        noisy.flip(0),
        (seconds[-1] - seconds)[::-1],
        ALONG,
        intervals=[Interval(0, 12)],
        guide=pictures.flip(0),
        flow=known_flow(),
    ).flip(0)
    assert (whole.int() - backwards.int()).abs().max() <= 1
    assert not torch.equal(whole, both)


def test_blocks_along_the_flow_give_what_the_whole_gives(monkeypatch):
    true, pictures = travelling_square(20, step=1)
    hole = true.clone()
    hole[::3] = 0
    arguments = {"intervals": [Interval(0, 20)], "guide": pictures, "flow": known_flow()}
    filter_ = FlowFilter(time_seconds=0.05, levels=20.0)
    whole = smooth_masks(hole, np.arange(20) / 25, filter_, **arguments)
    monkeypatch.setattr("stabilizers.masks._BLOCK", 4)
    parts = smooth_masks(hole, np.arange(20) / 25, filter_, **arguments)
    assert (whole.int() - parts.int()).abs().max() <= 1


def test_a_mask_that_was_not_measured_is_carried_there_along_the_flow():
    true, pictures = travelling_square(9)
    measured = np.arange(9) % 2 == 0
    spoilt = true.clone()
    spoilt[~torch.as_tensor(measured)] = 99  # not looked at
    options = {"intervals": [Interval(0, 9)], "guide": pictures, "flow": known_flow()}
    steady = smooth_masks(spoilt, np.arange(9) / 25, ALONG, measured=measured, **options)
    for t in range(1, 8):
        assert steady[t][true[t] == 255].min() > 250
        assert steady[t][true[t] == 0].max() == 0
    with pytest.raises(ValueError, match=r"measured has shape \(3,\), expected \(9,\)"):
        smooth_masks(true, np.arange(9) / 25, ALONG, measured=measured[:3], **options)


def test_a_mask_snaps_to_the_edges_of_the_picture():
    true = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    true[..., 18:] = 255
    pictures = 40 + true // 2
    soft = torch.nn.functional.avg_pool2d(true.float(), 9, stride=1, padding=4).to(torch.uint8)
    filter_ = FlowFilter(time_seconds=0, radius=0.1, edge=0.05)
    run = [Interval(0, 1)]
    snapped = smooth_masks(
        soft, np.zeros(1), filter_, intervals=run, guide=pictures, flow=known_flow()
    )

    def step(mask):
        return int(mask[0, 0, 20, 18]) - int(mask[0, 0, 20, 17])

    assert step(snapped) > 3 * step(soft)


def test_a_flow_filter_needs_pictures_and_an_estimator():
    ood = masks(3)
    with pytest.raises(ValueError, match="expected guide and flow"):
        smooth_masks(ood, np.arange(3.0), ALONG, intervals=[])
    with pytest.raises(ValueError, match=r"guide is torch.float32 .* expected torch.uint8"):
        smooth_masks(ood, np.arange(3.0), ALONG, intervals=[], guide=ood.float(), flow=known_flow())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("time_seconds", -0.1, "time_seconds is -0.1, expected a number >= 0"),
        ("levels", 0.0, "expected a number of grey levels > 0"),
        ("radius", 0.6, r"expected a share of the side in \[0, 0.5\]"),
        ("edge", 0.0, "expected a share of the grey range > 0"),
    ],
)
def test_a_flow_filters_parameters_are_checked(field, value, message):
    with pytest.raises(ValueError, match=message):
        FlowFilter(**{field: value})


def test_filters_of_vectors_take_each_pixel_by_itself():
    ood, seconds, run = masks(), np.arange(14) / 25, [Interval(0, 14)]
    filter_ = BilateralFilter(sigma_seconds=0.1)
    smoothed = smooth_masks(ood, seconds, filter_, intervals=run)
    alone = smooth_masks(ood[..., 2:3, 4:5], seconds, filter_, intervals=run)
    assert torch.equal(smoothed[..., 2:3, 4:5], alone)


def test_threads_that_estimate_flow_change_nothing():
    true, pictures = travelling_square(16)
    threads = set()

    def flow(a, b):
        threads.add(threading.current_thread().name)
        return known_flow()(a, b)

    options = {"intervals": [Interval(0, 16)], "guide": pictures}
    alone = smooth_masks(true, np.arange(16) / 25, ALONG, flow=known_flow(), **options)
    several = smooth_masks(true, np.arange(16) / 25, ALONG, flow=flow, workers=3, **options)
    assert torch.equal(several, alone)
    assert threading.current_thread().name not in threads
