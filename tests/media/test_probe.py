"""Probing: what a clip is, and what is refused."""

import os
import socket
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import (
    B_FRAMES,
    MATRIX,
    X264,
    Clip,
    Sound,
    read_numbers,
    trimmed_by_edit_list,
    truncated,
    write_clip,
)
from vidinvert.errors import DecodeError, OpenError
from vidinvert.media import decode, index, probe, segments
from vidinvert.types import AudioStream, ColorSpec


@pytest.mark.parametrize("name", MATRIX)
def test_times_and_shape_are_those_that_were_written(tmp_path, name):
    clip = MATRIX[name]
    info = probe(write_clip(tmp_path, clip))
    assert [int(pts) * info.time_base for pts in info.pts] == [t * clip.time_base for t in clip.pts]
    assert info.size_hw == clip.size_hw
    assert info.rotation_deg == clip.rotation_deg
    assert info.sample_aspect_ratio == (clip.sample_aspect or 1)
    assert len(info.audio) == len(clip.sounds)
    assert info.path.is_absolute()


def test_a_turned_clip_is_stored_lying(clip_file):
    info = probe(clip_file(MATRIX["rotated_90"]))
    assert (info.size_hw, info.coded_size_hw) == ((96, 112), (112, 96))


def test_colour_tags_are_read(clip_file):
    assert probe(clip_file(MATRIX["bt709"])).color.matrix == 1
    full = probe(clip_file(MATRIX["full_range"]))
    assert (full.color.range, full.pixel_format) == (2, "yuvj420p")
    assert probe(clip_file(MATRIX["cfr_25"])).color == ColorSpec()


def test_sound_tracks_are_listed_with_their_languages(clip_file):
    info = probe(clip_file(MATRIX["two_tracks"]))
    assert [track.language for track in info.audio] == ["eng", "deu"]
    assert info.audio[0] == AudioStream(
        index=1, codec="aac", sample_rate=16000, channels=1, language="eng"
    )


def test_the_average_rate_of_a_variable_clip_is_an_average(clip_file):
    info = probe(clip_file(MATRIX["vfr"]))
    spanned = int(info.pts[-1] + info.durations[-1] - info.pts[0]) * info.time_base
    assert float(info.frame_rate) == pytest.approx(float(info.frame_count / spanned), rel=0.05)


OTHER_CONTAINERS = {
    "transport stream": (Clip(suffix=".ts", options=B_FRAMES), "the container is mpegts"),
    "fragmented": (
        Clip(options=X264, container_options={"movflags": "frag_keyframe+empty_moov"}),
        "the header counts 0 frames",
    ),
    "raw stream": (Clip(suffix=".h264", options=B_FRAMES), "the container is h264"),
    "avi": (Clip(suffix=".avi", codec="mpeg4"), "the container is avi"),
    "gif": (Clip(suffix=".gif", codec="gif", pixel_format="rgb8"), "the container is gif"),
    "vp9": (
        Clip(suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8"}),
        "the codec is vp9",
    ),
    "ten bits": (Clip(pixel_format="yuv420p10le", options=X264), "the pixel format is yuv420p10le"),
    "interlaced": (Clip(options={**X264, "flags": "+ildct+ilme"}), "the frames are interlaced"),
}


@pytest.mark.parametrize("name", OTHER_CONTAINERS)
def test_unusual_clips_are_counted_by_decoding_and_left_to_pyav(tmp_path, name):
    clip, reason = OTHER_CONTAINERS[name]
    info = probe(write_clip(tmp_path, clip))
    assert info.frame_count == clip.frame_count
    assert info.reader == "pyav"
    assert reason in info.reader_reason
    assert np.allclose(np.diff(info.seconds), 0.04, atol=2e-3)


def test_a_raw_stream_without_times_is_evenly_spaced(clip_file):
    info = probe(clip_file(OTHER_CONTAINERS["raw stream"][0]))
    assert info.frame_rate == 25
    np.testing.assert_allclose(info.seconds, np.arange(24) / 25)


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path):
    clip = Clip(frame_count=60, options={**B_FRAMES, "g": "10"})
    path = trimmed_by_edit_list(write_clip(tmp_path, clip))
    info = probe(path)
    assert 30 <= info.frame_count < 36
    assert info.reader == "pyav"


