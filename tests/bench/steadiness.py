"""What smoothing gains on clips: `python -m tests.bench.steadiness CLIP...`.

Each clip's beginning is edited with all smoothing off and with the default plan, and measured by
`vidinvert evaluate`. Warping errors and landmark jitter are edited over source. The first of three
figures is of the clip after an edit of strength 0: what its encoding alone adds (`--codec ffv1`:
nothing). The last is of an edit that cannot shake: every frame of the crop is moved as the middle
one is, and nothing is painted. What it adds, the metric finds in any such edit, for a wider mouth
has more edges. Where the source's mouth hardly opens, its correlation says nothing and is left out.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import vidinvert
from stabilizers import StabilizerPlan, parse_filter
from tests.mini import SAMPLE
from tests.shared_data import SHARED
from vidinvert import changes
from vidinvert.changes import flow_of
from vidinvert.cli.device import choose_precision, keep_memory
from vidinvert.cli.options import read_change_filter
from vidinvert.evaluation import evaluate_video
from vidinvert.types import FaceMotion

OFF = StabilizerPlan(transforms=None, latents=None, mask=None, change=None)
LANDMARKS = SHARED / "models/landmarks/pfld_68.onnx"
COLUMNS = (
    "warping error",
    "along its own flow",
    "landmark jitter",
    "mouth's correlation",
    "smile moved",
)


def figures(face: Mapping[str, Any]) -> tuple[float, ...]:
    """What the table shows of one face of a report; NaN where it says nothing."""
    mouth = face.get("mouth_correlation")
    return (
        face["warping_error"]["ratio"],
        face["warping_error_own_flow"]["ratio"],
        face["landmark_jitter"]["ratio"],
        np.nan if mouth is None else mouth,
        face["attributes"]["smile"] if "attributes" in face else np.nan,
    )


def measure(
    clip: Path, edits: str, plan: StabilizerPlan, pack: vidinvert.Models, options: Any, folder: Path
) -> tuple[float, ...]:
    """Edit the beginning of a clip and evaluate it."""
    target = folder / "edited.mkv"
    settings = vidinvert.EncodeSettings(crf=options.crf, codec=options.codec)
    plans = vidinvert.Plans(stabilizer=plan, encode=settings)
    span = vidinvert.Span(start_seconds=options.start, end_seconds=options.start + options.seconds)
    vidinvert.edit_video(
        clip, target, edits=edits, pack=pack, plans=plans, span=span, overwrite=True
    )
    landmarks = options.landmarks if options.landmarks.exists() else None
    evaluation = evaluate_video(
        clip,
        target,
        detector=pack.detector,
        start_seconds=span.start_seconds,
        end_seconds=span.end_seconds,
        landmarks=landmarks,
    )
    return figures(evaluation.report["faces"][0])


@contextmanager
def frozen() -> Iterator[None]:
    """Move every frame's crop as the middle one's is moved, and paint nothing."""

    def middle(motion: FaceMotion, _position: int, *, size: int) -> NDArray[np.float32]:
        return flow_of(motion, len(motion.points) // 2, size=size)

    def nothing(stream: changes.ChangeStream, _position: int) -> NDArray[np.float32]:
        return np.zeros((stream.size, stream.size, 5), np.float32)

    with (
        patch.object(changes, "flow_of", middle),
        patch.object(changes.ChangeStream, "_average", nothing),
    ):
        yield


def row(name: str, *figures: Sequence[float]) -> str:
    """Describe a clip, or the mean of all, as a row of the table."""
    cells = [" → ".join(map(_number, kinds)) for kinds in zip(*figures, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def main() -> None:
    """Measure every clip and print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--edit", default="smile=2")
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--codec", help="of all encodings, as ffv1; left out: the clip's own")
    parser.add_argument("--crf", type=float, help="of both encodings; left out: the product's own")
    parser.add_argument("--change-smoothing", help="instead of the default plan's")
    parser.add_argument("--latent-smoothing", help="instead of the default plan's")
    parser.add_argument("--landmarks", type=Path, default=LANDMARKS)
    options = parser.parse_args()
    plan = StabilizerPlan()
    if options.change_smoothing is not None:
        plan = StabilizerPlan(change=read_change_filter(options.change_smoothing))
    if options.latent_smoothing is not None:
        plan = StabilizerPlan(change=plan.change, latents=parse_filter(options.latent_smoothing))
    keep_memory()
    pack = vidinvert.load_pack("mini", precision=choose_precision("auto", "cpu"))
    nothing = f"{options.edit.partition('=')[0]}=0"
    print(f"| clip | {' | '.join(COLUMNS)} (each: strength 0 → smoothing off → on → frozen) |")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    rows = []
    for clip in options.clips:
        with tempfile.TemporaryDirectory() as folder:
            kinds = ((nothing, plan), (options.edit, OFF), (options.edit, plan))
            figures_of = [measure(clip, *kind, pack, options, Path(folder)) for kind in kinds]
            with frozen():
                figures_of.append(measure(clip, *kinds[-1], pack, options, Path(folder)))
            rows.append(figures_of)
        print(row(clip.name, *rows[-1]), flush=True)
    if len(rows) > 1:
        print(row("mean", *(np.nanmean([r[k] for r in rows], axis=0) for k in range(4))))


if __name__ == "__main__":
    main()
