"""Cuts the crops of an alignment out of frames."""

import numpy as np
from torch import Tensor

from vidinvert import images
from vidinvert.geometry import crop_frame
from vidinvert.types import Alignment, FrameBatch, Int64Array


def crop_batch(batch: FrameBatch, alignment: Alignment) -> tuple[Int64Array, Tensor]:
    """Cut a track's crops out of the frames of a batch that show it.

    Returns:
        Positions (K,) along the alignment's T axis, and crops (K, 3, R, R) in [-1, 1] on the CPU.
    """
    positions = np.flatnonzero(np.isin(alignment.indices, batch.indices))
    size = alignment.crop_size
    crops = np.empty((len(positions), size, size, 3), np.uint8)
    offset = np.searchsorted(batch.indices, alignment.indices[positions])
    for row, (position, frame) in enumerate(zip(positions, offset, strict=True)):
        crops[row] = crop_frame(batch.frames[frame], alignment.crop_from_frame[position], size)
    return positions, images.to_float(crops)
