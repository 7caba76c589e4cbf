"""Finding cuts in a stream of frames."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stabilizers import Interval
from vidinvert.media import ShotDetector, load_shot_library
from vidinvert.types import FrameBatch


def clip(*lengths, size_hw=(54, 96)):
    """Return moving pictures of scenes that differ in colour and pattern, (T, H, W, 3)."""
    y, x = np.mgrid[0 : size_hw[0], 0 : size_hw[1]]
    frames, number = [], 0
    for scene, length in enumerate(lengths):
        base = np.random.default_rng(scene).integers(30, 220, 3)
        for _ in range(length):
            wave = 30 * np.sin((x * (scene + 1) + 3 * number) / 15 + y / 9)
            frames.append(np.clip(base + wave[..., None], 0, 255).astype(np.uint8))
            number += 1
    return np.stack(frames)


def shots(frames, *, batch_size=8, start=0, frame_count=None):
    detector = ShotDetector()
    for first in range(0, len(frames), batch_size):
        part = frames[first : first + batch_size]
        indices = np.arange(first, first + len(part)) + start
        detector.add(FrameBatch(frames=part, indices=indices))
    return detector.shots(frame_count or start + len(frames))


@pytest.mark.promise(6)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_cuts_are_found_at_the_exact_frame(batch_size):
    expected = (Interval(0, 20), Interval(20, 31), Interval(31, 60))
    assert shots(clip(20, 11, 29), batch_size=batch_size) == expected


@pytest.mark.parametrize("at", [3, 4, 26, 27])
def test_a_cut_near_an_end_is_found(at):
    assert shots(clip(at, 30 - at)) == (Interval(0, at), Interval(at, 30))


@pytest.mark.promise(6)
def test_movement_is_no_cut():
    assert shots(clip(60)) == (Interval(0, 60),)


def test_a_fade_of_brightness_is_no_cut():
    frames = clip(60).astype(float) * np.linspace(0.3, 1.0, 60)[:, None, None, None]
    assert shots(frames.astype(np.uint8)) == (Interval(0, 60),)


@pytest.mark.parametrize("light", [0.4, 1.6])
def test_a_sudden_change_of_light_is_no_cut(light):
    texture = np.random.default_rng(5).integers(40, 150, (54, 96, 3)).astype(float)
    frames = np.repeat(texture[None], 40, axis=0)
    frames[20:] = np.clip(frames[20:] * light, 0, 255)
    assert shots(frames.astype(np.uint8)) == (Interval(0, 40),)


def test_frames_that_were_not_seen_have_no_cuts():
    found = shots(clip(20, 20), start=100, frame_count=200)
    assert found == (Interval(0, 120), Interval(120, 200))


def test_no_frames_are_one_shot():
    assert ShotDetector().shots(12) == (Interval(0, 12),)


def test_asking_twice_gives_the_same():
    detector = ShotDetector()
    frames = clip(10, 10)
    detector.add(FrameBatch(frames=frames, indices=np.arange(20)))
    assert detector.shots(20) == detector.shots(20) == (Interval(0, 10), Interval(10, 20))


def test_a_gap_between_frames_is_a_mistake():
    detector = ShotDetector()
    frames = clip(10)
    detector.add(FrameBatch(frames=frames[:4], indices=np.arange(4)))
    with pytest.raises(ValueError, match="frame 5 was given, expected frame 4: add all in order"):
        detector.add(FrameBatch(frames=frames[5:], indices=np.arange(5, 10)))


def test_the_library_is_loaded_once_whoever_asks_first():
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(load_shot_library) for _ in range(2)]
    assert both[0].result() == both[1].result() == load_shot_library()
    assert load_shot_library()[1].__name__ == "AdaptiveDetector"
