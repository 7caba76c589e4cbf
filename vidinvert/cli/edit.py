"""`vidinvert edit`: the whole pipeline on one clip."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidinvert.cli.device import tell_of_graphs
from vidinvert.cli.options import (
    ProgressBars,
    add_coding_options,
    add_common_options,
    add_edit_options,
    add_face_options,
    add_look_options,
    add_pack_options,
    check_options,
    load_models,
    method_from,
    plans_from,
    span_from,
)

PASSES = ("detect", "invert", "render")  # over the whole clip, one after the other


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "edit",
        help="edit the faces of a clip",
        description="Edit the faces of a clip. Sound, times, shape and everything else stay.",
    )
    parser.add_argument("source", type=Path, metavar="IN", help="the clip")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    add_edit_options(parser)
    add_face_options(parser)
    add_look_options(parser)
    _add_output_options(parser)
    add_pack_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    coding = add_coding_options(parser)
    coding.add_argument("--save-masks", type=Path, metavar="DIR", help="masks as PNG, white = kept")
    coding.add_argument("--report", type=Path, metavar="FILE.json", help="what was done")
    coding.add_argument(
        "--profile", action="store_true", help="print where the run's time went, on stderr"
    )
    coding.add_argument("--force", action="store_true", help="replace an existing output")
    coding.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(options: argparse.Namespace) -> int:
    """Edit the clip; prints the output's path."""
    from vidinvert.errors import EncodeError
    from vidinvert.media import check_hardware
    from vidinvert.pipeline import edit_video

    check_options(options)
    if options.hwaccel is not None:
        check_hardware(options.hwaccel)
    report = options.report
    if report is not None and report.exists() and not options.force:
        raise EncodeError(f"{report} exists already; choose another --report or add --force.")
    if report is not None and not report.parent.is_dir():
        raise EncodeError(f"{report.parent} is not a directory; choose another --report.")
    if options.dry_run:
        return _dry_run(options)
    models = load_models(options, finds_cuts=options.analysis is None)
    bars = ProgressBars(quiet=options.quiet)
    try:
        result = edit_video(
            options.source,
            options.output,
            edits=options.edit,
            pack=models,
            plans=plans_from(options),
            face=options.face,
            span=span_from(options),
            overwrite=options.force,
            allow_no_face=options.allow_no_face,
            save_masks=options.save_masks,
            analysis=options.analysis,
            save_analysis=options.save_analysis,
            progress=bars,
        )
    finally:
        bars.close()
    if options.profile:
        print(profile_table(result["profile"], frames=result["frames"]), file=sys.stderr)
    if report is not None:
        pending = report.with_name(f".{report.name}.partial")
        pending.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        pending.replace(report)
    if result["salvage"] is not None:
        print(f"vidinvert: {_word_salvage(result['salvage'])}", file=sys.stderr)
    tell_of_graphs(options.cuda_graphs, [result["cuda_graphs"]])
    if result["hwaccel"] is not None and result["hwaccel"]["reason"] is not None:
        print(f"vidinvert: the CPU decoded, for {result['hwaccel']['reason']}", file=sys.stderr)
    for what in result["left_out"]:
        print(f"vidinvert: the output does not hold {what}", file=sys.stderr)
    if not result["tracks"]:
        unsigned = " and not signed" if options.c2pa_certificate is not None else ""
        print(f"vidinvert: no face found; the clip was copied as it is{unsigned}", file=sys.stderr)
    elif not any(result["edit"]):
        print("vidinvert: no --edit given; the faces were left as they are", file=sys.stderr)
    print(options.output)
    return 0


def _word_salvage(salvage: dict[str, Any]) -> str:
    missing = f", {salvage['missing_seconds']:g} s missing" if salvage["missing_seconds"] else ""
    return (
        f"the clip is damaged: {salvage['frames_kept']} frames kept, {salvage['frames_lost']} lost"
        f"{missing} ({'; '.join(salvage['reasons'])})"
    )


def profile_table(profile: Mapping[str, Mapping[str, float]], *, frames: int) -> str:
    """Draw where a run's time went: the passes over the clip, then the stages beside each other."""
    events = ("first_frame", "total")
    whole = max(profile["all"]["cpu_seconds"], 1e-9)
    lines = [f"{'':18}{'seconds':>9}{'CPU s':>8}{'CPU ms a frame':>16}{'share':>7}"]
    for stage in PASSES:
        if stage in profile:
            lines.append(f"{'pass: ' + stage:18}{profile[stage]['seconds']:9.2f}")
    for stage, row in profile.items():
        if stage in (*PASSES, *events):
            continue
        cpu = row["cpu_seconds"]
        lines.append(
            f"{stage:18}{row['seconds']:9.2f}{cpu:8.2f}{1000 * cpu / max(frames, 1):16.1f}"
            f"{cpu / whole:7.0%}"
        )
    if "first_frame" in profile:
        lines.append(f"first frames written after {profile['first_frame']['seconds']:.2f} s")
    return "\n".join(lines)


def _dry_run(options: argparse.Namespace) -> int:
    """Check everything that can be checked without reading pictures, and print the plan."""
    from vidinvert.checkpoints import find_pack, load_directions
    from vidinvert.editing import parse_edits
    from vidinvert.media import MUXERS, check_target, probe
    from vidinvert.pipeline import Span, frame_range, open_signer

    pack = find_pack(options.pack)
    plan = parse_edits(options.edit, load_directions(pack))
    info = probe(options.source, salvage=options.salvage)
    check_target(options.output, like=info, overwrite=options.force)
    signer = open_signer(info, replace(plans_from(options), edit=plan))
    if signer is not None:
        signer.check(options.output, muxer=MUXERS.get(options.output.suffix.lower(), ""))
    first, last = frame_range(info, span_from(options) or Span())
    described = {
        "source": str(info.path),
        "output": str(options.output),
        "frames": last - first,
        "size": [info.size_hw[1], info.size_hw[0]],
        "frame_rate": str(info.frame_rate),
        "reader": info.reader,
        "reader_reason": info.reader_reason,
        "audio_tracks": len(info.audio),
        "edit": list(plan.text),
        "face": options.face or "largest",
        "pack": {"name": pack.name, "sha256": pack.sha256},
        "method": method_from(options),
        "manifest": None if signer is None else signer.describe(),
    }
    print(json.dumps(described, indent=2))
    return 0
