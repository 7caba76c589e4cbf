"""Find the cuts of a clip while its frames pass by."""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stabilizers import Interval
from vidinvert.types import FrameBatch, UInt8Array

_LONG_SIDE = 256  # pixels; cuts are as plain in a small picture
_WINDOW = 2  # frames before and after that a change is compared with
_MIN_FRAMES = 3  # a flash is no shot
_SAME_PLACE = 0.5  # correlation of the fine structure from which the picture is still the same
_FINE = 4.0  # pixels: what is coarser counts as light, not as structure


def load_shot_library() -> tuple[Any, Any]:
    """Import PySceneDetect, once; returns its `FrameTimecode` and `AdaptiveDetector`.

    Not at the top: it takes a quarter of a second, most of which it waits for a program that it
    starts, and much of the room has no use for it. So it may be called early, beside other work.
    """
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    return FrameTimecode, AdaptiveDetector


class ShotDetector:
    """Collect frames and tell where the shots are: PySceneDetect's adaptive detector, streaming.

    A cut is a change of hue, saturation and lightness that is at least 15 of 255 levels, and three
    times that of the frames around it: a fast movement is no cut. Neither is a change of light:
    where edges stay in place the picture is still the same. Only a few small frames are kept.

    Example:
        >>> detector = ShotDetector()
        >>> frames = np.repeat(np.uint8([20, 220]), 10)[:, None, None, None]
        >>> frames = np.tile(frames, (1, 16, 16, 3))
        >>> detector.add(FrameBatch(frames=frames, indices=np.arange(20)))
        >>> detector.shots(20)
        (Interval(start=0, stop=10), Interval(start=10, stop=20))
    """

    def __init__(self) -> None:
        self._timecode, detector = load_shot_library()
        self._detector = detector(window_width=_WINDOW, min_scene_len=_MIN_FRAMES)
        self._offset = 0  # index of the frame that the detector counts as 0
        self._looked_at = 0
        self._last: UInt8Array | None = None
        self._cuts: set[int] = set()
        self._recent: dict[int, NDArray[np.float32]] = {}  # fine structure of the last frames

    def add(self, batch: FrameBatch) -> None:
        """Look at the next frames.

        Raises:
            ValueError: they do not follow the ones before.
        """
        for index, frame in zip(batch.indices.tolist(), batch.frames, strict=True):
            picture = _small(frame)
            if self._looked_at == 0:
                self._offset = index - _WINDOW
                for _ in range(_WINDOW):  # so that the first frames have something before them
                    self._look(picture)
            due = self._offset + self._looked_at
            if index != due:
                raise ValueError(f"frame {index} was given, expected frame {due}: add all in order")
            self._look(picture)
            self._last = picture

    def _look(self, picture: UInt8Array) -> None:
        # The rate is arbitrary: only numbers of frames are compared.
        self._recent[self._looked_at] = _structure(picture)
        self._recent.pop(self._looked_at - 2 * _WINDOW - _MIN_FRAMES - 2, None)
        cuts = self._detector.process_frame(self._timecode(self._looked_at, fps=25.0), picture)
        self._cuts.update(
            self._offset + cut.frame_num for cut in cuts if not self._stays(cut.frame_num)
        )
        self._looked_at += 1

    def _stays(self, number: int) -> bool:
        """Whether the edges of the picture are where they were before frame `number`."""
        before, after = self._recent.get(number - 1), self._recent.get(number)
        if before is None or after is None:
            return False
        size = float(np.sqrt(np.square(before).sum() * np.square(after).sum()))
        return size > 0 and float((before * after).sum()) / size > _SAME_PLACE

    def shots(self, frame_count: int) -> tuple[Interval, ...]:
        """Return the shots, which cover [0, frame_count) without a gap; no more frames follow.

        Args:
            frame_count: frames of the clip, of which the ones outside what was added have no cuts.
        """
        if self._last is not None:
            for _ in range(_WINDOW):  # so that the last frames have something after them
                self._look(self._last)
            self._last = None
        inside = sorted(cut for cut in self._cuts if 0 < cut < frame_count)
        edges = [0, *inside, frame_count]
        return tuple(Interval(start, stop) for start, stop in pairwise(edges))


def _structure(picture: UInt8Array) -> NDArray[np.float32]:
    """Return what is finer than light and shade, as (h, w)."""
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.float32)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), _FINE), np.float32)


def _small(frame: UInt8Array) -> UInt8Array:
    """Shrink RGB (H, W, 3) to a small BGR picture, as PySceneDetect takes it."""
    height, width = frame.shape[:2]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[..., ::-1], dtype=np.uint8)
