"""What an edit changes: motion, remainder, steadiness, and pictures that are kept."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import FlowFilter, GaussianFilter, Interval
from tests.test_mouths import face as landmarks
from tests.test_mouths import moved
from tests.test_rendering import SIZE, Brightener, alignment, edited_face, frames
from vidinvert.changes import (
    BROAD_LIGHT,
    COLOUR_SHARE,
    LIPS_KEPT,
    LUMA,
    SMALL_CHANGE,
    ChangeStream,
    _block_of,
    draw_unedited,
    drop_small,
    flow_of,
    head_window,
    keep_colour,
    measure_change,
    read_pictures,
    show_change,
    sweep,
)
from vidinvert.errors import AnalysisError
from vidinvert.geometry import crop_from_quad
from vidinvert.rendering import paste_warped
from vidinvert.types import FaceMotion


def blobs(shift=0.0, size=64):
    """A smooth picture of a few blobs, moved sideways."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    picture = np.zeros((size, size))
    for cx, cy, width in ((20, 20, 5), (40, 26, 6), (30, 44, 7), (48, 50, 4)):
        picture += np.exp(-((x - cx - shift) ** 2 + (y - cy) ** 2) / (2 * width**2))
    return np.repeat((picture * 180).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_a_change_that_is_motion_is_found_as_motion():
    flow, rest = split(blobs(), blobs(shift=2.0), np.ones((64, 64, 1), np.float32), blobs())
    bright = blobs(shift=2.0)[..., 0] > 100
    np.testing.assert_allclose(np.median(flow[bright], axis=0), [-2.0, 0.0], atol=0.3)
    assert np.abs(rest).mean() < 0.5 * np.abs(blobs(2.0).astype(float) - blobs()).mean()


def test_what_shall_not_be_visible_neither_moves_nor_changes():
    flow, rest = split(blobs(), blobs(shift=2.0), np.zeros((64, 64, 1), np.float32), blobs())
    assert np.abs(flow).max() == 0.0
    assert np.abs(rest).max() == 0.0


def test_what_is_left_after_moving_fades_where_the_inversion_is_far_from_the_source():
    share = np.ones((64, 64, 1), np.float32)
    brighter = np.clip(blobs().astype(int) + 40, 0, 255).astype(np.uint8)
    _, near = split(blobs(), brighter, share, blobs())
    _, far = split(blobs(), brighter, share, 255 - blobs())
    assert np.abs(far).mean() < 0.05 * np.abs(near).mean()


def test_moving_and_adding_in_the_frame_gives_the_edited_picture():
    frame = np.zeros((90, 100, 3), np.uint8)
    frame[10:74, 20:84] = blobs()
    quad = np.array([[20.0, 10.0], [20.0, 74.0], [84.0, 74.0], [84.0, 10.0]]) - 0.5
    flow, rest = split(blobs(), blobs(shift=1.5), np.ones((64, 64, 1), np.float32), blobs())
    paste_warped(frame, flow, rest, crop_from_quad(quad, 64))
    difference = np.abs(frame[10:74, 20:84].astype(int) - blobs(shift=1.5))
    assert difference[head_window(64) == 1.0].max() <= 8  # a faint change beside a blob is dropped
    assert not frame[:8].any()


def test_what_hardly_changes_is_dropped_and_what_changes_much_is_kept():
    faint, strong = (np.full((64, 64, 3), value, np.float32) for value in (1.0, -40.0))
    assert np.abs(drop_small(faint)).max() < 0.1
    np.testing.assert_allclose(drop_small(strong), strong, rtol=0.02)
    half = drop_small(np.full((64, 64, 3), SMALL_CHANGE, np.float32))
    np.testing.assert_allclose(half, SMALL_CHANGE / 2, rtol=1e-3)


def test_changes_are_shown_on_the_head_and_not_in_the_corners():
    window = head_window(256)
    assert window[64:200, 80:176].min() == 1.0
    assert window[0, 0] == window[0, -1] == window[-1, 0] == 0.0
    change = np.full((256, 256, 5), 30.0, np.float32)
    flow, rest = show_change(change, np.ones((256, 256, 1), np.float32))
    assert not flow[0, 0].any()
    assert not rest[0, 0].any()
    assert rest[128, 128].min() > 29.0


def split(before, after, share, source):
    return show_change(measure_change(before, after, source), share)


def test_a_small_grey_picture_tells_as_well_what_cannot_be_trusted():
    brighter = np.clip(blobs().astype(int) + 40, 0, 255).astype(np.uint8)
    grey = np.ascontiguousarray(blobs()[::2, ::2, 0])
    trusted = np.abs(measure_change(blobs(), brighter, None)).mean()
    near = np.abs(measure_change(blobs(), brighter, grey)).mean()
    far = np.abs(measure_change(blobs(), brighter, 255 - grey)).mean()
    assert near > 0.5 * trusted
    assert far < 0.1 * trusted


def test_kept_colours_fade_broad_colour_and_light_and_leave_fine_light():
    x = np.arange(128) * np.ones((128, 1))
    wrinkles = (20.0 * np.sin(2 * np.pi * x / 8)).astype(np.float32)
    fine = np.repeat(wrinkles[..., None], 3, axis=2)
    np.testing.assert_allclose(keep_colour(fine)[32:96, 32:96], fine[32:96, 32:96], atol=0.6)
    orange = np.broadcast_to(np.float32([30.0, 0.0, -30.0]), (128, 128, 3)).astype(np.float32)
    light = np.array([30.0, 0.0, -30.0], np.float32) @ LUMA
    held = keep_colour(orange)
    assert np.ptp(held[64, 64]) == pytest.approx(COLOUR_SHARE * 60.0, rel=1e-4)
    share = BROAD_LIGHT / (BROAD_LIGHT + abs(light))
    assert held[64, 64] @ LUMA == pytest.approx(light * share, rel=1e-3)
    grey = np.full((128, 128, 3), -48.0, np.float32)
    np.testing.assert_allclose(
        keep_colour(grey), -48.0 * BROAD_LIGHT / (BROAD_LIGHT + 48.0), rtol=1e-4
    )


def test_a_chin_that_moves_over_a_neck_that_stays_moves_in_a_sweep():
    flow = np.zeros((128, 128, 2), np.float32)
    flow[:64, :, 0] = 4.0
    broad = sweep(flow)
    assert np.abs(np.diff(broad, axis=0)).max() < 0.2 * 4.0
    assert broad[..., 0].mean() == pytest.approx(2.0, rel=1e-3)  # as much moves as before
    np.testing.assert_allclose(broad[[32, 96]], flow[[32, 96]], atol=1e-3)  # and as far


def test_a_frame_that_keeps_colours_moves_in_sweeps_as_far_as_it_keeps_them(monkeypatch):
    torn = np.zeros((128, 128, 5), np.float32)
    torn[:64, :, 0], torn[..., 3] = 4.0, 7.0
    monkeypatch.setattr(ChangeStream, "_average", lambda *_: torn.copy())
    face = replace(followed(3), colour_kept=np.array([0.0, 0.5, 1.0]))
    stream = ChangeStream(face, Flickerer(), batch_size=4, device="cpu")
    flow = torn[..., :2]
    for position, share in enumerate((0.0, 0.5, 1.0)):
        shown = stream.at(position)
        np.testing.assert_allclose(shown[..., :2], flow + share * (sweep(flow) - flow), atol=1e-5)
        np.testing.assert_array_equal(shown[..., 2:], torn[..., 2:])


def test_a_change_keeps_colours_as_far_as_it_is_told():
    before = np.full((64, 64, 3), 120, np.uint8)
    after = before + np.array([25, 0, 0], np.uint8)
    plain, half, kept = (
        measure_change(before, after, None, colour_kept=share)[32, 32, 2:]
        for share in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(plain, [25.0, 0.0, 0.0], atol=0.01)
    assert np.ptp(kept) == pytest.approx(COLOUR_SHARE * 25.0, rel=1e-3)
    np.testing.assert_allclose(half, (plain + kept) / 2, atol=1e-3)


def parting(gap, count=1):
    return moved(landmarks(count=count), gap)


class Flickerer(Brightener):
    """Shows a code's first number as brightness; it is asked how often it draws."""

    drawn = 0

    def generate(self, w_plus):
        self.drawn += len(w_plus)
        return super().generate(w_plus)


def flickering_face(count, *, sigma, intervals, strength=None, held=1):
    """A face whose edit brightens by 0.4 and 0.8 in turns of `held` frames, by 0.6 on average."""
    face = edited_face(frames(count), alignment(range(count)), 0.0)
    codes = torch.zeros(count, 1, 2)
    codes[:, 0, 0] = torch.where(torch.arange(count) // held % 2 == 0, 0.4, 0.8)
    amount = np.ones(count) if strength is None else np.asarray(strength, float)
    codes = codes * torch.tensor(amount).float()[:, None, None]
    return replace(
        face,
        inversion=replace(face.inversion, mask=replace(face.inversion.mask, guide=None)),
        edited=replace(face.edited, w_plus=codes),
        strength=amount,
        seconds=np.arange(count) / 25,
        intervals=tuple(intervals),
        change_filter=GaussianFilter(sigma_seconds=sigma),
    )


def brightening(face, position, batch_size=4):
    stream = ChangeStream(face, Flickerer(), batch_size=batch_size, device="cpu")
    return stream.at(position)[..., 2:].mean() / 127.5


def test_a_change_that_flickers_is_averaged_over_time():
    whole = [Interval(0, 40)]
    plain = flickering_face(40, sigma=0.0, intervals=whole)
    assert brightening(plain, 20) == pytest.approx(0.4, abs=0.01)
    assert brightening(plain, 21) == pytest.approx(0.8, abs=0.01)
    steady = flickering_face(40, sigma=0.2, intervals=whole)
    assert brightening(steady, 20) == pytest.approx(0.6, abs=0.01)
    assert brightening(steady, 21) == pytest.approx(0.6, abs=0.01)


def test_a_strength_over_time_stays_as_it_was_written():
    ramp = np.linspace(0.0, 1.0, 40)
    face = flickering_face(40, sigma=0.2, intervals=[Interval(0, 40)], strength=ramp)
    for position in (5, 20, 35):
        expected = 0.6 * ramp[position]
        assert brightening(face, position) == pytest.approx(expected, rel=0.06, abs=0.01)


@pytest.mark.promise(6)
def test_no_change_crosses_an_interval():
    face = flickering_face(20, sigma=0.3, intervals=[Interval(0, 1), Interval(1, 20)])
    assert brightening(face, 0) == pytest.approx(0.4, abs=0.01)


@pytest.mark.promise(18)
def test_changes_are_the_same_wherever_rendering_begins_and_are_generated_once():
    face = flickering_face(40, sigma=0.1, intervals=[Interval(0, 40)])
    method = Flickerer()
    stream = ChangeStream(face, method, batch_size=4, device="cpu")
    all_ = [stream.at(position) for position in range(40)]
    assert method.drawn == 80  # before and after, each frame once
    late = ChangeStream(face, Flickerer(), batch_size=4, device="cpu")
    np.testing.assert_array_equal(late.at(27), all_[27])
    np.testing.assert_array_equal(late.at(28), all_[28])


def followed(count, *, time=0.2, intervals=None, strength=None, held=1):
    """A face that flickers, with pictures that stand still, so that the flow leads nowhere."""
    runs = [Interval(0, count)] if intervals is None else intervals
    face = flickering_face(count, sigma=0.0, intervals=runs, strength=strength, held=held)
    size = int(face.inversion.mask.ood.shape[-1])
    y, x = np.mgrid[:size, :size]
    picture = torch.as_tensor((120 + 60 * np.sin(x) * np.cos(y)).astype(np.uint8))
    guide = picture.expand(len(face.strength), 1, size, size).contiguous()
    mask = replace(face.inversion.mask, guide=guide)
    return replace(
        face,
        inversion=replace(face.inversion, mask=mask),
        change_filter=FlowFilter(time_seconds=time),
    )


def test_along_the_flow_a_change_that_flickers_is_averaged_too():
    face = followed(40)
    levels = [brightening(face, position) for position in (19, 20, 21)]
    assert max(levels) - min(levels) < 0.12 * np.mean(levels)
    still = followed(40, time=0.0)
    assert brightening(still, 21) > 1.5 * brightening(still, 20)


@pytest.mark.promise(6)
def test_along_the_flow_a_strength_over_time_stays_and_nothing_crosses_an_interval():
    ramp = np.linspace(0.0, 1.0, 40)
    face = followed(40, strength=ramp, held=40)
    per_unit = [brightening(face, position) / ramp[position] for position in (8, 20, 35)]
    np.testing.assert_allclose(per_unit, per_unit[1], rtol=0.05)
    apart = followed(20, intervals=[Interval(0, 1), Interval(1, 20)])
    joined = followed(20)
    assert brightening(apart, 0) < 0.8 * brightening(joined, 0)


@pytest.mark.promise(18)
def test_along_the_flow_changes_are_the_same_wherever_rendering_begins(monkeypatch):
    monkeypatch.setattr("vidinvert.changes.BLOCK", 8)
    face = followed(40, time=0.05)
    method = Flickerer()
    stream = ChangeStream(face, method, batch_size=4, device="cpu")
    all_ = [stream.at(position) for position in range(40)]
    assert method.drawn == 18  # every fifth frame, 0 to 39, before and after
    late = ChangeStream(face, Flickerer(), batch_size=4, device="cpu")
    np.testing.assert_array_equal(late.at(27), all_[27])
    np.testing.assert_array_equal(late.at(32), all_[32])
    whole = ChangeStream(
        replace(face, change_filter=FlowFilter(time_seconds=1e-9)),
        Flickerer(),
        batch_size=4,
        device="cpu",
    )
    assert np.abs(whole.at(27) - all_[27]).max() > 1.0


def test_what_is_carried_from_both_sides_is_not_drawn():
    ramp = np.zeros(40)
    ramp[11:30] = 1.0  # begins and ends between frames that are drawn
    face = followed(40, strength=ramp)
    method = Flickerer()
    stream = ChangeStream(face, method, batch_size=4, device="cpu")
    levels = [float(stream.at(position)[..., 2:].mean()) for position in range(11, 30)]
    assert np.isfinite(levels).all()
    assert min(levels) > 0.6 * max(levels)
    slow = replace(face, seconds=np.arange(40) / 10)  # too far apart: each by itself
    everywhere = Flickerer()
    ChangeStream(slow, everywhere, batch_size=4, device="cpu").at(20)
    assert method.drawn < 0.7 * everywhere.drawn


def test_kept_pictures_of_other_positions_are_drawn_again():
    face = followed(12)
    kept = draw_unedited(
        face.inversion.latents, Flickerer(), batch_size=4, positions=np.array([0, 5, 7])
    )
    assert kept.hold(np.array([0, 5]))
    assert not kept.hold(np.array([0, 10]))
    fresh = ChangeStream(face, Flickerer(), batch_size=2, device="cpu").at(9)
    method = Flickerer()
    spared = ChangeStream(replace(face, unedited=kept), method, batch_size=2, device="cpu").at(9)
    np.testing.assert_array_equal(spared, fresh)
    assert method.drawn == 4 + 2  # all edited ones, and those unedited ones that are not kept


class Spotted(Brightener):
    """Every picture is noise that its code seeds; says how many it drew."""

    def __init__(self):
        self.drawn = 0

    def generate(self, w_plus):
        self.drawn += len(w_plus)
        seeds = [round(1000 * float(code)) % 1000 for code in w_plus[:, 0, 0]]
        noise = [np.random.default_rng(seed).uniform(-1, 1, (3, SIZE, SIZE)) for seed in seeds]
        return torch.from_numpy(np.stack(noise)).float()


def test_kept_pictures_are_the_generators_and_save_drawing_them():
    method = Spotted()
    face = followed(6)
    kept = draw_unedited(face.inversion.latents, method, batch_size=4)
    assert method.drawn == 6
    assert kept.fits(face.inversion.latents)
    assert not kept.fits(
        replace(face.inversion.latents, w_plus=face.inversion.latents.w_plus + 1e-6)
    )
    fresh = ChangeStream(face, method, batch_size=4, device="cpu").at(5)
    assert method.drawn == 6 + 2 + 2
    spared = ChangeStream(replace(face, unedited=kept), method, batch_size=4, device="cpu").at(5)
    assert method.drawn == 10 + 2  # the first and the last frame, edited
    np.testing.assert_array_equal(spared, fresh)


def test_a_damaged_picture_is_refused():
    face = flickering_face(2, sigma=0.0, intervals=(Interval(0, 2),))
    kept = draw_unedited(face.inversion.latents, Spotted(), batch_size=4)
    short = replace(kept, encoded=(kept.encoded[0], kept.encoded[1][:20]))
    assert read_pictures(short, np.array([0])).shape == (1, SIZE, SIZE, 3)
    with pytest.raises(AnalysisError, match=r"holds a damaged picture .* analyse the clip again"):
        read_pictures(short, np.array([1]))


@pytest.mark.promise(18)
def test_drawing_ahead_in_other_threads_changes_nothing():
    ramp = np.clip(np.linspace(-0.5, 1.0, 30), 0, None)  # ten frames in which nothing shows
    face = flickering_face(30, sigma=0.1, intervals=[Interval(0, 30)], strength=ramp)
    shown = np.flatnonzero(ramp).tolist()
    alone = ChangeStream(face, Flickerer(), batch_size=4, device="cpu")
    wanted = [alone.at(position) for position in shown]
    with ThreadPoolExecutor(2) as pool:
        method = Flickerer()
        stream = ChangeStream(face, method, batch_size=4, device="cpu", pool=pool, ahead=2)
        for position, change in zip(shown, wanted, strict=True):
            np.testing.assert_array_equal(stream.at(position), change)
        assert not stream._coming  # nothing was drawn that is not shown


def test_what_pictures_show_on_lips_that_part_gives_way_to_the_dark_between_them():
    still = edited_face(frames(), alignment([0, 1, 2, 3]), 0.5)
    parted = replace(still, motion=parting(0.06, count=4))
    stream, plain = (
        ChangeStream(face, Brightener(), batch_size=4, device="cpu") for face in (parted, still)
    )
    inside, lips = stream.mouth_at(1), (int(0.69 * stream.size), stream.size // 2)
    assert inside is not None
    assert inside[lips][3] == pytest.approx(1.0)
    assert np.abs(stream.at(1)[lips][2:]).max() < 1e-3
    brow = (int(0.3 * stream.size), stream.size // 2)
    np.testing.assert_allclose(stream.at(1)[brow][2:], plain.at(1)[brow][2:], atol=1e-3)
    assert plain.mouth_at(1) is None


def test_an_edit_that_keeps_colours_leaves_the_lips_alone():
    found = edited_face(frames(), alignment([0, 1, 2, 3]), 0.5)
    trusted = replace(found.inversion.mask, guide=None)
    free = replace(found, inversion=replace(found.inversion, mask=trusted))
    kept = replace(free, motion=parting(0.0, count=4), colour_kept=np.ones(4))
    place = int(0.68 * SIZE), SIZE // 2
    without, held = (
        ChangeStream(face, Brightener(), batch_size=4, device="cpu").at(1)[place][2:].mean()
        for face in (replace(kept, motion=None), kept)
    )
    assert without > 2.0
    assert held == pytest.approx((1 - LIPS_KEPT) * without, rel=0.05)


def test_landmarks_that_move_carry_the_picture_with_them_on_top_of_what_the_pictures_show():
    points = np.random.default_rng(0).uniform(0.3, 0.7, (1, 68, 2))
    moves = np.tile([[[0.05, 0.0]]], (1, 68, 1))
    flow = flow_of(FaceMotion(points=points, moves=moves), 0, size=64)
    np.testing.assert_allclose(flow[32, 34], [-3.2, 0.0], atol=0.3)  # from the left
    assert np.abs(flow[0]).max() < 0.5


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (5, [5]),
        (17, [17]),
        (30, [16, 14]),
        (125, [16, 32, 38, 19, 20]),
        (500, [16, 32, *[64] * 6, 34, 17, 17]),
    ],
)
def test_blocks_begin_and_end_short_and_each_position_knows_its_own(count, sizes):
    run = Interval(7, 7 + count)
    blocks = [_block_of(run, position) for position in range(run.start, run.stop)]
    assert all(position in block for position, block in enumerate(blocks, run.start))
    distinct = sorted({(block.start, block.stop) for block in blocks})
    assert [stop - start for start, stop in distinct] == sizes
    assert [start for start, _ in distinct[1:]] == [stop for _, stop in distinct[:-1]]


def test_links_are_found_before_what_is_drawn_ahead():
    asked = []

    class Pool(ThreadPoolExecutor):
        def submit(self, function, *given):
            asked.append(getattr(function, "__name__", "map"))
            return super().submit(function, *given)

    with Pool(2) as pool:
        stream = ChangeStream(
            followed(60), Flickerer(), batch_size=4, device="cpu", pool=pool, ahead=2
        )
        stream.at(0)
        stream.close()
    drawn = asked.index("_measure")
    assert drawn > 30
    assert set(asked[:drawn]) == {"link"}
