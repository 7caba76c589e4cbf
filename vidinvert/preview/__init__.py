"""Masks to look at: a page with a scrubber, a contact sheet, an overlay, and the raw masks.

All show the faces as `rendering` would paint them: the same masks, codes and crops.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidinvert import images
from vidinvert.analysis import Analysis
from vidinvert.changes import EditedFace
from vidinvert.errors import PlanError
from vidinvert.media import (
    GREY_SUFFIX,
    GreyWriter,
    PendingFile,
    VideoWriter,
    check_target,
    decode,
    read_ahead,
)
from vidinvert.methods import Method
from vidinvert.preview.curves import FaceCurves, Spot, find_spots, measure_curves
from vidinvert.preview.page import MEGABYTE, PAGE_SUFFIXES, PageWriter
from vidinvert.preview.pictures import paint_heat
from vidinvert.preview.sheet import SHEET_SUFFIXES, SheetWriter
from vidinvert.rendering import (
    check_mask_directory,
    mask_in_frame,
    stage_masks,
    write_masks,
)
from vidinvert.types import FrameBatch, Plans, VideoInfo

__all__ = [
    "FaceCurves",
    "PageWriter",
    "PreviewPlan",
    "PreviewTargets",
    "SheetWriter",
    "Spot",
    "check_targets",
    "find_spots",
    "measure_curves",
    "paint_heat",
    "sample_frames",
    "write_preview",
]

Progress = Callable[[str, int, int], None]  # stage, frames done, frames in all
Sink = Callable[[FrameBatch], None]  # takes every batch of the clip, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewTargets:
    """Where to write what; None leaves it out.

    `page` .html; `sheet` .png; `video` the clip with its masks drawn over it, sound kept; `masks` a
    folder for PNG pictures or a .mkv, in frame geometry, lossless, white = the source is kept.
    """

    page: Path | None = None
    sheet: Path | None = None
    video: Path | None = None
    masks: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewPlan:
    """Which frames are shown.

    Attributes:
        every: of so many frames one is shown.
        frames: no more than these are shown, evenly spread.
        max_megabytes: the page's size is kept below, in million bytes.
        sheet_frames: pictures on the sheet at most.
    """

    every: int = 1
    frames: int = 500
    max_megabytes: float = 25.0
    sheet_frames: int = 30


def sample_frames(frames: range, *, every: int, at_most: int) -> list[int]:
    """Return every `every`-th frame, and of these `at_most`, evenly spread with both ends.

    Example:
        >>> sample_frames(range(10, 20), every=2, at_most=3)
        [10, 14, 18]
    """
    chosen = frames[::every]
    if len(chosen) <= at_most:
        return list(chosen)
    places = np.unique(np.linspace(0, len(chosen) - 1, at_most).round().astype(int))
    return [chosen[int(place)] for place in places]


def write_preview(
    analysis: Analysis,
    faces: Sequence[EditedFace],
    *,
    method: Method,
    plans: Plans,
    targets: PreviewTargets,
    preview: PreviewPlan | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write all targets in one pass over the clip; each appears whole or not at all.

    Args:
        analysis: of the clip, from `pipeline.measure_video`.
        faces: of the same, from `pipeline.edit_faces`: what rendering would paint.
        method: what inverted them.
        plans: as for rendering; with an edit the page shows edited faces and the composite.
        targets: what to write.
        preview: which frames.
        device: where the networks live.
        overwrite: replace existing files.
        progress: called with the stage, the frames done and the frames in all.

    Returns:
        `frames` shown in the page, and `bytes` of it (0 without a page).

    Raises:
        EncodeError: a target cannot be written.
        PlanError: the page does not fit into its size.
    """
    preview = preview or PreviewPlan()
    info, frames = analysis.info, analysis.frames
    shown = sample_frames(frames, every=preview.every, at_most=preview.frames)
    page = None
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if targets.page is not None:
            curves = [
                measure_curves(
                    track,
                    face.alignment,
                    face.inversion.mask.ood,
                    seconds=info.seconds,
                    shots=analysis.shots,
                    frames=frames,
                )
                for track, face in zip(analysis.tracks, faces, strict=True)
            ]
            page = stack.enter_context(
                PageWriter(
                    targets.page,
                    analysis=analysis,
                    faces=faces,
                    curves=curves,
                    method=method,
                    plans=plans,
                    indices=shown,
                    max_bytes=round(preview.max_megabytes * MEGABYTE),
                    device=device,
                    overwrite=overwrite,
                )
            )
            sinks.append(page.add)
        if targets.sheet is not None:
            some = range(len(shown))
            cells = sample_frames(some, every=1, at_most=preview.sheet_frames)
            sheet = SheetWriter(
                targets.sheet,
                info=info,
                faces=faces,
                indices=[shown[k] for k in cells],
                overwrite=overwrite,
            )
            sinks.append(stack.enter_context(sheet).add)
        if targets.video is not None:
            sinks.append(
                stack.enter_context(
                    _overlay(targets.video, info, faces, plans, frames, overwrite=overwrite)
                )
            )
        if targets.masks is not None:
            sinks.append(
                stack.enter_context(_masks(targets.masks, info, faces, frames, overwrite=overwrite))
            )
        batches = decode(
            info, batch_size=plans.render.batch_size, start=frames.start, stop=frames.stop
        )
        for batch in read_ahead(batches):
            for sink in sinks:
                sink(batch)
            if progress is not None:
                progress("preview", int(batch.indices[-1]) + 1 - frames.start, len(frames))
    return {"frames": len(shown), "bytes": 0 if page is None else page.written}


