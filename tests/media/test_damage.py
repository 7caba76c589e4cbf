"""Damaged files: found by all signs together, refused, or on request the whole frames kept."""

from dataclasses import replace

import av
import numpy as np
import pytest

from tests.clips import (
    X264,
    Clip,
    Sound,
    damaged,
    read_numbers,
    sound_packets,
    truncated,
    write_clip,
)
from tests.media.kinds import KINDS
from vidinvert.errors import DecodeError, OpenError
from vidinvert.media import VideoWriter, decode, probe
from vidinvert.media.holes import hole_test
from vidinvert.types import EncodeSettings

pytestmark = pytest.mark.promise(2)

CONTAINERS = (
    "h264 mkv", "faststart", "fragmented", "h264 ts", "hevc", "vp9", "mpeg4 avi", "mpeg2 ts",
    "ffv1", "prores", "mjpeg", "flv", "av1",
)  # fmt: skip
FRAMES = 48
FRONT = {key: {"movflags": "faststart"} for key in (".mp4", ".mov")}  # the index is at the front
SEEDS = range(8)


@pytest.fixture(scope="module")
def whole(clip_file):
    """Return the bytes, the suffix and the pictures of a clip of a kind."""
    known = {}

    def find(name):
        if name not in known:
            clip = replace(
                KINDS[name],
                frame_count=FRAMES,
                container_options=KINDS[name].container_options
                or FRONT.get(KINDS[name].suffix, {}),
                ticks=None if KINDS[name].ticks is None else tuple(range(0, 40 * FRAMES, 40)),
            )
            path = clip_file(clip)
            known[name] = (path.read_bytes(), path.suffix, pictures(probe(path)))
        return known[name]

    return find


def pictures(info):
    return [frame for batch in decode(info) for frame in batch.frames]


