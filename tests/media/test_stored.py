"""What is not painted leaves the clip as it came: its planes are written back bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from tests.clips import B_FRAMES, X264, Clip, read_numbers
from vidinvert.media import VideoWriter, decode, probe
from vidinvert.media.planes import change_planes, holds_planes_of, is_planar, view_planes
from vidinvert.types import EncodeSettings, FrameBatch

FFV1 = {"codec": "ffv1", "suffix": ".mkv"}
CLIPS = {
    "decord": Clip(options=X264),
    "turned": Clip(options=X264, rotation_deg=90, size_hw=(96, 112)),
    "open groups": Clip(options={**B_FRAMES, "x264-params": "open-gop=1:keyint=12:min-keyint=12"}),
    "ten bits": Clip(pixel_format="yuv420p10le", options=X264),
    "odd": Clip(size_hw=(49, 67), pixel_format="yuv444p", options=X264),
    "odd and halved": Clip(
        size_hw=(49, 67), suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8"}
    ),
    "twelve bits 4:2:2": Clip(pixel_format="yuv422p12le", **FFV1),
    "alpha": Clip(pixel_format="yuva444p10le", **FFV1),
    "full range": Clip(suffix=".mkv", pixel_format="yuvj420p", full_range=True, options=X264),
}


def paint(batch, rows=slice(20, 31), columns=slice(9, 26), levels=20):
    """Make a rectangle of every frame lighter."""
    canvas = batch.canvas.copy()
    step = np.iinfo(canvas.dtype).max // 255
    area = canvas[:, rows, columns].astype(np.int64) + levels * step
    canvas[:, rows, columns] = np.minimum(area, np.iinfo(canvas.dtype).max).astype(canvas.dtype)
    return batch.painted(canvas)


def planes_after(stored, canvas, info):
    frame = change_planes(
        stored,
        canvas,
        turn=info.rotation_deg // 90,
        pixel_format=stored.pixel_format,
        color=info.color,
        full_range=info.color.range == 2,
    )
    return view_planes(frame), np.rot90(frame.to_ndarray(format="rgb24"), info.rotation_deg // 90)


@pytest.mark.parametrize("name", CLIPS)
def test_planes_keep_every_bit_where_nothing_was_painted(clip_file, name):
    info = probe(clip_file(CLIPS[name]))
    batch = next(decode(info, stored=True))
    assert (batch.deep is not None) == (info.bit_depth > 8)
    for stored, canvas in zip(batch.stored, batch.canvas, strict=True):
        for ours, theirs in zip(planes_after(stored, canvas, info)[0], stored.planes, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    edited = paint(batch)
    painted = np.zeros(info.size_hw, bool)
    painted[18:32, 8:27] = True  # grown to whole samples of halved colour
    painted = np.rot90(painted, -(info.rotation_deg // 90))
    for k, stored in enumerate(batch.stored):
        planes, picture = planes_after(stored, edited.canvas[k], info)
        for ours, theirs in zip(planes, stored.planes, strict=True):
            down = -(-painted.shape[0] // ours.shape[0])
            across = -(-painted.shape[1] // ours.shape[1])
            inside = painted[::down, ::across]
            assert (ours[~inside] == theirs[~inside]).all()
        assert (planes[0] != stored.planes[0]).sum() > 100
        error = np.abs(picture.astype(int) - edited.frames[k])
        assert error[22:29, 12:24].mean() < 2.5
        assert len(planes) < 4 or (planes[3] == stored.planes[3]).all()


def test_both_readers_store_the_same(clip_file):
    info = probe(clip_file(CLIPS["decord"]))
    ours = list(decode(info, stored=True))
    theirs = list(decode(replace(info, reader="pyav"), stored=True))
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one.stored, other.stored, strict=True):
            assert all((x == y).all() for x, y in zip(a.planes, b.planes, strict=True))
            np.testing.assert_array_equal(a.picture, b.picture)


def test_a_ramp_painted_on_ten_bits_has_no_steps_of_eight(clip_file):
    """A soft edit of two grey levels over 64 pixels: 7 levels of 10 bits, not 2 of 8."""
    clip = Clip(frame_count=1, size_hw=(64, 64), pixel_format="yuv420p10le", **FFV1)
    info = probe(clip_file(clip))
    batch = next(decode(info, stored=True))
    soft = np.linspace(0.0, 2.0, 64)[None, :, None] * 257.0
    canvas = np.clip(batch.canvas + soft, 0, 65535).astype(np.uint16)
    planes, _ = planes_after(batch.stored[0], batch.painted(canvas).canvas[0], info)
    change = planes[0].astype(int) - batch.stored[0].planes[0]
    steps = np.unique(change[40])  # a row without bars
    assert len(steps) >= 7
    assert np.abs(change[40] - np.linspace(0, 2 * 4 * 219 / 255, 64)).max() <= 1.0


def test_a_lossless_clip_comes_back_bit_for_bit(clip_file, tmp_path):
    """x264 without loss: what the writer is given is what is read again."""
    source = clip_file(Clip(suffix=".mkv", options={"preset": "ultrafast", "qp": "0"}))
    info, target = probe(source), tmp_path / "out.mkv"
    with VideoWriter(target, like=info, settings=EncodeSettings(crf=0)) as writer:
        for batch in decode(info, stored=True):
            writer.write(batch)
    for before, after in zip(decode(info), decode(probe(target)), strict=True):
        np.testing.assert_array_equal(before.frames, after.frames)
        assert read_numbers(after.frames) == after.indices.tolist()


def test_a_part_of_a_batch_keeps_all_of_it(clip_file):
    batch = next(decode(probe(clip_file(CLIPS["ten bits"])), stored=True))
    part = batch.part(2, 5)
    assert part.indices.tolist() == [2, 3, 4]
    assert part.stored == batch.stored[2:5]
    assert part.deep is not None
    np.testing.assert_array_equal(part.deep, batch.canvas[2:5])


def test_frames_of_eight_bits_follow_a_painted_canvas_and_nothing_else(clip_file):
    batch = next(decode(probe(clip_file(CLIPS["ten bits"])), stored=True))
    edited = paint(batch)
    changed = (edited.frames != batch.frames).any(axis=(0, 3))
    assert changed[20:31, 9:26].mean() > 0.9
    changed[20:31, 9:26] = False
    assert not changed.any()


def test_layouts_are_told_apart():
    for name in ("yuv420p", "yuva444p12le", "gray", "gbrp"):
        assert is_planar(name), name
    for name in ("nv12", "pal8", "rgb24", "bgra", "yuv420p10be", "gbrpf32le", "ya8"):
        assert not is_planar(name), name
    assert holds_planes_of("yuvj420p", "yuv420p")
    assert not holds_planes_of("yuv420p10le", "yuv420p")
    assert not holds_planes_of("nv12", "nv12")


def test_stored_frames_must_be_as_many(clip_file):
    batch = next(decode(probe(clip_file(CLIPS["decord"])), stored=True))
    with pytest.raises(ValueError, match="stored holds 1 frames, expected 8"):
        FrameBatch(frames=batch.frames, indices=batch.indices, stored=batch.stored[:1])
