"""Seventeen real clips: both readers agree, and an unedited rewrite keeps everything."""

import hashlib
import sys
from dataclasses import replace

import pytest

from tests.clips import sound_packets, video_packets
from tests.shared_data import shared_path
from vidinvert.media import VideoWriter, copy_clip, decode, probe
from vidinvert.types import EncodeSettings

pytestmark = [pytest.mark.shared, pytest.mark.slow]

CLIPS = [
    "expressions_closeup_512.mp4",
    "glasses_512_25fps.mp4",
    "glasses_524_25fps.mp4",
    "halfbody_480x908.mp4",
    "halfbody_720x1364.mp4",
    "hands_640_help.mkv",
    "hands_640_sister.mkv",
    "hevc_1080x1920_hands.mp4",
    "no_face_320.mp4",
    "talk_480_30fps.mp4",
    "talk_480b_30fps.mp4",
    "talk_512_25fps.mp4",
    "talk_512_30fps.mp4",
    "talk_720p_30fps.mp4",
    "talk_720pb_30fps.mp4",
    "two_faces_1030x516.mp4",
    "vfr_700.mp4",
]


def digests(info):
    for batch in decode(info):
        for frame in batch.frames:
            yield hashlib.sha256(frame.tobytes()).digest()


def times(info):
    return [int(pts) * info.time_base for pts in info.pts]


@pytest.mark.parametrize("name", CLIPS)
def test_both_readers_give_the_same_frames(name, monkeypatch):
    info = probe(shared_path(f"data/clips/{name}"))
    expected = list(digests(replace(info, reader="pyav")))
    assert len(expected) == info.frame_count
    if info.reader == "decord":

        def fail(*_args):
            raise AssertionError("PyAV had to take over")

        monkeypatch.setattr(sys.modules["vidinvert.media.decode"], "_frames_by_pyav", fail)
        assert list(digests(info)) == expected


@pytest.mark.parametrize("name", CLIPS)
def test_an_unedited_rewrite_keeps_everything_but_the_coding(name, tmp_path):
    info = probe(shared_path(f"data/clips/{name}"))
    target = tmp_path / name
    with VideoWriter(target, like=info, settings=EncodeSettings(preset="ultrafast")) as writer:
        for batch in decode(info):
            writer.write(batch)
    written = probe(target)
    assert writer.left_out == ()
    assert times(written) == times(info)
    assert sound_packets(target) == sound_packets(info.path)
    for field in ("size_hw", "rotation_deg", "color", "sample_aspect_ratio", "codec"):
        assert getattr(written, field) == getattr(info, field), field
    assert (written.pixel_format, written.frame_rate) == (info.pixel_format, info.frame_rate)


@pytest.mark.parametrize("name", CLIPS)
def test_a_copy_keeps_everything(name, tmp_path):
    info = probe(shared_path(f"data/clips/{name}"))
    copy_clip(info, tmp_path / name)
    copied = probe(tmp_path / name)
    assert times(copied) == times(info)
    assert video_packets(copied.path) == video_packets(info.path)
    assert sound_packets(copied.path) == sound_packets(info.path)
