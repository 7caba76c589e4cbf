import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stabilizers import StabilizerPlan
from vidinvert.types import (
    Alignment,
    Detection,
    EditTerm,
    Embedding,
    FaceTrack,
    FrameBatch,
    InvertibilityMask,
    Keyframe,
    LatentDirection,
    Latents,
    Plans,
    RenderPlan,
    Synthesis,
    VideoInfo,
    check_dtype,
    check_increasing,
    check_shape,
)


def indices(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def info(**changes: object) -> VideoInfo:
    fields = {
        "path": Path("/clips/talk.mp4"),
        "size_hw": (48, 64),
        "coded_size_hw": (48, 64),
        "time_base": Fraction(1, 90000),
        "frame_rate": Fraction(30000, 1001),
        "pts": indices(9000, 12003, 15006),
        "durations": indices(3003, 3003, 3003),
        "codec": "h264",
        "pixel_format": "yuv420p",
        "container": "mov",
    }
    return VideoInfo(**(fields | changes))


def direction() -> LatentDirection:
    return LatentDirection(
        name="smile", vector=torch.zeros(4, 8), layers=(0, 1), unit="1 sd", source="made here"
    )


def term(*keyframes: tuple[float, float]) -> EditTerm:
    frames = tuple(Keyframe(seconds=seconds, strength=strength) for seconds, strength in keyframes)
    return EditTerm(direction=direction(), keyframes=frames)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5), (4, 4), (3, 5)])
def test_a_shape_that_does_not_fit_is_named_with_what_was_expected(shape):
    with pytest.raises(ValueError, match=r"thing has shape .* expected \(3, 4\)"):
        check_shape("thing", np.zeros(shape), (3, 4))


def test_none_stands_for_any_length():
    check_shape("thing", np.zeros((7, 4)), (None, 4))
    check_shape("thing", torch.zeros(0, 4), (None, 4))
    with pytest.raises(ValueError, match=r"expected \(any, 4\)"):
        check_shape("thing", np.zeros((7, 5)), (None, 4))


def test_a_dtype_that_does_not_fit_is_named():
    check_dtype("thing", np.zeros(2, np.int64), np.int64)
    with pytest.raises(ValueError, match="thing has dtype float32, expected int64"):
        check_dtype("thing", np.zeros(2, np.float32), np.int64)


def test_indices_increase_from_zero_up():
    check_increasing("indices", indices())
    check_increasing("indices", indices(0, 3, 4))
    for wrong in (indices(1, 1), indices(2, 1), indices(-1, 2)):
        with pytest.raises(ValueError, match="strictly increasing and >= 0"):
            check_increasing("indices", wrong)
    with pytest.raises(ValueError, match="dtype"):
        check_increasing("indices", np.arange(3, dtype=np.int32))


def test_times_start_at_zero_and_are_exact_ticks():
    assert info().frame_count == 3
    np.testing.assert_allclose(info().seconds, [0, 1001 / 30000, 2002 / 30000], rtol=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pts": indices(), "durations": indices()}, "pts is empty"),
        ({"pts": indices(3, 3, 4)}, "pts must be strictly increasing"),
        ({"pts": np.zeros((3, 1), np.int64)}, "pts has shape"),
        ({"pts": np.arange(3.0)}, "pts has dtype float64"),
        ({"durations": indices(1)}, "durations has shape"),
        ({"rotation_deg": 45}, "expected 0, 90, 180 or 270"),
    ],
)
def test_a_clip_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        info(**changes)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_quarter_turns_are_rotations(rotation):
    assert info(rotation_deg=rotation).rotation_deg == rotation


@pytest.mark.parametrize(
    ("frames", "places"),
    [
        (np.zeros((2, 4, 4), np.uint8), indices(0, 1)),
        (np.zeros((2, 4, 4, 4), np.uint8), indices(0, 1)),
        (np.zeros((2, 4, 4, 3), np.float32), indices(0, 1)),
        (np.zeros((2, 4, 4, 3), np.uint8), indices(0)),
        (np.zeros((2, 4, 4, 3), np.uint8), indices(1, 0)),
    ],
)
def test_frames_are_pictures_with_their_indices(frames, places):
    FrameBatch(frames=np.zeros((2, 4, 4, 3), np.uint8), indices=indices(5, 6))
    with pytest.raises(ValueError, match=r"frames has|indices (has|must)"):
        FrameBatch(frames=frames, indices=places)


@pytest.mark.parametrize(("box", "points"), [((5,), (5, 2)), ((4,), (4, 2)), ((4,), (5, 3))])
def test_a_face_has_a_box_and_five_points(box, points):
    with pytest.raises(ValueError, match=r"(box_xyxy|landmarks_xy) has shape"):
        Detection(frame_index=0, box_xyxy=np.zeros(box), landmarks_xy=np.zeros(points), score=0.9)


