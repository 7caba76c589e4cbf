"""Turns a track's key points into crops: FFHQ's framing, frame by frame."""

import numpy as np

from vidinvert.geometry import crop_from_quad, ffhq_quads
from vidinvert.types import Alignment, FaceTrack


def align(track: FaceTrack, *, crop_size: int) -> Alignment:
    """Place a crop of `crop_size` pixels on the track's face in each of its frames.

    The result is as unsteady as the key points; `stabilizers.smooth_similarities` steadies it.

    Raises:
        ValueError: `crop_size` is not positive.
    """
    if crop_size < 1:
        raise ValueError(f"crop_size is {crop_size}, expected a number of pixels >= 1")
    quads_xy = ffhq_quads(track.landmarks_xy)  # (T, 4, 2)
    transforms = [crop_from_quad(quad_xy, crop_size) for quad_xy in quads_xy]
    return Alignment(
        crop_from_frame=np.array(transforms, dtype=np.float64).reshape(-1, 2, 3),
        crop_size=crop_size,
        indices=track.indices,
        quads_xy=quads_xy,
    )
