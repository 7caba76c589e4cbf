import numpy as np
import pytest

from tests.faces.people import clip, face, seconds
from vidinvert.faces import align, find_key_points, place_landmarks, track_faces
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


def test_key_points_are_given_in_shares_of_the_crop():
    track = moving_track()
    alignment = align(track, crop_size=64)
    found = find_key_points(track, alignment)
    assert found.shape == (12, 5, 2)
    expected = transform_points(alignment.crop_from_frame[3], track.landmarks_xy[3])
    np.testing.assert_allclose(64 * found[3] - 0.5, expected)


def landmarks():
    """68 points, (1, 68, 2), that are nothing but apart from each other."""
    return np.random.default_rng(3).uniform(0.2, 0.8, (1, 68, 2))


def five_of(points):
    eyes = [points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)]
    return np.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], axis=1)


def test_landmarks_go_where_the_face_was_detected():
    turn = np.array([[0.9, -0.3, 0.05], [0.3, 0.9, -0.02]])
    detected = transform_points(turn, five_of(landmarks()))
    placed = place_landmarks(landmarks(), detected)
    np.testing.assert_allclose(placed, transform_points(turn, landmarks()), atol=1e-12)
    np.testing.assert_allclose(place_landmarks(landmarks(), five_of(landmarks())), landmarks())


def test_a_mouth_gets_the_corners_that_were_detected_and_keeps_its_shape():
    detected = five_of(landmarks())
    detected[0, 3] += [0.03, 0.01]
    placed = place_landmarks(landmarks(), detected)
    np.testing.assert_allclose(placed[0, [48, 54]], detected[0, 3:], atol=1e-12)
    before, after = landmarks()[0, 48:], placed[0, 48:]
    scale = np.linalg.norm(after[6] - after[0]) / np.linalg.norm(before[6] - before[0])
    for point in (3, 9, 14, 18):
        apart = np.linalg.norm(after[point] - after[0]) / np.linalg.norm(before[point] - before[0])
        assert apart == pytest.approx(scale)
    assert np.abs(placed[0, :48] - landmarks()[0, :48]).max() < 0.03


def test_a_detection_without_a_mouth_leaves_the_mouth_with_the_face():
    detected = five_of(landmarks())
    detected[0, 3] = detected[0, 4]
    assert np.isfinite(place_landmarks(landmarks(), detected)).all()
