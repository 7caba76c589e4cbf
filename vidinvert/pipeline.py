"""Edit the faces of a talking-head video: analyse, invert, stabilise, edit, render, encode.

READ THIS FIRST: the verbs in the order in which they happen. Decoding is repeated per pass on
purpose: frames are never kept, so memory does not grow with the clip.
"""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stabilizers import Interval, intervals_from_indices
from vidinvert.analysis import Analysis, check_analysis_target, read_analysis, write_analysis
from vidinvert.changes import EditedFace, draw_unedited, drawn_positions, follows_pictures
from vidinvert.checkpoints import find_pack, load_directions, load_landmark_readout
from vidinvert.clock import Clock
from vidinvert.corrections import find_painted, paint_masks, shape_mask
from vidinvert.editing import (
    apply_edit,
    apply_motion,
    colour_kept,
    fade_at_gaps,
    parse_edits,
    total_strength,
)
from vidinvert.errors import NoFaceError, PlanError
from vidinvert.faces import (
    FaceDetector,
    align,
    bridge_gaps,
    find_key_points,
    place_landmarks,
    select_tracks,
    track_faces,
)
from vidinvert.inversion import (
    KEY_FILTER,
    LANDMARK_FILTER,
    MOUTH_FILTER,
    choose_measured,
    invert,
    keep_steadied,
    mask_edit,
    stabilise_alignment,
    stabilise_inversion,
    stabilise_landmarks,
    stabilise_latents,
)
from vidinvert.media import (
    SEGMENT_FRAMES,
    HardwareDecoder,
    ManifestSigner,
    SegmentedWriter,
    ShotDetector,
    VideoWriter,
    copy_clip,
    decode,
    probe,
    read_ahead,
)
from vidinvert.methods import (
    EditPainter,
    Graphs,
    Method,
    describe_graphs,
    divide_method,
    graph_method,
    load_method,
    time_method,
)
from vidinvert.quality import Rendered, describe_steadiness, split
from vidinvert.rendering import (
    check_mask_directory,
    choose_composite,
    make_mask_directory,
    render,
    write_masks,
)
from vidinvert.types import (
    Detection,
    FacePack,
    FaceTrack,
    FrameBatch,
    Inversion,
    KeptPictures,
    LandmarkReadout,
    LatentDirection,
    Plans,
    VideoInfo,
)
from vidinvert.version import VERSION

Progress = Callable[[str, int, int], None]  # stage, frames done, frames in all
LARGEST_KEPT = 512  # side of crops whose sketched pictures are kept with an analysis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Models:
    """A face pack, loaded: what finds faces, what inverts them, and where codes can be moved.

    `device`: where tensors are put; `devices`: where the networks are, of which several share the
    batches. `workers`: batches that the networks work on at once; results do not depend on it.
    """

    pack: FacePack
    detector: FaceDetector
    method: Method
    method_name: str
    directions: Mapping[str, LatentDirection]
    landmarks: LandmarkReadout | None
    device: str
    devices: tuple[str, ...]
    precision: str
    workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The frames to work on, as half-open seconds from the clip's start; None = to the end."""

    start_seconds: float = 0.0
    end_seconds: float | None = None


