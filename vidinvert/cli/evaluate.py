"""`vidinvert evaluate`: an edit against its source, in figures."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidinvert.cli.options import ProgressBars, add_common_options, number

if TYPE_CHECKING:
    from vidinvert.evaluation import Evaluation


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="compare an edit with its source: fidelity, identity, steadiness, sound, timing",
        description="Compare an edited clip with its source. Every figure is explained in the "
        "report; what needs a model that is not named is listed there as absent.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the clip before")
    parser.add_argument("edited", type=Path, metavar="EDITED", help="the clip after")
    parser.add_argument(
        "--report", type=Path, required=True, metavar="FILE.json", help="where to write the figures"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="every figure over time, as PNG")
    parser.add_argument("--face", default="largest", help="largest, all or numbers (largest)")
    parser.add_argument(
        "--start", type=number(0), default=0.0, help="where the edit begins in the source, seconds"
    )
    parser.add_argument("--end", type=number(0), help="where it ends, seconds")
    parser.add_argument(
        "--pack", default="mini", help="the face pack whose detector is used (mini)"
    )
    parser.add_argument("--min-score", type=number(0.01, 0.99), default=0.5, help="(0.5)")
    tools = parser.add_argument_group("models and files of yours that more figures need")
    tools.add_argument(
        "--recognition",
        type=Path,
        metavar="PATH",
        help="a recognition model for identity: an ONNX file, or a directory with one",
    )
    tools.add_argument(
        "--landmarks", type=Path, metavar="FILE.onnx", help="68 landmarks (PFLD) for attributes"
    )
    tools.add_argument("--lpips", type=Path, metavar="FILE", help="state dict of lpips.LPIPS")
    tools.add_argument("--masks", type=Path, metavar="DIR", help="from edit --save-masks")
    tools.add_argument(
        "--edit-report", type=Path, metavar="FILE.json", help="from edit --report: before encoding"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing report")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, write the report and the plots, and print the main figures."""
    from vidinvert.checkpoints import find_pack
    from vidinvert.errors import EncodeError
    from vidinvert.evaluation import evaluate_video
    from vidinvert.faces import FaceDetector

    if options.report.exists() and not options.force:
        raise EncodeError(f"{options.report} exists already; choose another --report or --force.")
    if not options.report.parent.is_dir():
        raise EncodeError(f"{options.report.parent} is not a directory; choose another --report.")
    if options.plots is not None and not options.plots.parent.is_dir():
        raise EncodeError(f"{options.plots.parent} is not a directory; choose another --plots.")
    detector_directory = find_pack(options.pack).files["detector"].path.parent
    bars = ProgressBars(quiet=options.quiet)
    try:
        evaluation = evaluate_video(
            options.source,
            options.edited,
            detector=FaceDetector(detector_directory, device="cpu", min_score=options.min_score),
            face=options.face,
            start_seconds=options.start,
            end_seconds=options.end,
            recognition=options.recognition,
            landmarks=options.landmarks,
            lpips=options.lpips,
            masks=options.masks,
            edit_report=options.edit_report,
            progress=bars,
        )
    finally:
        bars.close()
    options.report.write_text(json.dumps(evaluation.report, indent=2) + "\n", encoding="utf-8")
    if options.plots is not None:
        _write_plots(evaluation, options.plots)
    for line in _summary(evaluation.report):
        print(line)
    return 0


def _write_plots(evaluation: "Evaluation", directory: Path) -> None:
    import numpy as np

    from vidinvert.images import write_png
    from vidinvert.plots import plot_lines

    directory.mkdir(exist_ok=True)
    for name, (seconds, curves) in evaluation.series.items():
        if not any(np.isfinite(values).any() for values in curves.values()):
            continue
        picture = plot_lines(
            {label: (seconds, values) for label, values in curves.items()},
            title=name,
            x_label="seconds",
            y_label="",
        )
        write_png(directory / f"{name}.png", picture)


def _summary(report: dict[str, Any]) -> list[str]:
    """One line a figure: what a person looks at first."""
    lines: list[str] = []
    for face in report["faces"]:
        for name, value in face.items():
            if name in ("id", "frames", "attributes"):
                continue
            lines.append(f"face {face['id']}  {name}  {_shown(value)}")
        for name, value in face.get("attributes", {}).items():
            lines.append(f"face {face['id']}  change of {name}  {_shown(value)}")
    for group in ("outside", "sound", "timing"):
        lines += [f"{group}  {name}  {_shown(value)}" for name, value in report[group].items()]
    lines += [f"absent  {name}: {reason}" for name, reason in report["absent"].items()]
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
