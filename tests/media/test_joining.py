"""Segments: what is joined is one clip, and where a run was broken off cannot be seen."""

import os

import av
import numpy as np
import pytest

from tests.clips import (
    B_FRAMES,
    MATRIX,
    X264,
    Clip,
    read_numbers,
    sound_packets,
    video_packets,
)
from vidinvert.errors import EncodeError
from vidinvert.media import SegmentedWriter, decode, probe
from vidinvert.media.codecs import choose_encoding
from vidinvert.types import EncodeSettings

FAST = EncodeSettings(preset="ultrafast", threads=1)


def write_on(writer, info, *, until=None, batch_size=4):
    """Write from where the writer is; an interruption after frame `until`."""
    stop = info.frame_count if until is None else until
    with writer:
        for batch in decode(info, batch_size=batch_size, start=writer.due, stop=stop):
            writer.write(batch)
        if until is not None:
            raise KeyboardInterrupt


def segmented(source, target, directory, **options):
    settings = options.pop("settings", FAST)
    info = probe(source)
    options.setdefault("segment_frames", 8)
    return SegmentedWriter(target, like=info, settings=settings, directory=directory, **options)


def pictures(path):
    return [frame for batch in decode(probe(path)) for frame in batch.frames]


@pytest.mark.promise(8)
@pytest.mark.parametrize("name", MATRIX)
def test_joined_segments_are_the_clip(clip_file, tmp_path, name):
    source = clip_file(MATRIX[name])
    target = tmp_path / f"out{source.suffix}"
    before = probe(source)
    write_on(segmented(source, target, tmp_path / "segments"), before)
    after = probe(target)
    assert read_numbers(pictures(target)) == list(range(before.frame_count))
    assert [p * after.time_base for p in after.pts] == [p * before.time_base for p in before.pts]
    for field in (
        "size_hw",
        "coded_size_hw",
        "rotation_deg",
        "color",
        "sample_aspect_ratio",
        "codec",
        "pixel_format",
        "frame_rate",
    ):
        assert getattr(after, field) == getattr(before, field), field
    assert sound_packets(target) == sound_packets(source)
    assert sorted(os.listdir(tmp_path)) == [target.name, "segments"]


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    ("settings", "clip", "suffix"),
    [
        (EncodeSettings(preset="superfast", threads=1), Clip(options=B_FRAMES), ".mp4"),
        (EncodeSettings(preset="superfast", threads=1), MATRIX["vfr"], ".mkv"),
        (EncodeSettings(codec="libx265", preset="veryfast", threads=1), MATRIX["sound"], ".mp4"),
        (EncodeSettings(codec="libvpx-vp9", preset="8", threads=1), MATRIX["cfr_25"], ".webm"),
        (EncodeSettings(codec="libsvtav1", preset="8"), Clip(size_hw=(64, 96)), ".mkv"),
    ],
)
def test_a_resumed_clip_equals_an_unbroken_one(clip_file, tmp_path, settings, clip, suffix):
    source = clip_file(clip)
    info = probe(source)
    whole, resumed = tmp_path / f"whole{suffix}", tmp_path / f"resumed{suffix}"
    write_on(segmented(source, whole, tmp_path / "a", settings=settings), info)
    for until, due in ((13, 8), (9, 8), (17, 16)):
        writer = segmented(source, resumed, tmp_path / "b", settings=settings)
        with pytest.raises(KeyboardInterrupt):
            write_on(writer, info, until=max(until, writer.due))
        assert segmented(source, resumed, tmp_path / "b", settings=settings).due == due
        assert not resumed.exists()
    write_on(segmented(source, resumed, tmp_path / "b", settings=settings), info)
    assert video_packets(resumed) == video_packets(whole)
    np.testing.assert_array_equal(pictures(resumed), pictures(whole))
    np.testing.assert_array_equal(probe(resumed).pts, probe(whole).pts)
    assert read_numbers(pictures(whole)) == list(range(24))


