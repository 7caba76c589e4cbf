"""Encoding: times, shape, colour and sound kept; whole or not there at all."""

import errno
import os
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

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
    sound_packets,
    video_packets,
    write_clip,
)
from vidinvert.errors import EncodeError
from vidinvert.media import VideoWriter, check_target, copy_clip, decode, probe, targets
from vidinvert.media.codecs import _opens
from vidinvert.types import EncodeSettings, FrameBatch

FAST = EncodeSettings(preset="ultrafast")


def rewrite(source, target, *, settings=FAST, **options):
    """Decode a clip and encode it again, unedited."""
    info = probe(source)
    span = {key: options[key] for key in ("start", "stop") if key in options}
    with VideoWriter(target, like=info, settings=settings, **options) as writer:
        for batch in decode(info, **span):
            writer.write(batch)
    return info, probe(target)


def write_all(writer, source):
    with writer:
        for batch in decode(probe(source)):
            writer.write(batch)


def pictures(info):
    return [frame for batch in decode(info) for frame in batch.frames]


def times(info):
    return [int(pts) * info.time_base for pts in info.pts]


def psnr(ours, theirs):
    error = np.mean((np.asarray(ours, float) - np.asarray(theirs, float)) ** 2)
    return 10 * np.log10(255**2 / error)


def leftovers(directory):
    return [name for name in os.listdir(directory) if name.endswith(".partial")]


@pytest.mark.promise(1)
@pytest.mark.parametrize("name", MATRIX)
def test_an_unedited_clip_comes_back(clip_file, tmp_path, name):
    source = clip_file(MATRIX[name])
    before, after = rewrite(source, tmp_path / f"out{source.suffix}")
    assert times(after) == times(before)
    assert read_numbers(pictures(after)) == list(range(before.frame_count))
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
    assert [track.language for track in after.audio] == [t.language for t in before.audio]
    assert sound_packets(after.path) == sound_packets(before.path)
    assert int(after.durations[-1]) * after.time_base == pytest.approx(
        float(int(before.durations[-1]) * before.time_base), abs=1e-3
    )
    assert psnr(pictures(after), pictures(before)) > 38
    assert leftovers(tmp_path) == []


@pytest.mark.promise(1)
@pytest.mark.parametrize(
    ("settings", "clip", "suffix"),
    [
        (EncodeSettings(codec="libx265", preset="ultrafast"), MATRIX["cfr_25"], ".mp4"),
        (EncodeSettings(codec="libvpx-vp9", preset="8"), MATRIX["cfr_25"], ".mp4"),
        (EncodeSettings(codec="libsvtav1", preset="8"), Clip(size_hw=(64, 96)), ".mkv"),
        (EncodeSettings(crf=30, preset="8"), MATRIX["rotated_90"], ".webm"),
        (EncodeSettings(pixel_format="yuv444p", preset="ultrafast"), MATRIX["bt709"], ".mov"),
        (FAST, Clip(pixel_format="yuv420p10le", options=X264), ".mp4"),
        (FAST, Clip(suffix=".gif", codec="gif", pixel_format="rgb8"), ".mp4"),
        (FAST, Clip(suffix=".ts", options=B_FRAMES), ".mkv"),
        (EncodeSettings(preset="8"), Clip(suffix=".webm", codec="libvpx-vp9"), ".webm"),
    ],
)
def test_other_codecs_and_containers_keep_every_frame(clip_file, tmp_path, settings, clip, suffix):
    before, after = rewrite(clip_file(clip), tmp_path / f"out{suffix}", settings=settings)
    assert read_numbers(pictures(after)) == list(range(before.frame_count))
    assert after.size_hw == before.size_hw
    assert after.rotation_deg == before.rotation_deg
    np.testing.assert_allclose(after.seconds, before.seconds, atol=1e-3)
    assert after.color.matrix == (before.color.matrix if before.color.matrix else 2)
    assert psnr(pictures(after), pictures(before)) > 24


@pytest.mark.promise(4)
def test_ten_bits_stay_ten_bits(clip_file, tmp_path):
    source = clip_file(Clip(pixel_format="yuv420p10le", options=X264))
    _, after = rewrite(source, tmp_path / "out.mp4")
    assert (after.pixel_format, after.bit_depth) == ("yuv420p10le", 10)


