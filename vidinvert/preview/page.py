"""One self-contained page: frames, masks and curves, to be opened by a double click.

The template `page.html` stands beside this file; everything that differs from clip to clip is
added as JSON: a scene, then one record per sampled frame, written as they come. Masks go in
losslessly, in the geometry of the crop, as the renderer uses them; other pictures are lossy and as
large as the size allows.
"""

import base64
import json
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vidinvert import images
from vidinvert.analysis import Analysis
from vidinvert.changes import EditedFace
from vidinvert.errors import PlanError
from vidinvert.geometry import compose, corner_transform, invert_similarity, paste_window
from vidinvert.media import PendingFile
from vidinvert.methods import Method
from vidinvert.preview.curves import FaceCurves, find_spots
from vidinvert.preview.pictures import (
    FLOW_SIDE,
    FLOW_STEP,
    HEAT_OPACITY,
    OUTLINE_AT,
    heat_table,
    picture_face,
)
from vidinvert.rendering import render
from vidinvert.types import FrameBatch, Plans, UInt8Array
from vidinvert.version import VERSION

LARGEST_PICTURE = 720  # pixels of a frame's longer side in the page
MEGABYTE = 1_000_000
PAGE_SUFFIXES = (".html", ".htm")
SPLIT = "<!-- frames -->"
SCENE = "/* scene */null"

# What is tried until a frame fits: WebP quality, and the share of the picture's size.
_LADDER = ((84, 1.0), (74, 1.0), (62, 1.0), (48, 1.0), (40, 0.7), (32, 0.5), (25, 0.35))


