"""Walking a container's own boxes."""

import pytest

from tests.clips import B_FRAMES, MATRIX, X264, Clip
from vidinvert.errors import DecodeError
from vidinvert.media import probe
from vidinvert.media.structure import Break, find_break

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
FRAGMENTED = Clip(
    options={**B_FRAMES, "g": "6"}, container_options={"movflags": "frag_keyframe+empty_moov"}
)
WHOLE = {
    MOV: [MATRIX["cfr_25"], MATRIX["mov_pcm"], FRAGMENTED],
    MATROSKA: [
        MATRIX["mkv"],
        Clip(suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8"}),
        Clip(suffix=".mkv", options=X264, container_options={"live": "1"}),
    ],
    "mpegts": [Clip(suffix=".ts", options=X264)],
    "avi": [Clip(suffix=".avi", codec="mpeg4")],
}


@pytest.mark.parametrize(
    ("container", "clip"), [(name, clip) for name, clips in WHOLE.items() for clip in clips]
)
def test_whole_files_hold_together(clip_file, container, clip):
    path = clip_file(clip)
    assert find_break(path, container) is None
    assert probe(path).frame_count == clip.frame_count


@pytest.mark.parametrize("missing", [1, 40, 900])
@pytest.mark.parametrize("clip", [FRAGMENTED, MATRIX["mkv"]])
def test_bytes_that_are_missing_in_the_middle_show(clip_file, tmp_path, clip, missing):
    content = clip_file(clip).read_bytes()
    middle = len(content) // 2
    path = tmp_path / f"holed{clip.suffix}"
    path.write_bytes(content[:middle] + content[middle + missing :])
    # What slid into the place of a picture may hold zeros, which are seen first.
    with pytest.raises(DecodeError, match=r"is damaged at (byte|packet) \d+, |its end, "):
        probe(path)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", [MOV, MATROSKA, "mpegts"])
def test_a_file_that_was_cut_off_is_short(clip_file, tmp_path, name, share):
    clip = FRAGMENTED if name == MOV else WHOLE[name][0]
    content = clip_file(clip).read_bytes()
    length = int(len(content) * share)
    path = tmp_path / f"short{clip.suffix}"
    path.write_bytes(content[: length + (length % 188 == 0)])
    broken = find_break(path, name)
    assert broken is not None
    assert broken.where.startswith(("its end, ", "byte "))
    assert 0 < broken.position <= path.stat().st_size


def test_an_overwritten_part_shows(clip_file, tmp_path):
    content = bytearray(clip_file(MATRIX["mkv"]).read_bytes())
    cluster = content.index(bytes.fromhex("1f43b675"))
    content[cluster : cluster + 4] = b"\x00\x00\x00\x00"
    path = tmp_path / "overwritten.mkv"
    path.write_bytes(content)
    broken = find_break(path, MATROSKA)
    assert broken == Break(where=f"byte {cluster}, where a part should begin", position=cluster)


def test_what_a_camera_appends_is_no_damage(clip_file, tmp_path):
    path = tmp_path / "trailer.mp4"
    path.write_bytes(clip_file(MATRIX["cfr_25"]).read_bytes() + b"\xff\xfe serial 42 " * 9)
    assert find_break(path, MOV) is None
    assert probe(path).frame_count == 24


def test_a_box_as_long_as_the_file_is_whole(tmp_path):
    path = tmp_path / "open.mp4"
    path.write_bytes(b"\x00\x00\x00\x00mdat" + bytes(20))
    assert find_break(path, MOV) is None
    path.write_bytes(b"\x00\x00\x00\x01mdat" + (40).to_bytes(8, "big") + bytes(24))
    assert find_break(path, MOV) is None
    path.write_bytes(b"\x00\x00\x00\x01mdat" + (44).to_bytes(8, "big") + bytes(24))
    assert find_break(path, MOV) == Break(where="its end, 4 bytes short", position=40)
