"""The shipped sample clip is what its script says, and the script draws natural motion."""

from pathlib import Path

import av
import numpy as np

from samples import make_talk

CLIP = Path(make_talk.__file__).with_name("talk.mp4")


def test_the_committed_clip_has_the_promised_size_rate_and_length():
    with av.open(str(CLIP)) as container:
        video = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        assert video.average_rate == make_talk.FRAME_RATE
        assert video.codec_context.name == "h264"
    assert len(frames) == make_talk.FRAME_COUNT == 125
    assert frames[0].shape == (512, 512, 3)
    assert CLIP.stat().st_size <= 1_500_000


def test_the_committed_clip_carries_sound():
    with av.open(str(CLIP)) as container:
        audio = container.streams.audio[0]
        sound = np.concatenate([block.to_ndarray()[0] for block in container.decode(audio)])
    assert audio.codec_context.name == "aac"
    assert len(sound) / make_talk.SAMPLE_RATE > 4.9
    assert np.abs(sound).max() > 0.2


def test_the_committed_clip_shows_the_frames_that_the_script_draws():
    with av.open(str(CLIP)) as container:
        committed = next(container.decode(video=0)).to_ndarray(format="rgb24")
    drawn = make_talk.draw_frame(make_talk.portrait(), 0)
    assert np.abs(committed.astype(np.float64) - drawn).mean() < 4.0


def test_the_mouth_opens_when_the_voice_is_loud():
    seconds = np.arange(make_talk.FRAME_COUNT) / make_talk.FRAME_RATE
    opening = np.array([make_talk.jaw_opening(t) for t in seconds])
    assert np.corrcoef(opening, make_talk.loudness(seconds))[0, 1] > 0.7


def test_the_border_stays_still_while_the_head_moves():
    source = make_talk.portrait()
    first, later = (make_talk.draw_head(source, t) for t in (0.0, 0.8))
    assert np.abs(first - later)[:, :8].max() <= 1.0
    assert np.abs(first - later)[100:300, 150:350].mean() > 2.0