class PageWriter:
    """Write the page frame by frame; a context manager.

    Leaving it normally gives the file its name; an exception removes everything.

    Args:
        target: ends in .html or .htm.
        analysis: of the clip.
        faces: as rendered: their masks are what the page shows.
        curves: one per face.
        method: what inverted them.
        plans: as rendered; without an edit there are no edited pictures.
        indices: the frames to show, in order.
        max_bytes: the file is not larger than this.
        device: where the networks live.
        overwrite: replace an existing file.

    Attributes:
        written: bytes so far.

    Raises:
        EncodeError: the file cannot be created there.
        PlanError: the frames do not fit into `max_bytes`.
    """

    def __init__(
        self,
        target: Path,
        *,
        analysis: Analysis,
        faces: Sequence[EditedFace],
        curves: Sequence[FaceCurves],
        method: Method,
        plans: Plans,
        indices: Sequence[int],
        max_bytes: int,
        device: str = "cpu",
        overwrite: bool = False,
    ) -> None:
        self._file = PendingFile(
            target, source=analysis.info.path, overwrite=overwrite, suffixes=PAGE_SUFFIXES
        )
        self._info, self._faces, self._method = analysis.info, list(faces), method
        self._plans, self._device = plans, device
        self._edited = bool(plans.edit.terms)
        self._due: list[FrameBatch] = []
        self._rendered = render(self._batches(), self._faces, method, plans.render, device=device)
        self._indices = np.array(indices, dtype=np.int64)
        self._size_hw = picture_size(analysis)
        template = resources.files("vidinvert.preview").joinpath("page.html")
        scene = describe_scene(analysis, curves, plans, indices, self._size_hw)
        self._head, tail = template.read_text(encoding="utf-8").split(SPLIT)
        self._tail = tail.replace(SCENE, _json(scene), 1)
        self._room = max_bytes - len(self._head.encode()) - len(self._tail.encode())
        self._max_bytes, self._added, self._spent, self._rung = max_bytes, 0, 0, 0
        self.written = 0

    def __enter__(self) -> Self:
        self._file.create()
        self._out = self._file.path.open("wb")
        self._write(self._head)
        return self

    def _batches(self) -> Iterator[FrameBatch]:
        """Hand on what is due: one renderer serves all batches, as what it keeps serves many."""
        while self._due:
            yield self._due.pop()

    def _write(self, text: str) -> None:
        data = text.encode()
        self._out.write(data)
        self.written += len(data)

    def add(self, batch: FrameBatch) -> None:
        """Add the frames of a batch that the page shows."""
        wanted = np.isin(batch.indices, self._indices)
        if not wanted.any():
            return
        batch = FrameBatch(frames=batch.frames[wanted], indices=batch.indices[wanted])
        records: list[dict[str, Any]] = [{"faces": []} for _ in batch.indices]
        windows: list[tuple[int, int, int, int] | None] = [None] * len(records)
        for number, face in enumerate(self._faces):
            self._add_face(batch, number, face, records, windows)
        after = batch.frames
        if self._edited:
            self._due.append(batch)
            after = next(self._rendered).frames
        for k, record in enumerate(records):
            record["i"] = int(batch.indices[k])
            record["source"] = images.shrink(batch.frames[k], self._size_hw)
            window = windows[k]
            if self._edited and window is not None:
                left, top, right, bottom = window
                record["window"] = [left, top, right - left, bottom - top]
                small = images.shrink(after[k], self._size_hw)
                record["composite"] = small[top:bottom, left:right]
            self._write_record(record)

    def _add_face(
        self,
        batch: FrameBatch,
        number: int,
        face: EditedFace,
        records: list[dict[str, Any]],
        windows: list[tuple[int, int, int, int] | None],
    ) -> None:
        shown = picture_face(
            batch,
            face,
            self._method,
            self._plans.render,
            edited=self._edited,
            device=self._device,
        )
        picture_from_frame = self._picture_from_frame()
        for k, position in enumerate(shown.positions):
            place = int(np.searchsorted(batch.indices, face.alignment.indices[position]))
            frame_from_crop = invert_similarity(face.alignment.crop_from_frame[position])
            matrix = compose(picture_from_frame, corner_transform(frame_from_crop))
            entry: dict[str, Any] = {
                "face": number,
                "matrix": [round(float(v), 4) for v in matrix.T.ravel()],  # a b c d e f
                "mask": _uri(
                    images.encode_png(face.inversion.mask.ood[position, 0].numpy()), "png"
                ),
                "inverted": shown.inverted[k],
            }
            if shown.edited is not None:
                entry["edited"] = shown.edited[k]
            if shown.flow is not None:
                entry["flow"] = base64.b64encode(shown.flow[k].tobytes()).decode()
            records[place]["faces"].append(entry)
            quad = face.alignment.quads_xy[position] @ picture_from_frame[:, :2].T
            windows[place] = _around(windows[place], paste_window(quad, self._size_hw))

    def _picture_from_frame(self) -> NDArray[np.float64]:
        """Corner-based points of the frame to the page's picture."""
        across = self._size_hw[1] / self._info.size_hw[1]
        down = self._size_hw[0] / self._info.size_hw[0]
        return np.array([[across, 0.0, 0.0], [0.0, down, 0.0]])

    def _write_record(self, record: dict[str, Any]) -> None:
        """Write a record as good as its share of the room allows, or else as small as it gets."""
        self._added += 1
        share = self._room * self._added // len(self._indices) - self._spent
        self._rung = max(0, self._rung - 1)
        text = _record_text(record, *_LADDER[self._rung])
        while len(text) > share and self._rung + 1 < len(_LADDER):
            self._rung += 1
            text = _record_text(record, *_LADDER[self._rung])
        self._spent += len(text)
        if self._spent <= self._room:
            self._write(text)
            return
        raise PlanError(
            f"{len(self._indices)} frames do not fit into {self._max_bytes / MEGABYTE:g} MB, "
            "expected fewer frames or more room; lower --frames or raise --max-size."
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._write(self._tail)
            self._out.close()
            if error is None:
                self._file.commit()
        finally:
            self._file.discard()


def picture_size(analysis: Analysis) -> tuple[int, int]:
    """Return the height and width of a frame in the page, with square pixels."""
    height, width = analysis.info.size_hw
    width *= float(analysis.info.sample_aspect_ratio)
    scale = min(1.0, LARGEST_PICTURE / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def describe_scene(
    analysis: Analysis,
    curves: Sequence[FaceCurves],
    plans: Plans,
    indices: Sequence[int],
    size_hw: tuple[int, int],
) -> dict[str, Any]:
    """Return what the page knows besides its frames, ready for JSON."""
    info, frames = analysis.info, analysis.frames
    seconds = info.seconds
    cuts = [shot.start for shot in analysis.shots if frames.start < shot.start < frames.stop]
    faces = [
        {
            "id": track.track_id,
            "frames": curve.indices.tolist(),
            "values": {name: _numbers(values) for name, values in curve.values.items()},
            "gaps": [[gap.start, gap.stop] for gap in curve.gaps],
            "spots": [
                {"frame": spot.frame, "reasons": list(spot.reasons)}
                for spot in find_spots(curve, seconds=seconds)
            ],
        }
        for track, curve in zip(analysis.tracks, curves, strict=True)
    ]
    return {
        "version": VERSION,
        "clip": info.path.name,
        "size": [info.size_hw[1], info.size_hw[0]],
        "rate": round(float(info.frame_rate), 3),
        "frames": [frames.start, frames.stop],
        "seconds": [round(float(s), 4) for s in seconds[frames.start : frames.stop]],
        "sampled": list(indices),
        "picture": [size_hw[1], size_hw[0]],
        "crop": analysis.alignments[0].crop_size,
        "edit": list(plans.edit.text),
        "cuts": cuts,
        "faces": faces,
        "flow": {"side": FLOW_SIDE, "step": FLOW_STEP},
        "heat": {
            "table": base64.b64encode(heat_table().tobytes()).decode(),
            "opacity": HEAT_OPACITY,
        },
        "outline": OUTLINE_AT,
    }


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(v), 4) if math.isfinite(v) else None for v in values]


def _around(
    first: tuple[int, int, int, int] | None, second: tuple[int, int, int, int] | None
) -> tuple[int, int, int, int] | None:
    """Return the window around two."""
    if first is None or second is None:
        return first or second
    left, top, right, bottom = zip(first, second, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _record_text(record: dict[str, Any], quality: int, scale: float) -> str:
    """Encode a record's pictures and wrap it for the page."""

    def encoded(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _lossy(value, quality, scale)
        if isinstance(value, dict):
            return {name: encoded(part) for name, part in value.items()}
        if isinstance(value, list):
            return [encoded(part) for part in value]
        return value

    return f'<script type="application/json" class="frame">{_json(encoded(record))}</script>\n'


def _lossy(picture: UInt8Array, quality: int, scale: float) -> str:
    height, width = picture.shape[:2]
    size_hw = (max(1, round(scale * height)), max(1, round(scale * width)))
    return _uri(images.encode_webp(images.shrink(picture, size_hw), quality=quality), "webp")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no name ends it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
