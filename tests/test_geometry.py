import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from vidinvert.geometry import (
    add_levels,
    blur,
    box_of_change,
    compose,
    copy_where,
    crop_frame,
    crop_from_quad,
    displace,
    ffhq_quads,
    fine_flow,
    fit_similarity,
    invert_similarity,
    largest_channel,
    quad_from_crop,
    quad_of_box,
    quick_flow,
    resample,
    resized_crop,
    scale_of,
    split_motion,
    squared_difference,
    transform_points,
    turn_vectors,
    warp,
    within,
)

# facexlib's template of an FFHQ face of 512 pixels (methods.md, section 10)
TEMPLATE_512_XY = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]
)

similarities = st.builds(
    lambda scale, angle, x, y: similarity(scale, angle, x, y),
    st.floats(0.05, 20.0),
    st.floats(-10.0, 10.0),
    st.floats(-2000.0, 2000.0),
    st.floats(-2000.0, 2000.0),
)


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def points(seed: int, count: int = 5, spread: float = 200.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, spread, (count, 2))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose first two channels are its own x and y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)


@settings(deadline=None)
@given(similarities, st.integers(0, 99))
def test_there_and_back_is_exact_to_a_billionth_of_a_pixel(b_from_a, seed):
    points_xy = points(seed, spread=2000.0)
    there = transform_points(b_from_a, points_xy)
    back = transform_points(invert_similarity(b_from_a), there)
    assert np.abs(back - points_xy).max() < 1e-9 * max(1.0, 1.0 / scale_of(b_from_a))


@settings(deadline=None)
@given(similarities, similarities, st.integers(0, 99))
def test_composing_is_mapping_twice(c_from_b, b_from_a, seed):
    points_xy = points(seed)
    once = transform_points(compose(c_from_b, b_from_a), points_xy)
    twice = transform_points(c_from_b, transform_points(b_from_a, points_xy))
    np.testing.assert_allclose(once, twice, rtol=1e-12, atol=1e-8)


@given(similarities)
def test_the_scale_is_that_of_lengths(b_from_a):
    ends = transform_points(b_from_a, np.array([[3.0, 4.0], [8.0, 16.0]]))
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(13 * scale_of(b_from_a), rel=1e-9)


def test_points_of_any_batch_shape_are_mapped():
    b_from_a, points_xy = similarity(2, 0.3, 5, 6), points(1, 12).reshape(3, 4, 2)
    many, one = transform_points(b_from_a, points_xy), transform_points(b_from_a, points_xy[2, 1])
    np.testing.assert_allclose(many[2, 1], one, rtol=1e-14)


def test_a_transform_that_collapses_the_plane_has_no_inverse():
    with pytest.raises(ValueError, match="its scale is zero"):
        invert_similarity(np.zeros((2, 3)))


@settings(deadline=None)
@given(similarities, st.integers(0, 99))
def test_the_fit_finds_the_similarity_that_made_the_points(b_from_a, seed):
    source = points(seed)
    fitted = fit_similarity(source, transform_points(b_from_a, source))
    np.testing.assert_allclose(fitted, b_from_a, rtol=0, atol=1e-8)


@pytest.mark.parametrize("seed", range(8))
def test_the_fit_is_the_least_squares_one(seed):
    source, target = points(seed), points(seed + 100)

    def residuals(parameters: np.ndarray) -> np.ndarray:
        a, b, x, y = parameters
        return (transform_points(np.array([[a, -b, x], [b, a, y]]), source) - target).ravel()

    best = optimize.least_squares(residuals, [1.0, 0.0, 0.0, 0.0], xtol=1e-15, ftol=1e-15).x
    expected = np.array([[best[0], -best[1], best[2]], [best[1], best[0], best[3]]])
    np.testing.assert_allclose(fit_similarity(source, target), expected, rtol=0, atol=1e-5)


def test_the_fit_never_mirrors():
    source = points(4)
    mirrored = source * [-1, 1]
    assert np.linalg.det(fit_similarity(source, mirrored)[:, :2]) >= 0


