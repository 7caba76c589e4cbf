"""Cutting a stream where a decoder may start afresh."""

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import B_FRAMES, X264, Clip
from vidinvert.media.containers import main_video_stream, open_input, video_packets
from vidinvert.media.segments import (
    MIN_FRAMES,
    READ_AHEAD_BYTES,
    begins_afresh,
    cut,
    min_frames,
    write_segment,
)


def packets_of(path):
    container = open_input(path)
    stream = main_video_stream(container, path, max_pixels=10**6)
    return container, stream, list(video_packets(container, stream, path))


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    ("options", "key_frames", "fresh"),
    [
        ({**X264, "g": "10"}, [0, 10, 20], [0, 10, 20]),
        ({**B_FRAMES, "x264-params": "open-gop=1:keyint=10:min-keyint=10"}, None, [0]),
        ({**X264, "x264-params": "intra-refresh=1:keyint=10"}, None, [0]),
    ],
)
def test_only_idr_pictures_begin_afresh(clip_file, options, key_frames, fresh):
    container, stream, packets = packets_of(clip_file(Clip(frame_count=30, options=options)))
    begins = begins_afresh(stream)
    assert begins is not None
    assert [n for n, packet in enumerate(packets) if begins(packet)] == fresh
    keys = [n for n, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == key_frames if key_frames else len(keys) > 1
    container.close()


@pytest.mark.promise(8)
def test_hevc_idr_pictures_begin_afresh(clip_file):
    options = {
        "preset": "ultrafast",
        "x265-params": "log-level=none:keyint=10:min-keyint=10:open-gop=0",
    }
    clip = Clip(frame_count=30, size_hw=(64, 64), codec="libx265", options=options)
    container, stream, packets = packets_of(clip_file(clip))
    begins = begins_afresh(stream)
    assert begins is not None
    assert [n for n, packet in enumerate(packets) if begins(packet)] == [0, 10, 20]
    container.close()


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    "clip", [Clip(suffix=".webm", codec="libvpx-vp9"), Clip(suffix=".ts", options=X264)]
)
def test_other_streams_cannot_be_told(clip_file, clip):
    container, stream, _ = packets_of(clip_file(clip))
    assert begins_afresh(stream) is None
    container.close()


@pytest.mark.promise(8)
def test_a_segment_decodes_to_its_own_frames(clip_file, tmp_path):
    clip = Clip(frame_count=30, options={**B_FRAMES, "g": "10"}, rotation_deg=180)
    container, stream, packets = packets_of(clip_file(clip))
    with av.open(str(clip_file(clip))) as whole:
        expected = [f.to_ndarray() for f in whole.decode(video=0)][10:20]
    write_segment(packets[10:20], stream, tmp_path / "part.mp4")
    container.close()
    with av.open(str(tmp_path / "part.mp4")) as part:
        frames = list(part.decode(video=0))
    assert [frame.rotation for frame in frames] == [0] * 10
    assert all((a.to_ndarray() == b).all() for a, b in zip(frames, expected, strict=True))


@pytest.mark.promise(8)
@given(st.lists(st.booleans()), st.integers(1, 9))
def test_cutting_loses_nothing_and_cuts_only_where_it_may(entries, at_least):
    runs = list(cut(entries, bool, at_least=at_least))
    assert [entry for run in runs for entry in run] == entries
    assert all(run[0] for run in runs[1:])
    assert all(len(run) >= at_least for run in runs[:-1])


@pytest.mark.promise(8)
def test_large_frames_make_short_segments():
    assert min_frames(3 * 512 * 512) == MIN_FRAMES
    assert min_frames(READ_AHEAD_BYTES) == 1