def test_an_ordinary_clip_is_left_to_decord(clip_file):
    pytest.importorskip("decord")
    info = probe(clip_file(MATRIX["b_frames"]))
    assert (info.reader, info.reader_reason) == (
        "decord",
        "decord reads: the clip passed the preflight.",
    )


def test_without_decord_pyav_reads(clip_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    info = probe(clip_file(MATRIX["cfr_25"]))
    assert info.reader == "pyav"
    assert "decord is not installed" in info.reader_reason


def test_key_frames_too_far_apart_for_memory_leave_a_clip_to_pyav(tmp_path, monkeypatch):
    path = write_clip(tmp_path, Clip(options={**X264, "g": "12"}))
    frame_bytes = 3 * 48 * 64
    for module in (segments, sys.modules["vidinvert.media.probe"]):
        monkeypatch.setattr(module, "READ_AHEAD_BYTES", 12 * frame_bytes)
    if probe(path).reader != "decord":
        pytest.skip("decord is not installed")
    for module in (segments, sys.modules["vidinvert.media.probe"]):
        monkeypatch.setattr(module, "READ_AHEAD_BYTES", 11 * frame_bytes)
    info = probe(path)
    assert info.reader == "pyav"
    assert "IDR pictures are up to 12 frames apart" in info.reader_reason


def test_a_width_that_decord_mistakes_is_left_to_pyav(tmp_path):
    info = probe(write_clip(tmp_path, Clip(size_hw=(64, 48), options=X264)))
    assert (info.reader, info.reader_reason[-35:]) == (
        "pyav",
        "decord mistakes frames this narrow.",
    )


@pytest.mark.promise(15)
def test_a_relative_name_with_odd_characters_opens(clip_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = clip_file(MATRIX["cfr_25"])
    for name in ("-dash.mp4", "http:colon.mp4", "a b\nc.mp4", "ümläut.mp4", "100%d.mp4"):
        os.link(clip, tmp_path / name)
        assert probe(name).frame_count == 24
    latin = os.fsdecode(b"caf\xe9.mp4")
    os.link(clip, tmp_path / latin)
    assert probe(latin).frame_count == 24


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(OpenError, match=r"gone\.mp4 does not exist, expected a video; check"):
        probe(tmp_path / "gone.mp4")


@pytest.mark.promise(13)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.mp4", "concat:a|b", "subfile,,start,0:a"])
def test_a_url_is_refused_without_a_connection(url, monkeypatch):
    def refuse(*_args):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(OpenError, match="is a URL, expected the path of a file"):
        probe(url)


@pytest.mark.promise(15)
def test_a_name_that_cannot_be_looked_up_is_refused(tmp_path):
    with pytest.raises(OpenError, match="cannot be looked up"):
        probe(tmp_path / ("x" * 300))


@pytest.mark.promise(11)
def test_a_directory_is_refused(tmp_path):
    with pytest.raises(OpenError, match="is a directory, expected a regular video file"):
        probe(tmp_path)


@pytest.mark.promise(11)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OpenError, match="is a named pipe, expected"):
        probe(tmp_path / "pipe.mp4")
    with pytest.raises(OpenError, match="is a device, expected"):
        probe(os.devnull)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.mp4", b"This is not a video. " * 50),
        ("empty.mp4", b""),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("call.sdp", b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
        ("cat.mp4", b"ffconcat version 1.0\nfile clip.mp4\n"),
    ],
)
def test_what_is_no_video_is_refused(clip_file, tmp_path, name, content):
    clip_file(MATRIX["cfr_25"])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OpenError, match="cannot be read as a video"):
        probe(tmp_path / name)


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        track = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with pytest.raises(OpenError, match="has no video stream, expected moving pictures"):
        probe(tmp_path / "sound.mp4")


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
        container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
    with pytest.raises(OpenError, match="has only a still cover picture, expected moving"):
        probe(path)


