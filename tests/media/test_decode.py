"""Decoding: every frame once, in order, upright, by either reader, or an error."""

import gc
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import (
    B_FRAMES,
    MATRIX,
    X264,
    Clip,
    damaged,
    draw,
    read_number,
    read_numbers,
    trimmed_by_edit_list,
    write_clip,
)
from vidinvert.errors import DecodeError, OpenError
from vidinvert.media import decode, probe

decode_module = sys.modules["vidinvert.media.decode"]

UNUSUAL = {
    "open groups": Clip(
        frame_count=60,
        options={**B_FRAMES, "x264-params": "open-gop=1:keyint=12:min-keyint=12"},
    ),
    "gradual refresh": Clip(
        frame_count=60, options={**X264, "x264-params": "intra-refresh=1:keyint=12"}
    ),
    "many segments": Clip(frame_count=80, options={**B_FRAMES, "g": "15"}),
    "hevc": Clip(
        frame_count=90,
        size_hw=(64, 64),
        codec="libx265",
        options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"},
    ),
    "transport stream": Clip(suffix=".ts", options=B_FRAMES),
    "avi": Clip(suffix=".avi", codec="mpeg4"),
    "vp9": Clip(suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8", "auto-alt-ref": "1"}),
    "ten bits": Clip(pixel_format="yuv420p10le", options=X264),
}
ALL = {**MATRIX, **UNUSUAL}


def pictures(info, **options):
    return [frame for batch in decode(info, **options) for frame in batch.frames]


def no_pyav(*_args):
    raise AssertionError("PyAV had to take over")


@pytest.mark.promise(1)
@pytest.mark.parametrize("name", ALL)
def test_every_frame_comes_once_in_order_and_upright(clip_file, name):
    info = probe(clip_file(ALL[name]))
    frames = pictures(replace(info, reader="pyav"))
    assert read_numbers(frames) == list(range(info.frame_count))
    error = np.abs(frames[3][20:].astype(int) - draw(3, info.size_hw)[20:])
    assert error.mean() < 8


@pytest.mark.promise(18)
@pytest.mark.parametrize("name", ALL)
def test_decord_gives_the_same_pictures_as_pyav(clip_file, name, monkeypatch):
    info = probe(clip_file(ALL[name]))
    if info.reader != "decord":
        pytest.skip(info.reader_reason)
    expected = pictures(replace(info, reader="pyav"))
    monkeypatch.setattr(decode_module, "_frames_by_pyav", no_pyav)
    seen = pictures(info)
    assert len(seen) == len(expected)
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.promise(1)
@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (7, 41), (40, None), (60, 80), (5, 5)])
def test_a_span_is_read_exactly(clip_file, reader, start, stop):
    info = probe(clip_file(UNUSUAL["many segments"]))
    info = replace(info, reader=reader)
    batches = list(decode(info, batch_size=8, start=start, stop=stop))
    indices = [i for batch in batches for i in batch.indices.tolist()]
    assert indices == list(range(start, 80 if stop is None else stop))
    assert read_numbers([f for batch in batches for f in batch.frames]) == indices
    assert all(len(batch.indices) == 8 for batch in batches[:-1])


def test_nonsense_is_refused_at_once(clip_file):
    info = probe(clip_file(MATRIX["cfr_25"]))
    with pytest.raises(ValueError, match="batch_size is 0, expected 1 or more"):
        decode(info, batch_size=0)
    with pytest.raises(ValueError, match=r"frames \[3, 25\) were asked for, expected a range"):
        decode(info, start=3, stop=25)