@pytest.mark.promise(4)
def test_an_odd_size_is_kept_with_full_colour(clip_file, tmp_path):
    odd = Clip(size_hw=(49, 67), suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8"})
    settings = EncodeSettings(codec="libx264", preset="ultrafast")
    before, after = rewrite(clip_file(odd), tmp_path / "out.mp4", settings=settings)
    assert before.pixel_format == "yuv420p"
    assert (after.size_hw, after.pixel_format) == ((49, 67), "yuv444p")


def test_hevc_in_mp4_carries_the_tag_that_apple_asks_for(clip_file, tmp_path):
    settings = EncodeSettings(codec="libx265", preset="ultrafast")
    _, after = rewrite(clip_file(MATRIX["cfr_25"]), tmp_path / "out.mp4", settings=settings)
    with av.open(str(after.path)) as container:
        assert container.streams.video[0].codec_tag == "hvc1"


@pytest.mark.promise(3)
def test_sound_stays_where_it_was_in_another_container(clip_file, tmp_path):
    source = clip_file(MATRIX["start_offset"])
    before, after = rewrite(source, tmp_path / "out.mkv")
    ours, theirs = sound_packets(after.path), sound_packets(before.path)
    assert [packet.sha256 for packet in ours] == [packet.sha256 for packet in theirs]
    for one, other in zip(ours, theirs, strict=True):
        since_picture = one.seconds - times(after)[0]
        assert abs(since_picture - (other.seconds - times(before)[0])) <= Fraction(1, 1000)


@pytest.mark.promise(3)
@pytest.mark.parametrize(("start", "stop"), [(0, 10), (10, 20), (6, None)])
def test_a_span_takes_its_sound_with_it(clip_file, tmp_path, start, stop):
    source = clip_file(Clip(frame_count=50, options=X264, sounds=(Sound(),)))
    before, after = rewrite(source, tmp_path / "out.mkv", start=start, stop=stop)
    last = before.frame_count if stop is None else stop
    assert read_numbers(pictures(after)) == list(range(start, last))
    expected = [t - times(before)[start] for t in times(before)[start:last]]
    assert [t - times(after)[0] for t in times(after)] == expected
    begin, end = Fraction(start, 25), Fraction(last, 25)
    inside = [
        packet
        for packet in sound_packets(before.path)
        if (start == 0 or packet.seconds >= begin) and (stop is None or packet.seconds < end)
    ]
    ours = sound_packets(after.path)
    assert [packet.sha256 for packet in ours] == [packet.sha256 for packet in inside]
    offset = inside[0].seconds - begin
    assert abs((ours[0].seconds - times(after)[0]) - offset) <= Fraction(1, 1000)


@pytest.mark.promise(20)
def test_the_mark_is_put_in_front_of_a_comment(clip_file, tmp_path):
    source = clip_file(
        Clip(options=X264, metadata={"comment": "by the lake", "title": "Holiday", "artist": "A"})
    )
    rewrite(source, tmp_path / "marked.mp4", comment="Edited with vidinvert 1")
    with av.open(str(tmp_path / "marked.mp4")) as container:
        assert container.metadata["comment"] == "Edited with vidinvert 1\nby the lake"
        assert (container.metadata["title"], container.metadata["artist"]) == ("Holiday", "A")
    plain = replace(FAST, mark=False)
    rewrite(source, tmp_path / "plain.mp4", settings=plain, comment="Edited with vidinvert 1")
    with av.open(str(tmp_path / "plain.mp4")) as container:
        assert container.metadata["comment"] == "by the lake"


@pytest.mark.promise(20)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_the_mark_is_read_again_in_every_container(clip_file, tmp_path, suffix):
    settings = EncodeSettings(preset="8" if suffix == ".webm" else "ultrafast")
    source = clip_file(MATRIX["cfr_25"])
    rewrite(source, tmp_path / f"a{suffix}", settings=settings, comment="Edited with vidinvert 1")
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert tags["comment"] == "Edited with vidinvert 1"


def test_subtitles_and_chapters_are_carried_over(tmp_path):
    source = write_with_subtitles(tmp_path)
    info, after = rewrite(source, tmp_path / "out.mkv")
    assert info.frame_count == after.frame_count
    with av.open(str(after.path)) as container:
        assert [s.metadata.get("language") for s in container.streams.subtitles] == ["fra"]
        texts = [bytes(p) for p in container.demux(subtitles=0) if p.size]
        assert texts == [b"Bonjour"]
        assert [c["metadata"].get("title") for c in container.chapters()] == ["Start"]
    with VideoWriter(tmp_path / "out.mp4", like=info, settings=FAST) as writer:
        assert writer.left_out == ("stream 1 (subtitles, srt)",)
        for batch in decode(info):
            writer.write(batch)


def write_with_subtitles(directory):
    """Add a subtitle track and a chapter to a clip by hand."""
    plain = write_clip(directory, Clip(options=X264), name="plain")
    subtitles = directory / "words.srt"
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,500\nBonjour\n")
    path = directory / "subtitled.mkv"
    with (
        av.open(str(plain)) as clip,
        av.open(str(subtitles)) as words,
        av.open(str(path), "w") as out,
    ):
        video = out.add_stream_from_template(clip.streams.video[0])
        text = out.add_stream_from_template(words.streams.subtitles[0])
        text.metadata["language"] = "fra"
        out.set_chapters(
            [
                {
                    "id": 0,
                    "start": 0,
                    "end": 500,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "Start"},
                }
            ]
        )
        for packet in words.demux():
            if packet.dts is not None:
                packet.stream = text
                out.mux(packet)
        for packet in clip.demux():
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
    return path


