"""`vidinvert preview`: look at a clip's masks before, or instead of, editing it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from vidinvert.cli.device import tell_of_graphs
from vidinvert.cli.options import (
    ProgressBars,
    add_common_options,
    add_edit_option,
    add_face_options,
    add_look_options,
    add_pack_options,
    check_options,
    count,
    load_models,
    number,
    plans_from,
    span_from,
)


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "preview",
        help="look at a clip's masks",
        description="Show where a clip's faces can be edited and where the source is kept.",
    )
    parser.add_argument("source", type=Path, metavar="IN", help="the clip")
    targets = parser.add_argument_group("output (at least one)")
    targets.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PAGE.html",
        help="one file with a scrubber, layers and curves; opens without a server",
    )
    targets.add_argument(
        "--sheet", type=Path, metavar="SHEET.png", help="a contact sheet with numbers and times"
    )
    targets.add_argument(
        "--video", type=Path, metavar="OVERLAY.mp4", help="the masks over the clip, sound kept"
    )
    targets.add_argument(
        "--masks",
        type=Path,
        metavar="DIR|FILE.mkv",
        help="the raw masks in frame geometry, lossless, white = kept",
    )
    targets.add_argument("--force", action="store_true", help="replace existing outputs")
    frames = parser.add_argument_group("frames shown")
    frames.add_argument("--every", type=count, default=1, metavar="N", help="one of N (1)")
    frames.add_argument(
        "--frames", type=count, default=500, metavar="N", help="in the page at most (500)"
    )
    frames.add_argument(
        "--max-size", type=number(0.1), default=25.0, metavar="MB", help="of the page (25)"
    )
    frames.add_argument(
        "--sheet-frames", type=count, default=30, metavar="N", help="on the sheet at most (30)"
    )
    add_edit_option(parser)
    add_face_options(parser)
    add_look_options(parser)
    add_pack_options(parser)
    add_common_options(parser)
    # The overlay is encoded like the source.
    parser.set_defaults(
        run=run, codec=None, crf=None, preset=None, pixel_format=None, no_mark=True, allow_loss=True
    )


def run(options: argparse.Namespace) -> int:
    """Write what is asked for; prints the paths."""
    from dataclasses import replace

    from vidinvert.editing import parse_edits
    from vidinvert.media import probe
    from vidinvert.methods import describe_graphs
    from vidinvert.pipeline import edit_faces, mask_edits, measure_video
    from vidinvert.preview import PreviewPlan, PreviewTargets, check_targets, write_preview

    check_options(options)
    targets = PreviewTargets(
        page=options.output, sheet=options.sheet, video=options.video, masks=options.masks
    )
    check_targets(targets, like=probe(options.source), overwrite=options.force)
    models = load_models(options, finds_cuts=options.analysis is None)
    plans = plans_from(options)
    plans = replace(plans, edit=parse_edits(options.edit, models.directions))
    bars = ProgressBars(quiet=options.quiet)
    try:
        analysis = measure_video(
            options.source,
            pack=models,
            plans=plans,
            face=options.face,
            span=span_from(options),
            analysis=options.analysis,
            save_analysis=options.save_analysis,
            overwrite=options.force,
            progress=bars,
        )
        written = write_preview(
            analysis,
            edit_faces(mask_edits(analysis, models, plans), plans, models.landmarks),
            method=models.method,
            plans=plans,
            targets=targets,
            preview=PreviewPlan(
                every=options.every,
                frames=options.frames,
                max_megabytes=options.max_size,
                sheet_frames=options.sheet_frames,
            ),
            device=models.device,
            overwrite=options.force,
            progress=bars,
        )
    finally:
        bars.close()
    tell_of_graphs(options.cuda_graphs, [describe_graphs(models.method)])
    if options.output is not None and not options.quiet:
        shown = f"{written['frames']} of {len(analysis.frames)} frames"
        size = f"{written['bytes'] / 1e6:.1f} MB"
        print(f"vidinvert: {options.output} shows {shown} in {size}", file=sys.stderr)
    for path in (options.output, options.sheet, options.video, options.masks):
        if path is not None:
            print(path)
    return 0