def open_files():
    entries = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return [os.readlink(entry) for entry in entries if os.path.lexists(entry)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_closing_early_releases_everything(clip_file, tmp_path, monkeypatch, reader):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    info = replace(probe(clip_file(UNUSUAL["many segments"])), reader=reader)
    batches = decode(info, batch_size=4)
    next(batches)
    batches.close()
    gc.collect()
    assert not [name for name in open_files() if str(tmp_path) in name]
    assert list((tmp_path / "temporary").iterdir()) == []


class Failing:
    """decord, but one frame of every reader fails or comes out wrong."""

    DECORDError = ZeroDivisionError

    def __init__(self, *, fails_at=None, wrong_at=None, frames_short=0):
        self.fails_at, self.wrong_at, self.frames_short = fails_at, wrong_at, frames_short

    def VideoReader(self, path, **options):
        assert options == {"num_threads": 1, "fault_tol": 1e-9}
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        outer = self

        class Picture:
            def __init__(self, pixels):
                self.pixels = pixels

            def asnumpy(self):
                return self.pixels

        class Reader:
            def __len__(self):
                return len(frames) - outer.frames_short

            def __getitem__(self, place):
                if place == outer.fails_at:
                    raise ZeroDivisionError("lost")
                wrong = outer.wrong_at is not None and place == outer.wrong_at % len(frames)
                return Picture(255 - frames[place] if wrong else frames[place])

        return Reader()


FAILURES = {
    "a lost frame": Failing(fails_at=10),
    "no frame at all": Failing(fails_at=0),
    "another picture": Failing(wrong_at=0),
    "too few frames": Failing(frames_short=1),
}


@pytest.mark.parametrize("fake", FAILURES.values(), ids=FAILURES)
def test_pyav_takes_over_at_the_frame_that_is_due(clip_file, monkeypatch, fake):
    info = probe(clip_file(UNUSUAL["many segments"]))
    monkeypatch.setattr(decode_module, "load_decord", lambda: fake)
    frames = pictures(replace(info, reader="decord"), batch_size=7)
    assert read_numbers(frames) == list(range(80))


def test_without_room_for_temporaries_pyav_reads(clip_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    info = probe(clip_file(MATRIX["b_frames"]))
    assert read_numbers(pictures(replace(info, reader="decord"))) == list(range(24))


def test_a_difference_found_too_late_is_an_error(clip_file, monkeypatch):
    info = probe(clip_file(MATRIX["b_frames"]))
    monkeypatch.setattr(decode_module, "load_decord", lambda: Failing(wrong_at=-1))
    with pytest.raises(
        DecodeError, match=r"Frame 23 of .* differs between decord and PyAV, expected"
    ):
        pictures(replace(info, reader="decord"))


def test_a_clip_without_units_of_known_length_is_left_to_pyav(clip_file):
    info = probe(clip_file(UNUSUAL["vp9"]))
    assert read_numbers(pictures(replace(info, reader="decord"))) == list(range(24))


def test_decord_that_does_not_load_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert decode_module.load_decord() is None


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("packet", [5, 23])
def test_a_damaged_packet_is_an_error_and_names_a_frame(tmp_path, reader, packet):
    noisy = Clip(options={**X264, "crf": "1"})
    path = damaged(write_clip(tmp_path, noisy), packet=packet)
    info = replace(probe(path), reader=reader)
    with pytest.raises(DecodeError, match=r"is damaged at .*frame.*expected every frame to decode"):
        pictures(info)


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_a_file_that_has_changed_is_an_error(tmp_path, reader):
    path = write_clip(tmp_path, MATRIX["cfr_25"])
    info = replace(probe(path), reader=reader)
    write_clip(tmp_path, replace(MATRIX["cfr_25"], frame_count=20))
    with pytest.raises(DecodeError, match="expected 24 frames as when it was opened"):
        pictures(info)
    write_clip(tmp_path, replace(MATRIX["cfr_25"], frame_count=30))
    with pytest.raises(DecodeError, match=r"decodes to .* frames, expected 24 frames"):
        pictures(info)
    path.unlink()
    with pytest.raises(OpenError, match="does not exist"):
        pictures(info)


def test_a_change_of_size_is_an_error(tmp_path):
    small = write_clip(tmp_path, Clip(frame_count=8, suffix=".h264", options=X264), name="small")
    large = write_clip(
        tmp_path,
        Clip(frame_count=8, size_hw=(96, 128), suffix=".h264", options=X264),
        name="large",
    )
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    info = probe(both)
    with pytest.raises(DecodeError, match=r"Frame 8 of .* is 128x96, expected 64x48 throughout"):
        pictures(info)


@pytest.mark.promise(1)
def test_a_clip_trimmed_by_an_edit_list_shows_no_hidden_frame(tmp_path):
    clip = Clip(frame_count=60, options={**B_FRAMES, "g": "10"})
    info = probe(trimmed_by_edit_list(write_clip(tmp_path, clip)))
    assert read_numbers(pictures(info)) == list(range(info.frame_count))


def test_the_barcode_reads_what_was_drawn():
    numbers = [0, 1, 255, 256, 4711]
    assert [read_number(draw(number, (49, 67))) for number in numbers] == numbers
