"""In = out: frames, order, times, shape, colour and sound of clips of every kind, edited.

Every picture carries its own number; a rectangle under it is painted, as a face would be. What is
compared is the file that was written against the file that was read.
"""

import os
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.clips import B_FRAMES, Clip, read_numbers, sound_packets, write_clip
from tests.media.kinds import KINDS, SLOW, rich_clip, trim_by_edit_list
from vidinvert.media import VideoWriter, decode, probe
from vidinvert.types import EncodeSettings

pytestmark = pytest.mark.promise(1)
os.environ.setdefault("SVT_LOG", "1")

WRITTEN = {".mp4", ".mov", ".mkv", ".webm"}
SAME_CODEC = {"h264", "hevc", "vp9", "av1", "prores", "ffv1"}
LOST = {  # and nothing else
    "gif": "transparency (libx264 in yuv444p)",
    "prores 4444": "2 of 12 bits of a sample",  # the decoder's 12 bits, of the 10 that are coded
}
SAME_LANGUAGE = {"deu": "ger"}  # QuickTime's word
PRESETS = {"h264": "ultrafast", "hevc": "ultrafast", "vp9": "8", "av1": "12"}
TINY = Fraction(1, 1_000_000)


def edit(source, target, *, settings=None):
    """Paint a rectangle on every frame and write the clip; returns both and what was left out."""
    info = probe(source)
    if settings is None:
        usual = "8" if target.suffix == ".webm" else "ultrafast"
        settings = EncodeSettings(preset=PRESETS.get(info.codec, usual))
    with VideoWriter(target, like=info, settings=settings) as writer:
        for batch in decode(info, stored=True):
            canvas = batch.canvas.copy()
            canvas[:, 24:44, 12:40] -= canvas[:, 24:44, 12:40] // 8
            writer.write(batch.painted(canvas))
    return info, probe(target), writer.left_out


def output_for(name, suffix, directory):
    return directory / f"out{suffix if suffix in WRITTEN else '.mkv'}"


def shown_at(info):
    return [int(pts) * info.time_base for pts in info.pts]


def numbers(info):
    return [n for batch in decode(info) for n in read_numbers(batch.frames)]


def assert_same_pictures(before, after):
    assert numbers(after) == numbers(before) == list(range(before.frame_count))
    tick = max(before.time_base, after.time_base)
    coarse = 0 if before.time_base % after.time_base == 0 else tick
    moved = 0
    if after.path.suffix == ".mkv" and before.container.startswith("mov"):
        moved = shown_at(after)[0] - shown_at(before)[0]  # it cannot begin before 0 with the sound
    for ours, theirs in zip(shown_at(after), shown_at(before), strict=True):
        assert abs(ours - moved - theirs) <= coarse
    for field in ("size_hw", "coded_size_hw", "rotation_deg", "sample_aspect_ratio", "field_order"):
        assert getattr(after, field) == getattr(before, field), field


def assert_same_colour(before, after):
    if not before.pixel_format.startswith(("bgra", "rgb")):  # RGB has no matrix to keep
        assert after.color.matrix == before.color.matrix
        assert (after.color.range == 2) == (before.color.range == 2)
    assert after.color.primaries == before.color.primaries
    assert after.color.transfer == before.color.transfer
    assert after.hdr == before.hdr