def spoil(content, kind, seed):
    """Damage a file's bytes, its head left alone, where a bit makes another valid file."""
    rng = np.random.default_rng([seed, len(content)])
    data, size = bytearray(content), len(content)
    place = int(rng.integers(size // 10, size * 9 // 10))
    if kind == "cut off":
        del data[place:]
    elif kind == "holed":
        del data[place : place + int(rng.integers(1, size // 8))]
    elif kind == "zeroed":
        place = max(place, size // 3)
        length = min(size - place, int(rng.integers(8, max(9, size // 10))))
        data[place : place + length] = bytes(length)
    else:
        for spot in rng.integers(size // 3, size, 20):
            data[spot] ^= 1 << int(rng.integers(8))
    return bytes(data)


@pytest.mark.parametrize("kind", ["cut off", "holed"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_that_lacks_a_piece_is_refused(whole, tmp_path, name, kind):
    content, suffix, _ = whole(name)
    for seed in SEEDS:
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes(spoil(content, kind, seed))
        with pytest.raises((OpenError, DecodeError), match=r"expected .*; "):
            pictures(probe(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zeroed", "flipped"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_with_wrong_bytes_is_refused_or_has_all_its_frames(whole, tmp_path, name, kind):
    """A bit within a picture may only spoil that picture: no codec here but FFV1 has a checksum."""
    content, suffix, _ = whole(name)
    for seed in range(20):
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes(spoil(content, kind, seed))
        try:
            count = len(pictures(probe(path)))
        except (OpenError, DecodeError):
            continue
        assert count == FRAMES, seed


@pytest.mark.parametrize("kind", ["cut off", "holed"])
@pytest.mark.parametrize("name", ["h264 mkv", "fragmented", "h264 ts", "mjpeg", "vp9"])
def test_what_is_whole_is_salvaged_in_order_and_the_rest_counted(whole, tmp_path, name, kind):
    content, suffix, expected = whole(name)
    exact = total = 0
    for seed in SEEDS:
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes(spoil(content, kind, seed))
        try:
            info = probe(path, salvage=True)
        except (OpenError, DecodeError):
            continue  # its index or its only key frame is gone
        assert info.salvage is not None
        assert info.salvage.reasons
        frames = pictures(info)
        assert len(frames) == info.frame_count < FRAMES
        assert (np.diff(info.pts) > 0).all()
        numbers = read_numbers(frames)
        exact += sum(
            number < FRAMES and np.array_equal(frame, expected[number])
            for frame, number in zip(frames, numbers, strict=True)
        )
        total += len(frames)
    assert total > 2 * FRAMES
    assert exact >= 0.98 * total  # without a checksum a wrong picture can pass for a right one


def test_a_damaged_packet_costs_the_frames_up_to_the_next_key_frame(clip_file, tmp_path):
    clip = Clip(frame_count=40, options={**X264, "g": "10"}, sounds=(Sound(),))
    path = damaged(write_clip(tmp_path, clip), packet=13)
    with pytest.raises(DecodeError, match=r"damaged at .*frame 13.*--salvage"):
        pictures(probe(path))
    info = probe(path, salvage=True)
    assert info.salvage is not None
    assert read_numbers(pictures(info)) == [*range(13), *range(20, 40)]
    assert info.salvage.lost_frames == 7
    assert "marks as damaged" in " ".join(info.salvage.reasons)
    target = tmp_path / "out.mp4"
    settings = EncodeSettings(preset="ultrafast")
    with VideoWriter(target, like=info, settings=settings) as writer:
        for batch in decode(info, stored=True):
            writer.write(batch)
    after = probe(target)
    assert read_numbers(pictures(after)) == [*range(13), *range(20, 40)]
    assert after.seconds.tolist() == info.seconds.tolist()  # the sound stays beside its pictures
    assert sound_packets(target) == sound_packets(path)


def packet_places(path):
    """Where each packet of pictures lies in a file: its first byte and its length."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("name", ["faststart", "h264 mkv", "hevc", "fragmented", "flv"])
def test_a_hole_of_zeros_in_a_picture_is_found_whatever_the_decoder_makes_of_it(
    whole, tmp_path, name
):
    """Without this sign FFmpeg decodes some of these without a word, and shows smear."""
    content, suffix, _ = whole(name)
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(content)
    places = [(place, size) for place, size in packet_places(path) if size > 120]
    assert len(places) > 3
    for place, size in places:
        data = bytearray(content)
        data[place + size - 56 : place + size - 32] = bytes(24)  # a first packet begins with words
        path.write_bytes(data)
        with pytest.raises(DecodeError, match=r"damaged at .*expected every frame to decode"):
            probe(path)
        try:
            info = probe(path, salvage=True)
        except DecodeError:  # its only key frame
            continue
        assert info.salvage is not None
        assert info.salvage.reasons


@pytest.mark.parametrize(
    ("units", "holed"),
    [
        (b"\0\0\0\x05\x41abcd", False),
        (b"\0\0\0\x14\x41abc" + bytes(8) + b"abcdefgh", True),
        (b"\0\0\0\x14\x41abc" + bytes(7) + b"abcdefghi", False),
        (b"\0\0\0\x14\x41abc" + bytes(16), False),  # zeros behind a slice are padding
        (b"\0\0\0\x14\x06abc" + bytes(8) + b"abcdefgh", False),  # no slice: a message
        (b"\0\0\0\x05\x41abcd" + bytes(12), False),  # padding behind the last unit
        (b"\0\0\0\x05\x41abcd" + bytes(12) + b"x", True),  # over the next unit's length
        (bytes(20), True),
        (bytes(9) + b"\x41abcd", True),
    ],
)
def test_holes_are_told_from_padding(clip_file, units, holed):
    with av.open(str(clip_file(Clip(options=X264)))) as container:
        test = hole_test(container.streams.video[0])
    assert test is not None
    assert test(av.Packet(units)) is holed


@pytest.mark.parametrize("name", ["h264 ts", "vp9", "mjpeg"])
def test_where_zeros_may_stand_there_is_no_test_for_them(clip_file, name):
    with av.open(str(clip_file(KINDS[name]))) as container:
        assert hole_test(container.streams.video[0]) is None


def test_pictures_that_only_the_index_knows_are_counted_as_lost(tmp_path):
    clip = Clip(frame_count=60, options={**X264, "g": "10"}, container_options=FRONT[".mp4"])
    path = truncated(write_clip(tmp_path, clip))
    info = probe(path, salvage=True)
    assert info.salvage is not None
    assert 0 < info.frame_count < 60
    assert info.salvage.lost_frames == 60 - info.frame_count


def test_a_whole_clip_has_nothing_to_salvage(clip_file):
    for name in ("h264 mkv", "vp9", "fragmented", "interlaced top", "mpeg4 packed"):
        info = probe(clip_file(KINDS[name]), salvage=True)
        assert info.salvage is None, name
        assert info.frame_count == KINDS[name].frame_count


def test_a_clip_without_a_whole_frame_is_refused(tmp_path):
    clip = Clip(frame_count=10, options={**X264, "g": "10"})
    path = damaged(write_clip(tmp_path, clip), packet=0)
    with pytest.raises(DecodeError, match="holds no frame that is whole, expected one at least"):
        probe(path, salvage=True)


def test_an_index_that_names_other_places_is_found(clip_file, tmp_path):
    """MP4: the offsets of the chunks moved by some bytes; nothing else is wrong."""
    content = bytearray(clip_file(KINDS["faststart"]).read_bytes())
    place = content.index(b"stco") + 12
    for moved in (1, 7, 200):
        other = bytearray(content)
        offset = int.from_bytes(other[place : place + 4], "big") + moved
        other[place : place + 4] = offset.to_bytes(4, "big")
        path = tmp_path / f"{moved}.mp4"
        path.write_bytes(other)
        with pytest.raises((OpenError, DecodeError), match=r"expected .*; "):
            pictures(probe(path))


def test_times_that_were_overwritten_are_found(clip_file, tmp_path):
    """MP4: all pictures are said to be shown at one time; a reader would make its own times."""
    content = bytearray(clip_file(Clip(size_hw=(64, 64), frame_count=24, codec="libx265", options={
        "preset": "ultrafast", "x265-params": "log-level=none"})).read_bytes())  # fmt: skip
    place = content.index(b"ctts") + 12
    entry = content[place : place + 8]
    assert len(entry) == 8
    content[place + 4 : place + 8] = (1 << 20).to_bytes(4, "big")
    path = tmp_path / "times.mp4"
    path.write_bytes(content)
    try:
        info = probe(path)
    except (OpenError, DecodeError):
        return
    assert info.frame_count == 24
    assert sorted(read_numbers(pictures(info))) == list(range(24))