@pytest.mark.parametrize(
    ("source", "target"),
    [(points(0, 3), points(0, 4)), (points(0, 1), points(0, 1)), (np.zeros(4), np.zeros(4))],
)
def test_the_fit_needs_two_pairs_of_points(source, target):
    with pytest.raises(ValueError, match=r"expected two times \(K, 2\) with K >= 2"):
        fit_similarity(source, target)


def test_the_fit_needs_points_that_are_apart():
    with pytest.raises(ValueError, match="all source points coincide"):
        fit_similarity(np.ones((5, 2)), points(0))


def test_the_crop_of_a_face_is_nearly_ffhqs_own():
    quad_xy = ffhq_quads(TEMPLATE_512_XY)
    np.testing.assert_allclose(quad_xy.mean(axis=0), [256.07, 253.19], atol=0.01)
    assert np.linalg.norm(quad_xy[3] - quad_xy[0]) == pytest.approx(503.7, abs=0.1)


def test_quads_are_upright_squares_in_ffhqs_order():
    top_left, bottom_left, bottom_right, top_right = ffhq_quads(TEMPLATE_512_XY)
    np.testing.assert_allclose(bottom_left - top_left, bottom_right - top_right, atol=1e-9)
    across, down = top_right - top_left, bottom_left - top_left
    assert across @ down == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(across) == pytest.approx(np.linalg.norm(down))
    assert across[0] > 0
    assert down[1] > 0


@settings(deadline=None)
@given(similarities)
def test_the_quad_moves_with_the_face(b_from_a):
    moved = ffhq_quads(transform_points(b_from_a, TEMPLATE_512_XY))
    np.testing.assert_allclose(
        moved, transform_points(b_from_a, ffhq_quads(TEMPLATE_512_XY)), rtol=1e-9, atol=1e-6
    )


def test_quads_of_many_frames_are_those_of_each():
    landmarks = np.stack([TEMPLATE_512_XY, TEMPLATE_512_XY[:, ::-1] + 3.0])
    np.testing.assert_array_equal(ffhq_quads(landmarks)[1], ffhq_quads(landmarks[1]))


@settings(deadline=None)
@given(similarities, st.sampled_from([64, 255, 256, 1024]))
def test_quads_and_crops_say_the_same(frame_from_face, crop_size):
    quad_xy = transform_points(frame_from_face, ffhq_quads(TEMPLATE_512_XY))
    back = quad_from_crop(crop_from_quad(quad_xy, crop_size), crop_size)
    np.testing.assert_allclose(back, quad_xy, rtol=1e-12, atol=1e-6)


def test_a_crops_corners_are_the_outer_edge_of_its_pixels():
    quad_xy = np.array([[-0.5, -0.5], [-0.5, 15.5], [15.5, 15.5], [15.5, -0.5]])
    np.testing.assert_allclose(crop_from_quad(quad_xy, 16), np.eye(2, 3), atol=1e-12)
    np.testing.assert_allclose(crop_from_quad(quad_xy, 8)[:, 2], -0.25, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_the_identity_warp_is_exact(interpolation):
    frame = picture(9, 13)
    np.testing.assert_array_equal(
        warp(frame, np.eye(2, 3), (9, 13), interpolation=interpolation), frame
    )


def test_a_warp_moves_the_picture_the_way_it_is_named():
    frame = picture(10, 12)
    moved = warp(frame, np.array([[1.0, 0.0, 3.0], [0.0, 1.0, 2.0]]), (10, 12))
    np.testing.assert_array_equal(moved[2:, 3:], frame[:-2, :-3])
    assert not moved[:2].any()
    assert not moved[:, :3].any()


def test_a_warp_can_repeat_the_border():
    frame = picture(4, 4)
    moved = warp(frame, np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), (4, 4), border="replicate")
    np.testing.assert_array_equal(moved[:, :3], np.repeat(frame[:, :1], 3, axis=1))


def test_a_warp_takes_masks_of_floats():
    mask = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_allclose(warp(mask, np.eye(2, 3), (4, 5)), mask, atol=1e-6)