def check_targets(targets: PreviewTargets, *, like: VideoInfo, overwrite: bool) -> None:
    """Refuse, before any work, places that do not take their files, and a preview of nothing.

    Raises:
        EncodeError: a target has another suffix, exists already, or cannot be created.
        PlanError: there is no target.
    """
    if targets == PreviewTargets():
        raise PlanError(
            "Nothing to write: expected -o PAGE.html, --sheet, --video or --masks; add one of them."
        )
    for target, suffixes in ((targets.page, PAGE_SUFFIXES), (targets.sheet, SHEET_SUFFIXES)):
        if target is not None:
            PendingFile(target, source=like.path, overwrite=overwrite, suffixes=suffixes)
    if targets.video is not None:
        check_target(targets.video, like=like, overwrite=overwrite)
    if targets.masks is not None and targets.masks.suffix.lower() == GREY_SUFFIX:
        PendingFile(targets.masks, source=like.path, overwrite=overwrite, suffixes=(GREY_SUFFIX,))
    elif targets.masks is not None:
        check_mask_directory(targets.masks, overwrite=overwrite)


@contextmanager
def _overlay(
    target: Path,
    info: VideoInfo,
    faces: Sequence[EditedFace],
    plans: Plans,
    frames: range,
    *,
    overwrite: bool,
) -> Iterator[Sink]:
    writer = VideoWriter(
        target,
        like=info,
        settings=plans.encode,
        overwrite=overwrite,
        start=frames.start,
        stop=frames.stop,
    )

    def add(batch: FrameBatch) -> None:
        pairs = zip(batch.indices.tolist(), batch.frames, strict=True)
        painted = np.stack([paint_heat(frame, index, faces) for index, frame in pairs])
        writer.write(FrameBatch(frames=painted, indices=batch.indices))

    with writer:
        yield add


@contextmanager
def _masks(
    target: Path,
    info: VideoInfo,
    faces: Sequence[EditedFace],
    frames: range,
    *,
    overwrite: bool,
) -> Iterator[Sink]:
    if target.suffix.lower() != GREY_SUFFIX:
        with stage_masks(target, overwrite=overwrite) as folder:
            yield lambda batch: write_masks(folder, batch, faces)
        return
    writer = GreyWriter(target, like=info, overwrite=overwrite, start=frames.start)

    def add(batch: FrameBatch) -> None:
        for index in batch.indices.tolist():
            kept = mask_in_frame(faces, index, (info.size_hw[0], info.size_hw[1]))
            writer.write(images.mask_to_uint8(kept).numpy())

    with writer:
        yield add
