import numpy as np
import pytest

from stabilizers import GaussianFilter, Interval, SimilarityFilter, smooth, smooth_similarities

SIZE = 64
FILTER = GaussianFilter(sigma_seconds=0.1)


def similarities(centre_xy: np.ndarray, scale: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Build crop_from_frame (T, 2, 3) whose crop centre lies at `centre_xy` in the frame."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
    shift = (SIZE - 1) / 2 - np.einsum("tij,tj->ti", linear, centre_xy)
    return np.concatenate([linear, shift[:, :, None]], axis=-1)


def jitter(count: int = 40, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal([300, 200], 3, (count, 2)),
        np.exp(rng.normal(-1, 0.05, count)),
        rng.normal(0.2, 0.05, count),
    )


def whole(count: int = 40) -> list[Interval]:
    return [Interval(0, count)]


def test_a_still_crop_stays_still():
    still = np.repeat(similarities(*jitter())[:1], 40, axis=0)
    smoothed = smooth_similarities(
        still, np.arange(40) / 25, FILTER, intervals=whole(), crop_size=SIZE
    )
    np.testing.assert_allclose(smoothed, still, rtol=0, atol=1e-10)


def test_centre_scale_and_angle_are_each_smoothed_by_themselves():
    (centre, scale, angle), seconds = jitter(), np.arange(40) / 25
    smoothed = smooth_similarities(
        similarities(centre, scale, angle), seconds, FILTER, intervals=whole(), crop_size=SIZE
    )
    expected = similarities(
        smooth(centre, seconds, FILTER, intervals=whole()),
        np.exp(smooth(np.log(scale), seconds, FILTER, intervals=whole())),
        smooth(angle, seconds, FILTER, intervals=whole()),
    )
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=1e-9)


def test_the_result_is_a_similarity():
    smoothed = smooth_similarities(
        similarities(*jitter()), np.arange(40) / 25, FILTER, intervals=whole(), crop_size=SIZE
    )
    np.testing.assert_allclose(smoothed[:, 0, 0], smoothed[:, 1, 1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(smoothed[:, 0, 1], -smoothed[:, 1, 0], rtol=0, atol=1e-15)


def test_a_head_that_turns_through_half_a_circle_does_not_flip():
    count = 60
    angle = np.linspace(2.5, 4.0, count)  # passes pi
    turning = similarities(np.full((count, 2), 100.0), np.ones(count), angle)
    smoothed = smooth_similarities(
        turning, np.arange(count) / 25, FILTER, intervals=whole(count), crop_size=SIZE
    )
    seen = np.unwrap(np.arctan2(smoothed[:, 1, 0], smoothed[:, 0, 0]))
    np.testing.assert_allclose(seen[12:-12], angle[12:-12], rtol=0, atol=1e-6)


def test_rotating_by_a_full_turn_changes_nothing():
    centre, scale, angle = jitter()
    turned = angle + 2 * np.pi * (np.arange(40) % 3)
    arguments = {"intervals": whole(), "crop_size": SIZE}
    np.testing.assert_allclose(
        smooth_similarities(
            similarities(centre, scale, turned), np.arange(40) / 25, FILTER, **arguments
        ),
        smooth_similarities(
            similarities(centre, scale, angle), np.arange(40) / 25, FILTER, **arguments
        ),
        rtol=0,
        atol=1e-9,
    )


def test_the_centre_in_the_frame_is_that_of_the_middle_pixels():
    smoothed = smooth_similarities(
        similarities(np.full((3, 2), [40.0, 7.0]), np.full(3, 0.5), np.zeros(3)),
        np.arange(3) / 25,
        FILTER,
        intervals=whole(3),
        crop_size=SIZE,
    )
    middle = smoothed[0, :, :2] @ [40.0, 7.0] + smoothed[0, :, 2]
    np.testing.assert_allclose(middle, (SIZE - 1) / 2, rtol=0, atol=1e-12)


def test_nothing_leaks_across_a_cut():
    count = 20
    centre = np.repeat([[100.0, 100.0], [400.0, 50.0]], 10, axis=0)
    jump = similarities(centre, np.repeat([1.0, 0.3], 10), np.repeat([0.0, 3.0], 10))
    smoothed = smooth_similarities(
        jump,
        np.arange(count) / 25,
        FILTER,
        intervals=[Interval(0, 10), Interval(10, 20)],
        crop_size=SIZE,
    )
    np.testing.assert_allclose(smoothed, jump, rtol=0, atol=1e-9)


def test_the_centre_can_be_left_alone_while_the_axes_are_smoothed():
    centre, scale, angle = jitter()
    seconds = np.arange(40) / 25
    smoothed = smooth_similarities(
        similarities(centre, scale, angle),
        seconds,
        SimilarityFilter(centre=None, axes=FILTER),
        intervals=whole(),
        crop_size=SIZE,
    )
    expected = similarities(
        centre,
        np.exp(smooth(np.log(scale), seconds, FILTER, intervals=whole())),
        smooth(angle, seconds, FILTER, intervals=whole()),
    )
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=1e-9)


def test_no_filter_returns_an_exact_copy():
    measured = similarities(*jitter())
    smoothed = smooth_similarities(
        measured, np.arange(40) / 25, None, intervals=whole(), crop_size=SIZE
    )
    np.testing.assert_array_equal(smoothed, measured)
    assert not np.shares_memory(smoothed, measured)


def test_an_empty_track_stays_empty():
    empty = np.zeros((0, 2, 3))
    smoothed = smooth_similarities(empty, np.zeros(0), FILTER, intervals=[], crop_size=SIZE)
    assert smoothed.shape == (0, 2, 3)


def test_the_shape_is_checked():
    with pytest.raises(ValueError, match=r"expected \(T, 2, 3\)"):
        smooth_similarities(np.zeros((4, 3, 3)), np.arange(4.0), None, intervals=[], crop_size=SIZE)


@pytest.mark.parametrize(
    "linear",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 0.0], [0.0, -1.0]],
        [[1.0, 0.2], [0.0, 1.0]],
        [[np.nan] * 2] * 2,
    ],
)
def test_a_transform_that_is_not_a_similarity_is_refused(linear):
    wrong = similarities(*jitter(5))
    wrong[3, :, :2] = linear
    with pytest.raises(ValueError, match="transform 3 is not a similarity"):
        smooth_similarities(wrong, np.arange(5.0), FILTER, intervals=whole(5), crop_size=SIZE)


def test_overlapping_intervals_are_refused_even_without_a_filter():
    with pytest.raises(ValueError, match="expected disjoint intervals in order"):
        smooth_similarities(
            similarities(*jitter(5)),
            np.arange(5.0),
            None,
            intervals=[Interval(0, 6)],
            crop_size=SIZE,
        )