def load_pack(
    name: str = "mini",
    *,
    method: str = "samm",
    device: str = "cpu",
    precision: str = "fp32",
    min_score: float = 0.5,
    min_size: float = 24.0,
    workers: int = 1,
    cuda_graphs: Graphs = "off",
) -> Models:
    """Load a face pack by name or directory.

    Args:
        name: a shipped pack's name, or a pack's directory.
        method: how faces are inverted, as `samm` or, with options, `samm:cycles=1`.
        device: `cpu` or `cuda:N`; several with commas, as `cuda:0,cuda:1`, share the batches.
        precision: of the networks' features: `fp32`, `bf16` or `fp16`.
        min_score: detections below are dropped.
        min_size: faces with a smaller side, in pixels, are dropped.
        workers: batches that the networks work on at once, each with torch's number of threads; see
            `media.divide_threads`.
        cuda_graphs: record the networks' passes as CUDA graphs, on CUDA devices (`auto`), never
            (`off`), or without fail (`on`). See `methods.GraphedMethod`.

    Raises:
        CheckpointError: the pack is missing, damaged or of another schema.
        PlanError: the pack does not run the method, or not on several devices, or not with CUDA
            graphs where they are demanded, or the precision is unknown.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise PlanError(f"The precision {precision!r} is unknown, expected one of {list(dtypes)}.")
    pack = find_pack(name)
    detector_directory = pack.files["detector"].path.parent
    devices, dtype = device.split(","), dtypes[precision]
    workers = max(workers, len(devices))
    if len(devices) > 1:
        loaded = divide_method(
            pack, method=method, devices=devices, dtype=dtype, graphs=cuda_graphs
        )
    else:
        loaded = load_method(pack, method=method, device=device, dtype=dtype)
        loaded = graph_method(loaded, device=device, dtype=dtype, wanted=cuda_graphs)
    return Models(
        pack=pack,
        detector=FaceDetector(
            detector_directory,
            device=devices[0],
            min_score=min_score,
            min_size=min_size,
            workers=workers,
        ),
        method=loaded,
        method_name=method,
        directions=load_directions(pack),
        landmarks=load_landmark_readout(pack),
        device=device if len(devices) == 1 else "cpu",  # a divided method moves what it gets
        devices=tuple(devices),
        precision=precision,
        workers=workers,
    )


def edit_video(
    source: str | Path,
    target: str | Path,
    *,
    edits: str | Sequence[str] = (),
    pack: Models,
    plans: Plans | None = None,
    face: str | None = None,
    span: Span | None = None,
    overwrite: bool = False,
    allow_no_face: bool = False,
    save_masks: Path | None = None,
    analysis: Path | None = None,
    save_analysis: Path | None = None,
    segments: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Edit a clip's faces and write the result; sound, times and shape stay as they are.

    Args:
        source: the clip.
        target: where to write; its suffix names the container.
        edits: one or more edits, as `smile=2` or `smile=0@0s,3@2s`; they replace `plans.edit`.
        pack: from `load_pack`.
        plans: everything else that can be chosen.
        face: `largest`, `all`, numbers as `0,2`, or a photo of the person; None = `largest`, or
            all that a kept analysis holds.
        span: the part of the clip to write; None = all of it, or what a kept analysis covers.
        overwrite: replace an existing target.
        allow_no_face: a clip without a face is copied instead of refused.
        save_masks: a directory for the masks in frame geometry, or None.
        analysis: measurements from an earlier run, instead of detecting and inverting again.
        save_analysis: where to keep the measurements, as .npz; written before rendering begins.
        segments: a directory for finished stretches of the output, of this clip and these options
            alone: a run that was broken off goes on there instead of from the start.
        progress: called with the stage, the frames done and the frames in all.

    Returns:
        The report of house.md, section 6, ready for JSON.

    Raises:
        VidinvertError: see `vidinvert.errors`; nothing is left under the target's name.
    """
    plans = plans or Plans()
    texts = [edits] if isinstance(edits, str) else list(edits)
    if texts:
        plans = replace(plans, edit=parse_edits(texts, pack.directions))
    tell = progress or (lambda stage, done, total: None)
    clock = Clock()
    pack = replace(pack, method=time_method(pack.method, clock))
    with clock.measure("probe"):
        info = probe(source, salvage=plans.salvage)
        kept = _read_kept(analysis, info, pack, plans)
    frames = choose_frames(info, span, kept)
    _check_places(info, plans, frames, save_masks, save_analysis, overwrite=overwrite)
    hardware = open_hardware(info, pack, plans)
    if hardware is not None and kept is not None:
        hardware.decline("no pass before decoded what the analysis holds")
    signer = open_signer(info, plans)
    writer = _make_writer(
        Path(target),
        info,
        plans,
        frames=frames,
        overwrite=overwrite,
        signer=signer,
        segments=segments,
    )
    measured = measure_faces(
        info,
        pack,
        plans,
        frames=frames,
        face=face,
        kept=kept,
        clock=clock,
        progress=tell,
        hardware=hardware,
    )
    if not measured.tracks:
        if not allow_no_face:
            raise NoFaceError(
                f"{_no_face_message(info, plans)} Such clips are copied with --allow-no-face."
            )
        if info.salvage is None:  # else its packets are not all whole
            left_out = copy_clip(info, Path(target), overwrite=overwrite)
            report = _report(measured, target, pack, plans, clock, kept=analysis, steadiness=())
            return report | {"manifest": None, "hwaccel": None, "left_out": list(left_out)}
    if save_analysis is not None and measured.tracks:
        measured = draw_analysis(measured, pack, plans)
        write_analysis(save_analysis, measured, pack=pack.pack, plans=plans, overwrite=overwrite)
    measured = mask_edits(measured, pack, plans)
    with clock.measure("steady"):
        faces = edit_faces(measured, plans, pack.landmarks, workers=pack.workers)
    steadiness = _describe_steadiness(measured, faces)
    measured = replace(measured, inversions=tuple(face.inversion for face in faces))  # frees memory
    if save_masks is not None:  # only now: a refused clip or output leaves no folder behind
        make_mask_directory(save_masks, overwrite=overwrite)
    rendered = Rendered()
    with clock.measure("render"), writer:
        frames_read = decode(
            info,
            batch_size=plans.render.batch_size,
            start=writer.due,
            stop=frames.stop,
            stored=True,
            hardware=hardware,
        )
        batches = read_ahead(clock.follow("decode", frames_read))
        painted = clock.follow("composite", _render_beside(batches, faces, pack, plans, clock))
        for source_batch, batch in read_ahead(painted):
            rendered.add(source_batch, batch, measured.alignments)
            with clock.measure("encode"):
                writer.write(batch)
            clock.mark("first_frame")
            if save_masks is not None:
                write_masks(save_masks, batch, faces)
            tell("render", int(batch.indices[-1]) + 1 - frames.start, len(frames))
    report = _report(measured, target, pack, plans, clock, kept=analysis, steadiness=steadiness)
    return report | {
        "manifest": None if signer is None else signer.describe(),
        "hwaccel": None if hardware is None else hardware.describe(),
        "quality": rendered.describe(),
        "left_out": list(writer.left_out),
    }