@pytest.mark.promise(12)
def test_frames_that_are_too_large_are_refused(clip_file):
    path = clip_file(MATRIX["cfr_25"])
    with pytest.raises(OpenError, match=r"(frames of 64x48|more than 3000 pixels)"):
        probe(path, max_pixels=3000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".ts"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    clip = Clip(
        frame_count=100,
        suffix=suffix,
        codec={".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264"),
        options={"cpu-used": "8"} if suffix == ".webm" else {"g": "10"},
        container_options={"movflags": "faststart"} if suffix == ".mp4" else {},
    )
    path = write_clip(tmp_path, clip)
    assert probe(path).frame_count == 100
    with pytest.raises(DecodeError, match=r"damaged at .*expected every frame to decode"):
        probe(truncated(path))


def test_an_mp4_cut_off_before_its_index_is_refused(clip_file):
    with pytest.raises(OpenError, match="cannot be read as a video"):
        probe(truncated(clip_file(MATRIX["cfr_25"])))


def without_segment_size(path):
    """Write a Matroska file beside `path` that does not say how long it is, as recorders do."""
    content = bytearray(path.read_bytes())
    place = content.index(bytes.fromhex("18538067")) + 4
    assert content[place] == 0x01, "expected a size of eight bytes"
    content[place + 1 : place + 8] = b"\xff" * 7
    target = path.with_name(f"unsized{path.suffix}")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("sounds", [(), (Sound(codec="libopus", rate=48000),)])
def test_a_matroska_that_ends_before_its_announced_time_is_refused(tmp_path, sounds):
    clip = Clip(frame_count=100, suffix=".mkv", options={**X264, "g": "10"}, sounds=sounds)
    path = without_segment_size(write_clip(tmp_path, clip))
    assert probe(path).frame_count == 100
    with pytest.raises(DecodeError, match=r"it announces 4\.\d\d s and stops at [23]\.\d\d s"):
        probe(truncated(path))


def test_an_index_that_points_behind_the_end_is_refused(tmp_path):
    clip = Clip(frame_count=60, options=X264, container_options={"movflags": "faststart"})
    path = truncated(write_clip(tmp_path, clip))
    content = bytearray(path.read_bytes())
    media = content.rindex(b"mdat") - 4
    content[media : media + 4] = (len(content) - media).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"damaged at .*packet \d+, expected"):
        probe(path)


def test_a_stream_without_packets_is_refused(clip_file, monkeypatch):
    monkeypatch.setattr(index, "video_packets", lambda *_: iter(()))
    with pytest.raises(OpenError, match="holds no video packet, expected at least one"):
        probe(clip_file(MATRIX["cfr_25"]))


def test_a_stream_that_decodes_to_nothing_is_refused(clip_file, monkeypatch):
    monkeypatch.setattr(sys.modules["vidinvert.media.probe"], "decoded_frames", lambda *_: iter(()))
    with pytest.raises(OpenError, match="decodes to no frame, expected at least one"):
        probe(clip_file(MATRIX["cfr_25"]))


def test_times_come_from_the_stream_and_not_from_its_rate(clip_file):
    info = probe(clip_file(MATRIX["start_offset"]))
    assert int(info.pts[0]) * info.time_base == Fraction(20, 25)
    assert info.seconds[0] == 0.0


@pytest.mark.promise(1)
def test_pictures_that_begin_long_after_the_sound_are_found(tmp_path):
    clip = Clip(
        frame_count=6,
        suffix=".mkv",
        time_base=Fraction(1, 1000),
        ticks=tuple(range(20_000, 20_240, 40)),
        sounds=(Sound(),),
    )
    info = probe(write_clip(tmp_path, clip))
    assert (info.pixel_format, info.frame_count, int(info.pts[0])) == ("yuv420p", 6, 20_000)
    assert read_numbers([frame for batch in decode(info) for frame in batch.frames]) == [*range(6)]
