"""What smoothing gains on clips: `python -m tests.bench.steadiness CLIP...`.

Each clip's beginning is edited with all smoothing off and with the default plan, and measured by
`vidinvert evaluate`. Warping errors and landmark jitter are edited over source. `encoded` is the
warping error of the clip after an edit of strength 0: what its encoding alone adds. Where the
source's mouth hardly opens, its correlation says nothing and is left out.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vidinvert
from stabilizers import StabilizerPlan, parse_filter
from tests.mini import SAMPLE
from tests.shared_data import SHARED
from vidinvert.cli.device import choose_precision, keep_memory
from vidinvert.cli.options import read_change_filter
from vidinvert.evaluation import evaluate_video

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
    target = folder / "edited.mp4"
    plans = vidinvert.Plans(stabilizer=plan, encode=vidinvert.EncodeSettings(crf=options.crf))
    span = vidinvert.Span(end_seconds=options.seconds)
    vidinvert.edit_video(
        clip, target, edits=edits, pack=pack, plans=plans, span=span, overwrite=True
    )
    landmarks = options.landmarks if options.landmarks.exists() else None
    evaluation = evaluate_video(
        clip, target, detector=pack.detector, end_seconds=options.seconds, landmarks=landmarks
    )
    return figures(evaluation.report["faces"][0])


def row(name: str, encoded: float, off: Sequence[float], on: Sequence[float]) -> str:
    """Describe a clip, or the mean of all, as a row of the table."""
    pairs = [f"{_number(a)} → {_number(b)}" for a, b in zip(off, on, strict=True)]
    return f"| {name} | {_number(encoded)} | {' | '.join(pairs)} |"


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"


def main() -> None:
    """Measure every clip and print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--edit", default="smile=2")
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
    print(f"| clip | encoded | {' | '.join(f'{name}, off → on' for name in COLUMNS)} |")
    print("| --- " * (len(COLUMNS) + 2) + "|")
    rows = []
    for clip in options.clips:
        with tempfile.TemporaryDirectory() as folder:
            encoded, off, on = (
                measure(clip, edits, chosen, pack, options, Path(folder))
                for edits, chosen in ((nothing, plan), (options.edit, OFF), (options.edit, plan))
            )
        rows.append((encoded[0], off, on))
        print(row(clip.name, *rows[-1]), flush=True)
    if len(rows) > 1:
        print(row("mean", *(np.nanmean([r[k] for r in rows], axis=0) for k in range(3))))


if __name__ == "__main__":
    main()
