"""The cheap figures of an edit, measured while it is made: for its report."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilizers import Interval, intervals_from_indices
from stabilizers.metrics import jitter
from vidinvert.fidelity import SquaredError
from vidinvert.geometry import fill_quads, quad_from_crop, squared_difference
from vidinvert.types import Alignment, FaceTrack, FrameBatch, Inversion


@dataclass(slots=True, kw_only=True, eq=False)
class Rendered:
    """Compares frames before and after rendering, before they are encoded."""

    inside: SquaredError = field(default_factory=SquaredError)
    outside: SquaredError = field(default_factory=SquaredError)

    def add(self, source: FrameBatch, output: FrameBatch, alignments: Sequence[Alignment]) -> None:
        """Add a batch and what was made of it."""
        for index, before, after in zip(
            source.indices.tolist(), source.frames, output.frames, strict=True
        ):
            quads = [
                alignment.quads_xy[position]
                for alignment in alignments
                for position in np.flatnonzero(alignment.indices == index)
            ]
            covered = fill_quads(quads, (before.shape[0], before.shape[1]))
            count = int(np.count_nonzero(covered))
            inside = squared_difference(before, after, covered) if count else 0.0
            self.inside.total += inside
            self.inside.numbers += 3 * count
            # Integers throughout: what is left of the whole is exactly what differs outside.
            self.outside.total += squared_difference(before, after) - inside
            self.outside.numbers += 3 * (covered.size - count)

    def describe(self) -> dict[str, Any]:
        """Return PSNR in dB, None where nothing differs, and whether that is so."""
        return {
            "psnr_face": _number(self.inside.psnr),
            "psnr_outside": _number(self.outside.psnr),
            "psnr_outside_identical": self.outside.total == 0,
        }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def split(batches: Iterable[FrameBatch]) -> tuple[Iterator[FrameBatch], Iterator[FrameBatch]]:
    """Give the same batches to two readers that keep step, the first one ahead.

    One batch is kept between them; `itertools.tee` would keep 57.
    """
    passed: deque[FrameBatch] = deque()

    def lead() -> Iterator[FrameBatch]:
        for batch in batches:
            passed.append(batch)
            yield batch

    def follow() -> Iterator[FrameBatch]:
        while passed:
            yield passed.popleft()

    return lead(), follow()


def describe_steadiness(
    track: FaceTrack,
    alignment: Alignment,
    measured: Inversion,
    rendered: Inversion,
    *,
    raw_alignment: Alignment,
    shots: Sequence[Interval],
) -> dict[str, Any]:
    """Measure how a track shakes, before and after smoothing; everything is at hand already.

    Returns:
        `landmark_jitter` of the five key points, `crop_jitter` of the crop's corners, both second
        differences in distances of the eyes (`stabilizers.metrics.jitter`), and `mask_flicker`, the
        mean change of a mask's pixel from frame to frame in the crop, 0 to 1.
    """
    runs = intervals_from_indices(track.indices, cuts=shots)
    eyes = track.landmarks_xy
    scale = np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=1)

    def shaking(points: NDArray[np.float64]) -> float | None:
        values = jitter(points, scale, intervals=runs)
        return float(np.nanmean(values)) if np.isfinite(values).any() else None

    def corners(placed: Alignment) -> NDArray[np.float64]:
        return np.stack([quad_from_crop(m, placed.crop_size) for m in placed.crop_from_frame])

    return {
        "landmark_jitter": shaking(eyes),
        "crop_jitter": {
            "measured": shaking(corners(raw_alignment)),
            "steadied": shaking(corners(alignment)),
        },
        "mask_flicker": {
            "measured": _flicker(measured, runs),
            "steadied": _flicker(rendered, runs),
        },
    }


def _flicker(inversion: Inversion, runs: Sequence[Interval]) -> float | None:
    masks = inversion.mask.ood.numpy()
    total, count = 0.0, 0
    for run in runs:
        for t in range(run.start, run.stop - 1):
            total += float(np.abs(masks[t + 1].astype(np.int16) - masks[t]).mean()) / 255.0
            count += 1
    return total / count if count else None