def test_cropping_and_pasting_back_whole_pixels_is_exact():
    frame = picture(40, 50)
    crop_from_frame = np.array([[1.0, 0.0, -7.0], [0.0, 1.0, -5.0]])
    crop = crop_frame(frame, crop_from_frame, 24)
    pasted = warp(crop, invert_similarity(crop_from_frame), (40, 50))
    np.testing.assert_array_equal(pasted[5:29, 7:31], frame[5:29, 7:31])
    assert not pasted[:5].any()
    assert not pasted[:, 31:].any()


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.66, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("angle", [0.0, 0.2])
def test_a_crop_shows_what_its_transform_says_at_every_scale(scale, angle):
    """On a ramp the value is the place: shrinking by area must not shift the picture."""
    size = 32
    frame = ramp(200, 220)
    crop_from_frame = similarity(scale, angle, 0, 0)
    middle = transform_points(crop_from_frame, np.array([110.0, 100.0]))
    crop_from_frame[:, 2] += (size - 1) / 2 - middle
    crop = crop_frame(frame, crop_from_frame, size).astype(np.float64)
    y, x = np.mgrid[:size, :size]
    expected = transform_points(invert_similarity(crop_from_frame), np.stack([x, y], -1) * 1.0)
    inside = (expected > 3).all(-1) & (expected[..., 0] < 216) & (expected[..., 1] < 196)
    error = (crop[..., :2] - expected)[inside]
    assert np.abs(error).max() < 1.0
    assert np.abs(error.mean(axis=0)).max() < 0.1