@pytest.mark.promise(3)
@pytest.mark.parametrize("name", ["b_frames", "two_tracks", "rotated_270", "start_offset", "mkv"])
def test_a_copy_has_the_same_packets(clip_file, tmp_path, name):
    info = probe(clip_file(MATRIX[name]))
    target = tmp_path / f"copy{info.path.suffix}"
    copy_clip(info, target)
    copied = probe(target)
    assert video_packets(target) == video_packets(info.path)
    assert sound_packets(target) == sound_packets(info.path)
    assert times(copied) == times(info)
    assert (copied.rotation_deg, copied.color) == (info.rotation_deg, info.color)
    assert leftovers(tmp_path) == []


def test_a_copy_into_a_container_that_cannot_hold_it_is_refused(clip_file, tmp_path):
    info = probe(clip_file(MATRIX["cfr_25"]))
    with pytest.raises(EncodeError, match=r"copy\.webm cannot hold h264 pictures, expected"):
        copy_clip(info, tmp_path / "copy.webm")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------ refusals


def make(source, target, **options):
    return VideoWriter(
        target, like=probe(source), settings=options.pop("settings", FAST), **options
    )


@pytest.mark.promise(7)
def test_an_existing_output_needs_permission(clip_file, tmp_path):
    source, target = clip_file(MATRIX["cfr_25"]), tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with pytest.raises(EncodeError, match=r"out\.mp4 exists already, expected a new file"):
        make(source, target)
    rewrite(source, target, overwrite=True)
    assert probe(target).frame_count == 24


@pytest.mark.promise(7)
def test_the_source_is_never_the_output(tmp_path):
    source = write_clip(tmp_path, MATRIX["cfr_25"])
    os.link(source, tmp_path / "link.mp4")
    for target in (source, tmp_path / "link.mp4"):
        with pytest.raises(EncodeError, match="is the source itself, expected another file"):
            make(source, target, overwrite=True)
    assert probe(source).frame_count == 24


def test_places_that_do_not_work_are_refused_before_any_work(clip_file, tmp_path, monkeypatch):
    source = clip_file(MATRIX["cfr_25"])
    like = probe(source)
    with pytest.raises(EncodeError, match="is not a directory, expected the place of the output"):
        make(source, tmp_path / "gone" / "out.mp4")
    (tmp_path / "dir.mp4").mkdir()
    with pytest.raises(EncodeError, match="is a directory, expected a file"):
        check_target(tmp_path / "dir.mp4", like=like)
    with pytest.raises(EncodeError, match=r"ends in '\.xyz', expected one of \.mp4"):
        make(source, tmp_path / "out.xyz")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(EncodeError, match="may not be written to, expected a place"):
        make(source, tmp_path / "out.mp4")


