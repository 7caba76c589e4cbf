"""A contact sheet: frames with their masks, numbers and times, in one picture."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from vidinvert import images
from vidinvert.changes import EditedFace
from vidinvert.media import PendingFile
from vidinvert.preview.pictures import paint_heat
from vidinvert.types import FrameBatch, UInt8Array, VideoInfo

SHEET_SUFFIXES = (".png",)
COLUMNS = 6
CELL_WIDTH = 320  # pixels
LABEL_HEIGHT = 26
GAP = 6
_PAPER = 24  # grey level between the pictures


class SheetWriter:
    """Collect frames and write them as one PNG when the block ends; a context manager.

    Args:
        target: ends in .png.
        info: the clip.
        faces: whose masks are drawn.
        indices: the frames to show, in order.
        overwrite: replace an existing file.

    Raises:
        EncodeError: the file cannot be created there.
    """

    def __init__(
        self,
        target: Path,
        *,
        info: VideoInfo,
        faces: Sequence[EditedFace],
        indices: Sequence[int],
        overwrite: bool = False,
    ) -> None:
        self._file = PendingFile(
            target, source=info.path, overwrite=overwrite, suffixes=SHEET_SUFFIXES
        )
        self._info, self._faces, self._wanted = info, faces, set(indices)
        self._cells: list[UInt8Array] = []

    def __enter__(self) -> Self:
        self._file.create()
        return self

    def add(self, batch: FrameBatch) -> None:
        """Keep the frames of a batch that belong on the sheet, small."""
        for index, frame in zip(batch.indices.tolist(), batch.frames, strict=True):
            if index in self._wanted:
                height, width = self._info.size_hw
                aspect = float(self._info.sample_aspect_ratio) * width / height
                size_hw = (max(1, round(CELL_WIDTH / aspect)), CELL_WIDTH)
                picture = images.shrink(paint_heat(frame, index, self._faces), size_hw)
                text = f"{index}   {self._info.seconds[index]:.2f} s"
                label = images.draw_text(text, height=LABEL_HEIGHT, width=CELL_WIDTH)
                self._cells.append(np.concatenate([label, picture]))

    def _arrange(self) -> UInt8Array:
        columns = min(COLUMNS, len(self._cells))
        rows = -(-len(self._cells) // columns)
        height, width = self._cells[0].shape[:2]
        shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3)
        sheet = np.full(shape, _PAPER, np.uint8)
        for number, cell in enumerate(self._cells):
            row, column = divmod(number, columns)
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            sheet[top : top + height, left : left + width] = cell
        return sheet

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._file.path.write_bytes(images.encode_png(self._arrange()))
                self._file.commit()
        finally:
            self._file.discard()