def _render_beside(
    batches: Iterable[FrameBatch], faces: list[EditedFace], pack: Models, plans: Plans, clock: Clock
) -> Generator[tuple[FrameBatch, FrameBatch], None, None]:
    """Yield every batch before and after rendering."""
    sources, shown = split(batches)
    outputs = render(
        shown,
        faces,
        pack.method,
        plans.render,
        device=pack.device,
        workers=pack.workers,
        clock=clock,
    )
    with closing(outputs):
        yield from zip(sources, outputs, strict=True)


def measure_video(
    source: str | Path,
    *,
    pack: Models,
    plans: Plans | None = None,
    face: str | None = None,
    span: Span | None = None,
    analysis: Path | None = None,
    save_analysis: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Analysis:
    """Measure a clip's faces and edit nothing; the arguments are those of `edit_video`.

    Raises:
        NoFaceError: there is none.
        VidinvertError: see `vidinvert.errors`.
    """
    plans = plans or Plans()
    info = probe(source, salvage=plans.salvage)
    kept = _read_kept(analysis, info, pack, plans)
    frames = choose_frames(info, span, kept)
    _check_places(info, plans, frames, None, save_analysis, overwrite=overwrite)
    measured = measure_faces(
        info,
        pack,
        plans,
        frames=frames,
        face=face,
        kept=kept,
        clock=Clock(),
        progress=progress or (lambda stage, done, total: None),
        hardware=open_hardware(info, pack, plans),
    )
    if not measured.tracks:
        raise NoFaceError(_no_face_message(info, plans))
    if save_analysis is not None:
        measured = draw_analysis(measured, pack, plans)
        write_analysis(save_analysis, measured, pack=pack.pack, plans=plans, overwrite=overwrite)
    return measured


def draw_analysis(analysis: Analysis, pack: Models, plans: Plans) -> Analysis:
    """Add what edits would make again and again: steadied masks, and sketches of steadied codes.

    Large pictures are left out: their file would grow by megabytes a frame, and beside SAMM's own
    work at that size drawing them again is little.
    """
    seconds, shots = analysis.info.seconds, analysis.shots
    steadied = tuple(
        replace(
            one,
            mask=keep_steadied(
                one.mask, seconds, plans.stabilizer, shots=shots, workers=pack.workers
            ),
        )
        for one in analysis.inversions
    )
    analysis = replace(analysis, inversions=steadied)
    if pack.method.crop_size > LARGEST_KEPT:
        return analysis
    pictures: list[KeptPictures | None] = []
    change = plans.stabilizer.change
    for inversion, kept in zip(analysis.inversions, analysis.unedited, strict=True):
        steady = stabilise_latents(inversion.latents, seconds, plans.stabilizer, shots=shots)
        if not follows_pictures(change, inversion):
            kept = None
        elif kept is None or not kept.fits(steady):
            drawn = drawn_positions(
                inversion,
                change,
                seconds=seconds[steady.indices],
                intervals=intervals_from_indices(steady.indices, cuts=shots),
            )
            kept = draw_unedited(
                steady,
                pack.method,
                positions=np.flatnonzero(drawn),
                batch_size=plans.render.batch_size,
                device=pack.device,
            )
        pictures.append(kept)
    return replace(analysis, unedited=tuple(pictures))


def _read_kept(path: Path | None, info: VideoInfo, pack: Models, plans: Plans) -> Analysis | None:
    if path is None:
        return None
    return read_analysis(path, info=info, pack=pack.pack, method=pack.method_name, plans=plans)


def choose_frames(info: VideoInfo, span: Span | None, kept: Analysis | None = None) -> range:
    """Return the frames to work on: the span's, or those that a kept analysis covers.

    Raises:
        PlanError: the span holds no frame, or frames that the analysis does not cover.
    """
    if kept is None:
        return range(*frame_range(info, span or Span()))
    if span is None:
        return kept.frames
    frames = range(*frame_range(info, span))
    if frames.start < kept.frames.start or frames.stop > kept.frames.stop:
        raise PlanError(
            f"Frames {frames.start} to {frames.stop - 1} are asked for, but the analysis covers "
            f"{kept.frames.start} to {kept.frames.stop - 1}; choose --start and --end within "
            "these, or analyse again with --save-analysis."
        )
    return frames


def _check_places(
    info: VideoInfo,
    plans: Plans,
    frames: range,
    save_masks: Path | None,
    save_analysis: Path | None,
    *,
    overwrite: bool,
) -> None:
    """Refuse, before any work, painted masks that do not fit and places that do not take files."""
    if plans.render.mask_override is not None:
        find_painted(plans.render.mask_override, info=info, frames=frames)
    if save_masks is not None:
        check_mask_directory(save_masks, overwrite=overwrite)
    if save_analysis is not None:
        check_analysis_target(save_analysis, info=info, overwrite=overwrite)


def measure_faces(
    info: VideoInfo,
    pack: Models,
    plans: Plans,
    *,
    frames: range,
    face: str | None,
    kept: Analysis | None,
    clock: Clock,
    progress: Progress,
    hardware: HardwareDecoder | None = None,
) -> Analysis:
    """Find, choose and invert the faces of a part of a clip, or take them from a kept analysis.

    A clip without a face gives an analysis without tracks.
    """
    reference = None
    if face is not None and Path(face).is_file():
        reference = pack.detector.identify(Path(face))
    if kept is not None:
        chosen = select_tracks(kept.tracks, face or "all", reference=reference)
        return _choose_faces(kept, frames, [track.track_id for track in chosen])
    with clock.measure("detect"):
        shots, tracks = find_tracks(
            info, pack, plans, frames=frames, clock=clock, progress=progress, hardware=hardware
        )
    chosen = select_tracks(tracks, face or "largest", reference=reference)
    with clock.measure("invert"):
        return analyse(
            info,
            shots,
            chosen,
            pack,
            plans,
            frames=frames,
            clock=clock,
            progress=progress,
            hardware=hardware,
        )


def _choose_faces(kept: Analysis, frames: range, chosen: Sequence[int]) -> Analysis:
    places = [k for k, track in enumerate(kept.tracks) if track.track_id in chosen]
    return replace(
        kept,
        frames=frames,
        tracks=tuple(kept.tracks[k] for k in places),
        alignments=tuple(kept.alignments[k] for k in places),
        inversions=tuple(kept.inversions[k] for k in places),
        unedited=tuple(kept.unedited[k] for k in places),
    )


def frame_range(info: VideoInfo, span: Span) -> tuple[int, int]:
    """Return the half-open range of frames whose times lie in a span.

    Raises:
        PlanError: the span holds no frame.
    """
    times = info.seconds
    end = np.inf if span.end_seconds is None else span.end_seconds
    inside = np.flatnonzero((times >= span.start_seconds - 1e-9) & (times < end - 1e-9))
    if len(inside) == 0:
        until = "the end" if span.end_seconds is None else f"{end:g} s"
        raise PlanError(
            f"No frame of {info.path.name} lies between {span.start_seconds:g} s and {until}; its "
            f"frames are shown from 0 s to {times[-1]:.3f} s. Choose --start and --end there."
        )
    return int(inside[0]), int(inside[-1]) + 1


def find_tracks(
    info: VideoInfo,
    pack: Models,
    plans: Plans,
    *,
    frames: range,
    clock: Clock | None = None,
    progress: Progress,
    hardware: HardwareDecoder | None = None,
) -> tuple[tuple[Interval, ...], tuple[FaceTrack, ...]]:
    """Detect faces and cuts in one pass, and follow every person."""
    clock = Clock() if clock is None else clock
    shot_detector = ShotDetector()
    detections: list[list[Detection]] = []
    batches = decode(info, batch_size=8, start=frames.start, stop=frames.stop, hardware=hardware)
    for batch in read_ahead(_look_for_cuts(clock.follow("decode", batches), shot_detector, clock)):
        with clock.measure("find faces"):
            detections.extend(pack.detector.detect(batch))
        progress("detect", len(detections), len(frames))
    shots = shot_detector.shots(info.frame_count)
    tracks = track_faces(detections, seconds=info.seconds, plan=plans.tracking, shots=shots)
    bridged = tuple(
        bridge_gaps(track, seconds=info.seconds, shots=shots, plan=plans.tracking)
        for track in tracks
    )
    return shots, bridged


def _look_for_cuts(
    batches: Iterable[FrameBatch], detector: ShotDetector, clock: Clock
) -> Iterator[FrameBatch]:
    """Pass batches on, beside whoever detects faces in them."""
    for batch in batches:
        with clock.measure("find cuts"):
            detector.add(batch)
        yield batch


def analyse(
    info: VideoInfo,
    shots: tuple[Interval, ...],
    tracks: tuple[FaceTrack, ...],
    pack: Models,
    plans: Plans,
    *,
    frames: range | None = None,
    clock: Clock | None = None,
    progress: Progress,
    hardware: HardwareDecoder | None = None,
) -> Analysis:
    """Align and invert tracks in a part of the clip, None = all of it.

    Codes and masks stay as they were measured; `edit_faces` steadies them.
    """
    clock = Clock() if clock is None else clock
    frames = range(info.frame_count) if frames is None else frames
    seconds, steady = info.seconds, plans.stabilizer
    alignments = [
        stabilise_alignment(
            align(track, crop_size=pack.method.crop_size), seconds, steady, shots=shots
        )
        for track in tracks
    ]
    measured = None  # composites but the warped one draw every frame's codes
    if choose_composite(plans.render, pack.method) == "warped":
        measured = [
            choose_measured(one, pack.method, seconds, steady, shots=shots) for one in alignments
        ]
    first = min((int(a.indices[0]) for a in alignments), default=frames.start)
    last = max((int(a.indices[-1]) + 1 for a in alignments), default=first)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress("invert", done, last - first)

    batches = decode(
        info, batch_size=plans.render.batch_size, start=first, stop=last, hardware=hardware
    )
    inversions = invert(
        read_ahead(clock.follow("decode", batches)),
        alignments,
        pack.method,
        pack_sha256=pack.pack.sha256,
        method_name=pack.method_name,
        shots=shots,
        batch_size=plans.render.batch_size,
        device=pack.device,
        workers=pack.workers,
        measured=measured,
        progress=tell,
    )
    return Analysis(
        info=info,
        frames=frames,
        shots=shots,
        tracks=tracks,
        alignments=tuple(alignments),
        inversions=tuple(inversions),
        unedited=(None,) * len(inversions),
    )


def correct_masks(analysis: Analysis, plans: Plans, *, workers: int = 1) -> list[Inversion]:
    """Steady codes and masks, then shape and override the masks: what is rendered."""
    steady = partial(
        stabilise_inversion,
        seconds=analysis.info.seconds,
        plan=plans.stabilizer,
        shots=analysis.shots,
        workers=workers,
    )
    shaped = [shape_mask(steady(inversion), plans.render) for inversion in analysis.inversions]
    if plans.render.mask_override is None:
        return shaped
    painted = find_painted(plans.render.mask_override, info=analysis.info, frames=analysis.frames)
    return paint_masks(shaped, analysis.alignments, painted)


def _describe_steadiness(measured: Analysis, faces: Sequence[EditedFace]) -> list[dict[str, Any]]:
    """Say of every track how it shook before and after smoothing."""
    return [
        describe_steadiness(
            track,
            face.alignment,
            inversion,
            face.inversion,
            raw_alignment=align(track, crop_size=face.alignment.crop_size),
            shots=measured.shots,
        )
        for track, inversion, face in zip(measured.tracks, measured.inversions, faces, strict=True)
    ]


def mask_edits(analysis: Analysis, pack: Models, plans: Plans) -> Analysis:
    """Replace the masks as measured by those of the edit, for methods that find it on the source.

    Others' analyses come back as they are. Frames without an edit are kept whole.
    """
    if not isinstance(pack.method, EditPainter):
        return analysis
    times, shots, masked = analysis.info.seconds, analysis.shots, []
    for track, inversion in zip(analysis.tracks, analysis.inversions, strict=True):
        codes = stabilise_latents(inversion.latents, times, plans.stabilizer, shots=shots)
        fade = fade_at_gaps(
            codes.indices,
            times,
            shots=shots,
            frames=analysis.frames,
            fade_seconds=plans.render.fade_seconds,
        )
        face, seconds = track.track_id, times[codes.indices]
        mask = mask_edit(
            replace(inversion, latents=codes),
            apply_edit(codes, plans.edit, face=face, seconds=seconds, fade=fade),
            total_strength(plans.edit, face=face, seconds=seconds, fade=fade),
            pack.method,
            batch_size=plans.render.batch_size,
            device=pack.device,
        )
        masked.append(replace(inversion, mask=mask))
    return replace(analysis, inversions=tuple(masked))


def edit_faces(
    analysis: Analysis,
    plans: Plans,
    landmarks: LandmarkReadout | None = None,
    *,
    workers: int = 1,
) -> list[EditedFace]:
    """Steady every track, correct its masks, and move its codes as the plan says.

    `landmarks`: of the pack, for edits that move them; None = those move by their codes alone.
    `workers`: threads that steady masks; the result is the same.
    """
    faces = []
    for track, alignment, inversion, unedited in zip(
        analysis.tracks,
        analysis.alignments,
        correct_masks(analysis, plans, workers=workers),
        analysis.unedited,
        strict=True,
    ):
        indices = inversion.latents.indices
        seconds = analysis.info.seconds[indices]
        fade = fade_at_gaps(
            indices,
            analysis.info.seconds,
            shots=analysis.shots,
            frames=analysis.frames,
            fade_seconds=plans.render.fade_seconds,
        )
        codes = inversion.latents
        move = partial(
            apply_edit, codes, plans.edit, face=track.track_id, seconds=seconds, fade=fade
        )
        motion, runs = None, intervals_from_indices(indices, cuts=analysis.shots)
        steady = partial(
            stabilise_landmarks, seconds=seconds, plan=plans.stabilizer, intervals=runs
        )
        keys = find_key_points(track, alignment)
        if landmarks is not None:
            points = place_landmarks(
                steady(landmarks(codes.w_plus), filter_=LANDMARK_FILTER),
                steady(keys, filter_=KEY_FILTER),
            )
            motion = apply_motion(
                points, plans.edit, face=track.track_id, seconds=seconds, fade=fade
            )
        faces.append(
            EditedFace(
                alignment=alignment,
                inversion=inversion,
                edited=move(),
                strength=total_strength(
                    plans.edit, face=track.track_id, seconds=seconds, fade=fade
                ),
                presence=fade,
                seconds=seconds,
                intervals=runs,
                change_filter=plans.stabilizer.change,
                unedited=unedited if unedited and unedited.fits(codes) else None,
                motion=motion,
                beside_motion=None if motion is None else move(beside_motion=True),
                mouth=steady(keys[:, 3:], filter_=MOUTH_FILTER),
                colour_kept=colour_kept(plans.edit, face=track.track_id, seconds=seconds),
            )
        )
    return faces


def _make_writer(
    target: Path,
    info: VideoInfo,
    plans: Plans,
    *,
    frames: range,
    overwrite: bool,
    signer: ManifestSigner | None,
    segments: Path | None,
) -> VideoWriter:
    if segments is None:
        return VideoWriter(
            target,
            like=info,
            settings=plans.encode,
            overwrite=overwrite,
            start=frames.start,
            stop=frames.stop,
            comment=_mark(plans),
            signer=signer,
        )
    batch_size = plans.render.batch_size
    return SegmentedWriter(
        target,
        like=info,
        settings=plans.encode,
        directory=segments,
        overwrite=overwrite,
        start=frames.start,
        stop=frames.stop,
        comment=_mark(plans),
        signer=signer,
        # Whole batches: a network's last bits depend on what else is in its batch.
        segment_frames=-(-SEGMENT_FRAMES // batch_size) * batch_size,
    )


def open_hardware(info: VideoInfo, pack: Models, plans: Plans) -> HardwareDecoder | None:
    """Return what decodes beside the CPU, on the networks' first device; None = nothing shall.

    Raises:
        PlanError: it is asked for and not there.
    """
    if plans.hwaccel is None:
        return None
    return HardwareDecoder(plans.hwaccel, info, device=pack.devices[0].partition(":")[2])


def open_signer(info: VideoInfo, plans: Plans) -> ManifestSigner | None:
    """Return what signs the output with a C2PA manifest; None where the plans do not ask for it.

    Raises:
        PlanError: the certificate or key does not work; see `media.ManifestSigner`.
    """
    if plans.credentials is None:
        return None
    edited = bool(plans.edit.text) or plans.render.composite == "generated"
    return ManifestSigner(
        plans.credentials,
        source=info,
        edits=plans.edit.text,
        action="c2pa.edited" if edited else "c2pa.transcoded",
    )


def _mark(plans: Plans) -> str | None:
    if not plans.encode.mark:
        return None
    return f"Faces edited with vidinvert {VERSION} ({', '.join(plans.edit.text) or 'no edits'})"


def _no_face_message(info: VideoInfo, plans: Plans) -> str:
    return (
        f"No face found in {info.path.name} ({info.frame_count} frames, score threshold "
        f"{plans.tracking.min_score:g}, smallest face {plans.tracking.min_size:g} px). "
        "Lower --min-score or --min-size, or choose another part with --start and --end."
    )


def _report(
    measured: Analysis,
    target: str | Path,
    pack: Models,
    plans: Plans,
    clock: Clock,
    *,
    kept: Path | None,
    steadiness: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Assemble the report of house.md, section 6."""
    info = measured.info
    tracks: list[dict[str, Any]] = []
    for track, inversion, steady in zip(
        measured.tracks, measured.inversions, steadiness, strict=True
    ):
        boxes = track.boxes_xyxy
        tracks.append(
            {
                "id": track.track_id,
                "frames": len(track.indices),
                "first_frame": int(track.indices[0]),
                "last_frame": int(track.indices[-1]),
                "mean_score": float(track.score.mean()),
                "mean_face_height": float((boxes[:, 3] - boxes[:, 1]).mean()),
                "mean_ood": float(inversion.mask.ood.numpy().mean()) / 255.0,
                **steady,
            }
        )
    stages = ("probe", "detect", "invert", "render", "encode")
    seconds = {stage: round(clock.seconds.get(stage, 0.0), 3) for stage in stages}
    seconds["render"] = round(seconds["render"] - seconds["encode"], 3)
    clock.mark("total")
    seconds["total"] = round(clock.seconds["total"], 3)
    return {
        "source": str(info.path),
        "output": str(target),
        "frames": info.frame_count,
        "frame_rate": str(info.frame_rate),
        "size": [info.size_hw[1], info.size_hw[0]],
        "reader": info.reader,
        "reader_reason": info.reader_reason,
        "tracks": tracks,
        "salvage": _describe_salvage(info),
        "shots": [[shot.start, shot.stop] for shot in measured.shots],
        "analysis": None if kept is None else str(kept),
        "edit": list(plans.edit.text),
        "composite": choose_composite(plans.render, pack.method),
        "mark": plans.encode.mark,
        "pack": {"name": pack.pack.name, "sha256": pack.pack.sha256},
        "method": pack.method_name,
        "device": ",".join(pack.devices),
        "precision": pack.precision,
        "cuda_graphs": describe_graphs(pack.method),
        "seconds": seconds,
        "profile": clock.describe(),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": {"vidinvert": VERSION, "torch": torch.__version__, "numpy": np.__version__},
    }


def _describe_salvage(info: VideoInfo) -> dict[str, Any] | None:
    if info.salvage is None:
        return None
    return {
        "frames_kept": info.frame_count,
        "frames_lost": info.salvage.lost_frames,
        "missing_seconds": info.salvage.missing_seconds,
        "reasons": list(info.salvage.reasons),
    }


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far; 0 where that is not known.

    Linux's own count starts afresh with the program; what `getrusage` says there begins at the size
    of the process that started it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return 0
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