def test_codecs_that_do_not_work_are_refused_before_any_work(clip_file, tmp_path, monkeypatch):
    source = clip_file(MATRIX["cfr_25"])
    with pytest.raises(EncodeError, match="The codec 'divx' is not known, expected one of libx264"):
        make(source, tmp_path / "out.mp4", settings=EncodeSettings(codec="divx"))
    with pytest.raises(EncodeError, match=r"out\.webm cannot hold the output of libx264, expected"):
        make(source, tmp_path / "out.webm", settings=EncodeSettings(codec="libx264"))
    with pytest.raises(EncodeError, match="libx264 cannot write rgb24 at 64x48, expected one of"):
        make(source, tmp_path / "out.mp4", settings=EncodeSettings(pixel_format="rgb24"))
    with pytest.raises(EncodeError, match=r"libx264 does not start with .*expected settings"):
        make(source, tmp_path / "out.mp4", settings=EncodeSettings(preset="warp"))
    monkeypatch.setattr("vidinvert.media.codecs.has_encoder", lambda _name: False)
    with pytest.raises(EncodeError, match="The encoder libx264 is missing from this build"):
        make(source, tmp_path / "out.mp4", settings=EncodeSettings(codec="libx264"))
    assert os.listdir(tmp_path) == []


def test_an_odd_size_with_halved_colour_is_refused(clip_file, tmp_path):
    source = clip_file(MATRIX["odd_size"])
    with pytest.raises(EncodeError, match=r"cannot write yuv420p at 67x49, expected .*444"):
        make(source, tmp_path / "out.mp4", settings=EncodeSettings(pixel_format="yuv420p"))


@pytest.mark.promise(3)
@pytest.mark.parametrize(
    ("sound", "suffix"), [("pcm_s16le", ".mp4"), ("aac", ".webm"), ("pcm_s16le", ".webm")]
)
def test_sound_that_does_not_fit_the_container_is_refused(clip_file, tmp_path, sound, suffix):
    source = clip_file(Clip(suffix=".mov", options=X264, sounds=(Sound(codec=sound),)))
    message = rf"The sound of the source is {sound}, which does not fit into out\{suffix}, expected"
    with pytest.raises(EncodeError, match=message):
        make(source, tmp_path / f"out{suffix}")


def test_a_span_outside_the_clip_is_a_mistake(clip_file, tmp_path):
    with pytest.raises(ValueError, match=r"frames \[5, 5\) are to be written, expected a span"):
        make(clip_file(MATRIX["cfr_25"]), tmp_path / "out.mp4", start=5, stop=5)


# ------------------------------------------------------------------------------------ failures


def test_frames_out_of_order_or_of_another_size_are_mistakes(clip_file, tmp_path):
    source = clip_file(MATRIX["cfr_25"])
    info = probe(source)
    first, second, *_ = decode(info)
    with (
        pytest.raises(ValueError, match=r"frames \[8, .* were given, expected consecutive ones"),
        make(source, tmp_path / "a.mp4") as writer,
    ):
        writer.write(second)
    small = FrameBatch(frames=first.frames[:, :32, :32], indices=first.indices)
    with (
        pytest.raises(ValueError, match=r"frames of \(32, 32\) were given, expected \(48, 64\)"),
        make(source, tmp_path / "b.mp4") as writer,
    ):
        writer.write(small)
    assert os.listdir(tmp_path) == []


@pytest.mark.promise(7)
def test_missing_frames_leave_nothing(clip_file, tmp_path):
    source = clip_file(MATRIX["sound"])
    with (
        pytest.raises(EncodeError, match=r"got frames up to 7, expected all up to 23"),
        make(source, tmp_path / "out.mp4") as writer,
    ):
        writer.write(next(decode(probe(source), batch_size=8)))
    assert os.listdir(tmp_path) == []