@pytest.mark.promise(8)
def test_every_segment_begins_with_a_picture_that_needs_no_other(clip_file, tmp_path):
    source = clip_file(Clip(options=B_FRAMES))
    target = tmp_path / "out.mp4"
    settings = EncodeSettings(preset="superfast", threads=1)
    write_on(segmented(source, target, tmp_path / "s", settings=settings), probe(source))
    with av.open(str(target)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == [0, 8, 16]
    decoded = [packet.dts for packet in packets]
    assert decoded == sorted(set(decoded))
    assert all(packet.dts <= packet.pts for packet in packets)


@pytest.mark.promise(8)
def test_a_span_is_cut_as_without_segments(clip_file, tmp_path):
    source = clip_file(MATRIX["sound"])
    info, target = probe(source), tmp_path / "out.mp4"
    writer = segmented(source, target, tmp_path / "s", start=5, stop=20, comment="edited")
    with writer:
        for batch in decode(info, batch_size=4, start=5, stop=20):
            writer.write(batch)
    assert read_numbers(pictures(target)) == list(range(5, 20))
    assert sorted(os.listdir(tmp_path / "s")) == ["00000005-00000013.mp4", "00000013-00000020.mp4"]
    with av.open(str(target)) as container:
        assert container.metadata["comment"] == "edited"


@pytest.mark.promise(8)
def test_what_a_killed_run_left_half_written_is_removed(clip_file, tmp_path):
    source = clip_file(MATRIX["cfr_25"])
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".vidinvert-0123.partial").write_bytes(b"half")
    write_on(segmented(source, tmp_path / "out.mp4", tmp_path / "s"), probe(source))
    assert not list((tmp_path / "s").glob(".*"))


@pytest.mark.promise(8)
def test_missing_frames_are_refused_and_the_segments_kept(clip_file, tmp_path):
    source = clip_file(MATRIX["cfr_25"])
    info = probe(source)
    writer = segmented(source, tmp_path / "out.mp4", tmp_path / "s")
    (batch,) = decode(info, batch_size=12, stop=12)
    with pytest.raises(EncodeError, match="got frames up to 11, expected all up to 23"), writer:
        writer.write(batch)
    assert os.listdir(tmp_path / "s") == ["00000000-00000008.mp4"]
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.promise(8)
def test_frames_out_of_order_are_refused(clip_file, tmp_path):
    source = clip_file(MATRIX["cfr_25"])
    writer = segmented(source, tmp_path / "out.mp4", tmp_path / "s")
    (batch,) = decode(probe(source), batch_size=4, start=4, stop=8)
    with pytest.raises(ValueError, match=r"frames 4 to 7 were given, expected .* from 0"), writer:
        writer.write(batch)


@pytest.mark.promise(8)
def test_segments_of_other_encoders_or_lengths_are_refused(clip_file, tmp_path):
    source = clip_file(Clip(options=X264))
    info = probe(source)
    target, directory = tmp_path / "out.mp4", tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        write_on(segmented(source, target, directory), info, until=10)
    other = EncodeSettings(preset="medium", threads=1)
    with pytest.raises(EncodeError, match="written by another encoder than the segments before"):
        write_on(segmented(source, target, directory, settings=other), info)
    first = directory / "00000000-00000008.mp4"
    first.write_bytes((directory / "00000008-00000016.mp4").read_bytes())
    shorter = probe(first)
    with SegmentedWriter(
        directory / "short.mp4", like=shorter, settings=FAST, directory=tmp_path / "t", stop=6
    ) as writer:
        for batch in decode(shorter, stop=6):
            writer.write(batch)
    (directory / "short.mp4").replace(first)
    with pytest.raises(EncodeError, match="holds 6 pictures, expected 8"):
        write_on(segmented(source, target, directory), info)
    assert not target.exists()


@pytest.mark.promise(8)
def test_a_number_of_threads_makes_x264_repeatable(clip_file):
    info = probe(clip_file(MATRIX["cfr_25"]))
    chosen = choose_encoding(
        info, EncodeSettings(threads=3), target=info.path.with_suffix(".mp4"), muxer="mp4"
    )
    assert chosen.options["threads"] == "3"
    assert chosen.options["x264-params"] == "mbtree=0"
    free = choose_encoding(info, EncodeSettings(), target=info.path, muxer="mp4")
    assert not {"threads", "x264-params"} & set(free.options)


@pytest.mark.promise(8)
def test_a_segment_needs_a_frame(clip_file, tmp_path):
    source = clip_file(MATRIX["cfr_25"])
    with pytest.raises(ValueError, match="segment_frames is 0, expected 1 or more"):
        segmented(source, tmp_path / "out.mp4", tmp_path / "s", segment_frames=0)