def assert_same_sound(before, after):
    ours, theirs = sound_packets(after.path), sound_packets(before.path)
    assert [p.sha256 for p in ours] == [p.sha256 for p in theirs]
    for track, other in zip(after.audio, before.audio, strict=True):
        assert track.language in (other.language, SAME_LANGUAGE.get(other.language))
    assert [track.channels for track in after.audio] == [t.channels for t in before.audio]
    shifts = [
        abs((a.seconds - shown_at(after)[0]) - (b.seconds - shown_at(before)[0]))
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert max(shifts, default=0) <= Fraction(1, 1000) + TINY


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in KINDS]
)
def test_a_clip_of_any_kind_comes_back_edited_and_otherwise_the_same(clip_file, tmp_path, name):
    source = clip_file(KINDS[name])
    before, after, lost = edit(source, output_for(name, source.suffix, tmp_path))
    assert_same_pictures(before, after)
    assert_same_colour(before, after)
    assert_same_sound(before, after)
    assert lost == ((LOST[name],) if name in LOST else ())
    if before.codec in SAME_CODEC:
        assert after.codec == before.codec
    assert after.bit_depth == before.bit_depth or before.codec == "prores"
    assert [p.name for p in tmp_path.iterdir()] == [after.path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("name", ["vfr", "b-pyramid", "rotated 90", "two tracks", "5.1 aac"])
def test_another_container_changes_nothing_either(clip_file, tmp_path, name, suffix):
    before, after, lost = edit(clip_file(KINDS[name]), tmp_path / f"out{suffix}")
    assert_same_pictures(before, after)
    assert_same_colour(before, after)
    assert_same_sound(before, after)
    assert lost == ()


@pytest.mark.parametrize(("head", "tail"), [(0, 20), (20, 0), (13, 17), (1, 1)])
def test_a_clip_trimmed_by_edit_lists_gives_what_is_shown(tmp_path, head, tail):
    clip = Clip(frame_count=60, options={**B_FRAMES, "g": "10"})
    source = trim_by_edit_list(write_clip(tmp_path, clip), head=head, tail=tail)
    before, after, _ = edit(source, tmp_path / "out.mp4")
    assert numbers(before) == list(range(head, 60 - tail))
    assert numbers(after) == numbers(before)
    assert shown_at(after) == shown_at(before)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_everything_beside_the_pictures_is_carried_over(tmp_path, suffix):
    source = rich_clip(tmp_path, suffix)
    before, after, lost = edit(source, tmp_path / f"out{suffix}")
    assert_same_pictures(before, after)
    assert_same_sound(before, after)
    assert lost == ()
    with av.open(str(source)) as one, av.open(str(after.path)) as other:
        for container in (one, other):
            titles = [c["metadata"].get("title") for c in container.chapters()]
            assert titles == ["Start", "End"]
            assert container.metadata["title"] == "Holiday"
            tags = {key.lower(): value for key, value in container.metadata.items()}
            assert tags["comment"] == "by the lake"
        words = [[bytes(p) for p in c.demux(subtitles=0)] for c in (one, other) if suffix == ".mkv"]
        assert len({tuple(w) for w in words}) <= 1
    assert covers(after.path) == covers(source) != []


def covers(path):
    """The cover pictures of a file, as bytes."""
    with av.open(str(path)) as container:
        found = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        return [bytes(p) for s in found for p in container.demux(s) if p.size]


@pytest.mark.promise(4)
def test_fields_keep_their_order_where_the_codec_knows_it(clip_file, tmp_path):
    for name in ("interlaced top", "interlaced bottom"):
        before, after, _ = edit(clip_file(KINDS[name]), tmp_path / f"{name}.mp4")
        assert after.field_order == before.field_order != "progressive"
    _, after, lost = edit(
        clip_file(KINDS["interlaced top"]),
        tmp_path / "out.mkv",
        settings=EncodeSettings(codec="libx265", preset="ultrafast"),
    )
    assert lost == ("the mark that frames are interlaced",)
    assert after.field_order == "progressive"


@pytest.mark.promise(4)
@pytest.mark.parametrize("name", ["hlg", pytest.param("pq", marks=pytest.mark.slow)])
def test_hdr_keeps_its_tags_or_is_refused_with_the_way_out(clip_file, tmp_path, name):
    from vidinvert.errors import EncodeError

    source = clip_file(KINDS[name])
    plain = EncodeSettings(codec="libx264", pixel_format="yuv420p", preset="ultrafast")
    with pytest.raises(EncodeError, match=r"is an HDR clip .*8 bits, expected 10.*--allow-loss"):
        VideoWriter(tmp_path / "out.mp4", like=probe(source), settings=plain)
    _, after, lost = edit(source, tmp_path / "out.mp4", settings=replace(plain, allow_loss=True))
    assert "2 of 10 bits of a sample" in lost
    assert (after.bit_depth, after.color.transfer) == (8, KINDS[name].transfer)


@pytest.mark.promise(4)
def test_transparency_is_kept_where_the_codec_has_it_and_missed_aloud_elsewhere(
    clip_file, tmp_path
):
    source = clip_file(KINDS["ffv1 alpha"])
    before, after, lost = edit(source, tmp_path / "out.mkv")
    assert (after.pixel_format, lost) == ("yuva420p", ())
    for one, other in zip(decode(before, stored=True), decode(after, stored=True), strict=True):
        for a, b in zip(one.stored, other.stored, strict=True):
            np.testing.assert_array_equal(a.planes[3], b.planes[3])
    _, _, lost = edit(source, tmp_path / "out.mp4")
    assert lost == ("transparency (libx264 in yuv420p)",)


@pytest.mark.promise(5)
def test_a_lossless_codec_shows_that_nothing_else_changed(clip_file, tmp_path):
    before, after, _ = edit(clip_file(KINDS["ffv1"]), tmp_path / "out.mkv")
    for one, other in zip(decode(before, stored=True), decode(after, stored=True), strict=True):
        for a, b in zip(one.stored, other.stored, strict=True):
            for ours, theirs, scale in zip(a.planes, b.planes, (1, 2, 2), strict=True):
                differs = ours != theirs
                differs[24 // scale : 44 // scale, 12 // scale : 40 // scale] = False
                assert not differs.any()
