import numpy as np
import pytest

from tests.faces.people import clip, face, seconds
from vidinvert.faces import align, track_faces
from vidinvert.geometry import ffhq_quads, quad_from_crop, transform_points
from vidinvert.types import TrackingPlan


def moving_track():
    frames = clip(12, lambda t: face(t, (200 + 3 * t, 150 - t), size=100 + 4 * t))
    (track,) = track_faces(frames, seconds=seconds(12), plan=TrackingPlan(), shots=())
    return track


@pytest.mark.parametrize("crop_size", [128, 256])
def test_the_face_stands_still_in_its_crop(crop_size):
    track = moving_track()
    alignment = align(track, crop_size=crop_size)
    seen = np.stack(
        [
            transform_points(crop_from_frame, points)
            for crop_from_frame, points in zip(
                alignment.crop_from_frame, track.landmarks_xy, strict=True
            )
        ]
    )
    np.testing.assert_allclose(seen, np.broadcast_to(seen[0], seen.shape), atol=1e-9)
    assert 0.2 * crop_size < seen.min()
    assert seen.max() < 0.8 * crop_size


def test_quads_and_transforms_say_the_same():
    track = moving_track()
    alignment = align(track, crop_size=64)
    assert alignment.crop_size == 64
    np.testing.assert_array_equal(alignment.indices, track.indices)
    np.testing.assert_allclose(alignment.quads_xy, ffhq_quads(track.landmarks_xy))
    for crop_from_frame, quad_xy in zip(alignment.crop_from_frame, alignment.quads_xy, strict=True):
        np.testing.assert_allclose(quad_from_crop(crop_from_frame, 64), quad_xy, atol=1e-9)


def test_a_crop_has_pixels():
    with pytest.raises(ValueError, match="crop_size is 0"):
        align(moving_track(), crop_size=0)