@pytest.mark.promise(7)
@pytest.mark.parametrize("stop_with", [KeyboardInterrupt, RuntimeError])
def test_an_exception_leaves_nothing_and_passes(clip_file, tmp_path, stop_with):
    source = clip_file(MATRIX["sound"])

    def write_and_stop():
        with make(source, tmp_path / "out.mp4") as writer:
            writer.write(next(decode(probe(source), batch_size=8)))
            raise stop_with

    with pytest.raises(stop_with):
        write_and_stop()
    assert os.listdir(tmp_path) == []


def test_an_encoder_that_swallows_frames_is_an_error(clip_file, tmp_path, monkeypatch):
    source = clip_file(MATRIX["cfr_25"])
    writer = make(source, tmp_path / "out.mp4")
    monkeypatch.setattr(writer, "_encode", lambda _picture: None)
    with pytest.raises(EncodeError, match="libx264 gave 0 pictures for 24 frames"):
        write_all(writer, source)
    assert os.listdir(tmp_path) == []


@pytest.mark.promise(7)
def test_every_failure_of_the_disc_leaves_the_old_file(clip_file, tmp_path, monkeypatch):
    """Let the Nth call to the file system fail, for N = 1, 2, ... until none is left to fail."""
    source, target = clip_file(MATRIX["sound"]), tmp_path / "out.mp4"
    calls = {"left": 0}

    def failing(original):
        def call(*args, **options):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **options)

        return call

    faulty = {name: failing(getattr(os, name)) for name in ("open", "fsync", "replace")}
    monkeypatch.setattr(targets, "os", SimpleNamespace(**{**vars(os), **faulty}))
    target.write_bytes(b"old")
    messages = []
    while True:
        calls["left"] = len(messages) + 1
        try:
            rewrite(source, target, overwrite=True)
        except EncodeError as error:
            messages.append(str(error))
            assert target.read_bytes() == b"old"
            assert leftovers(tmp_path) == []
        else:
            break
        finally:
            calls["left"] = -1
    assert len(messages) == 5  # create on trial, create, open for fsync, fsync, replace
    assert all("could not be written (No space left on device)" in text for text in messages)


@pytest.mark.promise(7)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disc_is_an_error(clip_file, tmp_path, monkeypatch):
    source = clip_file(MATRIX["sound"])
    writer = make(source, tmp_path / "out.mp4")
    full = SimpleNamespace(
        open=lambda _path, mode, **options: av.open("file:/dev/full", mode, **options),
        error=av.error,
    )
    monkeypatch.setattr("vidinvert.media.encode.av", full)
    with pytest.raises(EncodeError, match=r"could not be written .*No space left"):
        write_all(writer, source)
    assert os.listdir(tmp_path) == []


@pytest.mark.promise(15)
def test_odd_names_can_be_written(clip_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = clip_file(MATRIX["cfr_25"])
    longest = "n" * 251 + ".mp4"
    for name in (
        "-dash.mp4",
        "a:b.mp4",
        "a b\nc.mp4",
        "ümläut.mp4",
        os.fsdecode(b"\xe9.mp4"),
        longest,
    ):
        copy_clip(probe(source), name)
        assert probe(name).frame_count == 24
    with pytest.raises(EncodeError, match="could not be written"):
        copy_clip(probe(source), "n" * 260 + ".mp4")
    assert leftovers(tmp_path) == []


def test_permissions_follow_the_umask(clip_file, tmp_path):
    old = os.umask(0o022)
    try:
        copy_clip(probe(clip_file(MATRIX["cfr_25"])), tmp_path / "out.mp4")
    finally:
        os.umask(old)
    assert (tmp_path / "out.mp4").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(_opens("h264_nvenc"), reason="an NVIDIA GPU is here")
def test_a_hardware_encoder_without_its_device_is_refused_before_any_work(clip_file, tmp_path):
    source = clip_file(MATRIX["cfr_25"])
    for name in ("h264_nvenc", "hevc_nvenc", "av1_nvenc"):
        with pytest.raises(EncodeError, match=f"{name} finds no device that it can use"):
            make(source, tmp_path / "out.mp4", settings=EncodeSettings(codec=name))
    assert os.listdir(tmp_path) == []