@pytest.mark.parametrize("field", ["indices", "landmarks_xy", "boxes_xyxy", "score"])
def test_a_track_has_as_many_of_everything(field):
    fields = {
        "indices": indices(0, 2),
        "landmarks_xy": np.zeros((2, 5, 2)),
        "boxes_xyxy": np.zeros((2, 4)),
        "score": np.zeros(2),
    }
    assert FaceTrack(track_id=0, **fields).identity is None
    fields[field] = fields[field][:1]
    with pytest.raises(ValueError, match="has shape"):
        FaceTrack(track_id=0, **fields)


@pytest.mark.parametrize(
    ("transforms", "quads"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 4, 2))),
        (np.zeros((2, 2, 3), np.float32), np.zeros((2, 4, 2))),
        (np.zeros((2, 2, 3)), np.zeros((2, 2))),
    ],
)
def test_an_alignment_is_one_similarity_and_one_quad_a_frame(transforms, quads):
    with pytest.raises(ValueError, match=r"(crop_from_frame|quads_xy) has"):
        Alignment(crop_from_frame=transforms, crop_size=8, indices=indices(0, 1), quads_xy=quads)


def test_codes_have_three_axes():
    with pytest.raises(ValueError, match="w_plus has shape"):
        Embedding(w_plus=torch.zeros(2, 8))
    with pytest.raises(ValueError, match="w_plus has shape"):
        Latents(w_plus=torch.zeros(2, 4, 8), indices=indices(0))


def test_codes_are_kept_in_full_precision():
    with pytest.raises(ValueError, match=r"expected torch\.float32"):
        Latents(w_plus=torch.zeros(1, 4, 8, dtype=torch.float16), indices=indices(0))


@pytest.mark.parametrize(
    ("image", "ood"), [((2, 4, 8, 8), (2, 1, 8, 8)), ((2, 3, 8, 8), (2, 1, 4, 4))]
)
def test_a_picture_and_its_mask_have_one_size(image, ood):
    with pytest.raises(ValueError, match=r"(image|ood) has shape"):
        Synthesis(image=torch.zeros(image), ood=torch.zeros(ood))


def test_masks_are_stored_in_bytes():
    with pytest.raises(ValueError, match=r"expected torch\.uint8"):
        InvertibilityMask(ood=torch.zeros(1, 1, 4, 4), indices=indices(0))
    with pytest.raises(ValueError, match="ood has shape"):
        InvertibilityMask(ood=torch.zeros(1, 4, 4, dtype=torch.uint8), indices=indices(0))


def test_the_pictures_of_a_mask_are_bytes_of_its_size():
    ood = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="guide has dtype"):
        InvertibilityMask(ood=ood, indices=indices(0), guide=ood.float())
    with pytest.raises(ValueError, match="guide has shape"):
        InvertibilityMask(ood=ood, indices=indices(0), guide=ood[..., :2])


def test_a_fade_takes_no_negative_time():
    with pytest.raises(ValueError, match=r"fade_seconds is -0\.1, expected a number >= 0"):
        RenderPlan(fade_seconds=-0.1)


def test_a_direction_has_one_vector_a_level():
    with pytest.raises(ValueError, match="vector has shape"):
        LatentDirection(name="age", vector=torch.zeros(8), layers=(), unit="", source="")


def test_one_keyframe_holds_for_the_whole_clip():
    assert term((3.0, 2.0)).strength_at(np.array([0.0, 3.0, 9.0])).tolist() == [2.0, 2.0, 2.0]


def test_between_keyframes_the_strength_is_linear_and_outside_constant():
    strengths = term((1.0, 0.0), (3.0, 4.0)).strength_at(np.array([0.0, 1.0, 1.5, 3.0, 8.0]))
    np.testing.assert_allclose(strengths, [0.0, 0.0, 1.0, 4.0, 4.0])


def test_an_edit_needs_a_keyframe():
    with pytest.raises(ValueError, match="keyframes is empty"):
        term()


@pytest.mark.parametrize("times", [(1.0, 1.0), (2.0, 1.0)])
def test_keyframes_are_in_order(times):
    with pytest.raises(ValueError, match="strictly increasing times"):
        term(*((time, 1.0) for time in times))


@pytest.mark.parametrize("feather", [0.0, -0.1, 0.6])
def test_the_seams_width_is_a_share(feather):
    with pytest.raises(ValueError, match=r"expected a share in \(0, 0\.5\]"):
        RenderPlan(feather=feather)


def test_a_batch_holds_at_least_one_crop():
    with pytest.raises(ValueError, match="expected 1 or more"):
        RenderPlan(batch_size=0)


def test_plans_start_from_the_defaults_of_their_parts():
    assert Plans().stabilizer == StabilizerPlan()
    assert Plans().render == RenderPlan()


def test_values_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plans().render = RenderPlan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        info().rotation_deg = 90