def test_a_small_crop_of_fine_texture_is_averaged_not_aliased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_frame(stripes, similarity(0.25, 0.0, 0, 0), 64)
    assert np.abs(crop.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_outside_the_frame_the_nearest_pixel_is_repeated(scale):
    frame = np.full((100, 100, 3), 200, np.uint8)
    crop = crop_frame(frame, similarity(scale, 0.0, 20.0, 20.0), 64)
    assert (crop == 200).all()


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_a_crop_far_off_the_frame_still_has_its_size(scale):
    crop = crop_frame(picture(30, 30), similarity(scale, 0.0, 5000.0, 0.0), 16)
    assert crop.shape == (16, 16, 3)
    assert crop.dtype == np.uint8


def test_the_largest_channel_is_that_of_a_reduction():
    field = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(largest_channel(field), np.abs(field).max(axis=2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_are_added_rounded_and_limited(dtype):
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    picture = rng.integers(0, top, (9, 8, 3), dtype=dtype, endpoint=True)
    levels = rng.integers(-900, 900, (9, 8, 3)).astype(np.float32) / 3
    frame = np.zeros((12, 12, 3), dtype)
    add_levels(picture, levels, frame[2:11, 1:9])
    wanted = np.clip(np.rint(picture + levels), 0, top).astype(dtype)
    np.testing.assert_array_equal(frame[2:11, 1:9], wanted)
    assert frame[:2].sum() == frame[:, 9:].sum() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_are_copied_where_it_is_said_from_a_part_of_a_frame(dtype):
    rng = np.random.default_rng(2)
    frame = rng.integers(0, 255, (12, 12, 3)).astype(dtype)
    target, planes = np.zeros((9, 8, 3), dtype), rng.normal(size=(2, 9, 8)).astype(np.float32)
    where = (np.abs(planes) <= 0.8).all(axis=0)
    copy_where(frame[2:11, 1:9], within(planes, 0.8), target)
    assert 10 < where.sum() < 60
    np.testing.assert_array_equal(target, np.where(where[..., None], frame[2:11, 1:9], 0))


def test_the_box_of_a_change_holds_all_that_is_not_zero():
    flow, rest = np.zeros((20, 20, 2), np.float32), np.zeros((20, 20, 3), np.float32)
    assert box_of_change(flow, rest, reach=2) is None
    flow[9, 12, 1], rest[17, 3, 0] = -0.5, 7.0
    assert box_of_change(flow, rest, reach=0) == (3, 9, 13, 18)
    assert box_of_change(flow, rest, reach=3) == (0, 6, 16, 20)
    whole = similarity(0.7, 0.3, 4.0, -2.0)
    np.testing.assert_allclose(quad_of_box(whole, (0, 0, 20, 20)), quad_from_crop(whole, 20))


@pytest.mark.parametrize("scale", [2.6, 7.3])
def test_what_grows_much_is_as_the_cubic_draws_it(scale):
    rng = np.random.default_rng(4)
    fine = cv2.GaussianBlur(rng.normal(size=(64, 64, 3)).astype(np.float32), (0, 0), 1.0)
    fine[:4] = fine[-4:] = fine[:, :4] = fine[:, -4:] = 0.0  # as the layers of a crop
    place = similarity(scale, 0.2, 5.0, -3.0)
    seen = resample(fine, place, (300, 280))
    wanted = warp(fine, place, (300, 280), interpolation="cubic")
    error = np.abs(seen - wanted)
    assert error.max() < 0.08 * np.abs(wanted).max()
    assert np.square(error).mean() < 1e-3 * np.square(wanted).mean()


def test_squared_differences_are_exact():
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 255, (61, 47, 3), dtype=np.uint8) for _ in range(2))
    squares = np.square(first.astype(np.int64) - second).sum(axis=2)
    where = rng.random((61, 47)) > 0.4
    assert squared_difference(first, second) == squares.sum()
    assert squared_difference(first, second, where) == squares[where].sum()


def test_turned_vectors_are_those_of_a_matrix_product():
    field = np.random.default_rng(4).normal(size=(5, 6, 2)).astype(np.float32)
    linear = np.array([[0.5, -2.0], [1.5, 0.25]])
    np.testing.assert_allclose(turn_vectors(field, linear), field @ linear.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("estimate", "error"), [(fine_flow, 0.05), (quick_flow, 0.1)])
def test_flow_finds_small_motion_in_small_pictures(estimate, error):
    y, x = np.mgrid[:96, :96].astype(np.float64)

    def picture(shift):
        return (128 + 60 * np.sin((x - shift) / 5) + 50 * np.cos(y / 6)).astype(np.uint8)

    flow = estimate(picture(0.0), picture(0.6))[16:-16, 16:-16]
    np.testing.assert_allclose(flow[..., 0].mean(), 0.6, atol=error)
    np.testing.assert_allclose(flow[..., 1].mean(), 0.0, atol=error)


def test_a_resized_crop_covers_the_same_part_of_the_frame():
    quad = np.array([[10.0, 20.0], [4.0, 60.0], [44.0, 66.0], [50.0, 26.0]])
    whole, half = crop_from_quad(quad, 256), resized_crop(crop_from_quad(quad, 256), 256, 128)
    np.testing.assert_allclose(half, crop_from_quad(quad, 128), atol=1e-9)
    assert not np.allclose(whole, half)


def test_motion_and_its_rest_rebuild_the_second_picture():
    rng = np.random.default_rng(0)
    before = blobs(rng)
    after = np.roll(before, 3, axis=1)
    flow, rest = split_motion(before, after, sigma=2.0)
    rebuilt = displace(before.astype(np.float32), flow) + rest
    np.testing.assert_allclose(rebuilt, after, atol=1e-3)
    inner = (slice(16, -16), slice(16, -16))
    assert np.abs(flow[inner][..., 0] + 3.0).mean() < 0.5  # after(p) is before(p - 3)
    assert np.abs(rest[inner]).mean() < np.abs(after[inner].astype(float) - before[inner]).mean()
    still, nothing = split_motion(before, before, sigma=2.0)
    assert np.abs(still).max() < 0.05
    assert np.abs(nothing).mean() < 0.5


def blobs(rng):
    """A smooth random picture, (96, 96, 3) uint8."""
    noise = blur(rng.normal(0.0, 1.0, (96, 96, 3)).astype(np.float32), sigma=3.0)
    return np.clip(128 + 400 * noise, 0, 255).astype(np.uint8)
