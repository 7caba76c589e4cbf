"""`vidinvert edit` ends well on every real clip: frames, times and sound are the source's."""

import av
import pytest

import vidinvert
from tests.mini import mini
from tests.shared_data import SHARED, shared_path
from vidinvert.errors import NoFaceError
from vidinvert.types import EncodeSettings, Plans

CLIPS = sorted(path.name for path in (SHARED / "data" / "clips").glob("*.m[pk][4v]"))


def times_and_sound(path):
    """Return the frames' times in seconds, and every sound packet's track and content."""
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        tracks = container.streams.audio
        packets = container.demux(*tracks) if tracks else ()  # demux() alone means every stream
        sound = [(packet.stream.index, bytes(packet)) for packet in packets if packet.size]
    return times, sound


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", CLIPS or ["the shared clips"])
def test_a_real_clip_is_edited_and_keeps_its_times_and_sound(name, tmp_path):
    source = shared_path(f"data/clips/{name}")
    target = tmp_path / f"edited{source.suffix}"
    if name.startswith("no_face"):
        with pytest.raises(NoFaceError, match="No face found"):
            vidinvert.edit_video(source, target, edits="smile=2", pack=mini())
        assert list(tmp_path.iterdir()) == []
        vidinvert.edit_video(source, target, edits="smile=2", pack=mini(), allow_no_face=True)
        assert times_and_sound(target) == times_and_sound(source)
        return
    plans = Plans(encode=EncodeSettings(preset="ultrafast"))
    report = vidinvert.edit_video(source, target, edits="smile=2", pack=mini(), plans=plans)
    assert times_and_sound(target) == times_and_sound(source)
    frames = report["frames"]
    assert max(track["frames"] for track in report["tracks"]) >= 0.95 * frames
