"""Lips that part: where, how far, and what is seen between them."""

import numpy as np
import pytest
import torch

from stabilizers import Interval
from vidinvert.mouths import (
    BLOCK,
    KNOTS,
    SMALLEST_GAP,
    UPPER_SHARE,
    VISIBLE,
    LipOpening,
    open_mouth,
    part_lips,
)
from vidinvert.reach import INNER_LOWER as LOWER
from vidinvert.reach import INNER_UPPER as UPPER
from vidinvert.types import FaceMotion

SIZE = 256
CORNER_Y, HALF_WIDTH, CENTRE_X = 0.68, 0.1, 0.5
INNER_X = (CENTRE_X - 0.04, CENTRE_X, CENTRE_X + 0.04)


def face(*, lips_apart=0.0, count=1):
    """(count, 68, 2) landmarks with a level mouth; what is not of interest lies anywhere."""
    points = np.random.default_rng(0).uniform(0.2, 0.5, (68, 2))
    points[48], points[54] = (CENTRE_X - HALF_WIDTH, CORNER_Y), (CENTRE_X + HALF_WIDTH, CORNER_Y)
    for upper, lower, x in zip(UPPER, LOWER, INNER_X, strict=True):
        points[upper], points[lower] = (
            (x, CORNER_Y - lips_apart / 2),
            (x, CORNER_Y + lips_apart / 2),
        )
    points[8], points[33] = (CENTRE_X, 0.85), (CENTRE_X, 0.58)
    return np.tile(points, (count, 1, 1))


def moved(points, gap):
    """A motion that parts the inner lips by `gap`, and carries all landmarks a little aside."""
    moves = np.tile([0.01, 0.0], (*points.shape[:2], 1))
    moves[:, UPPER, 1] -= UPPER_SHARE * gap
    moves[:, LOWER, 1] += (1 - UPPER_SHARE) * gap
    return FaceMotion(points=points, moves=moves)


def drawn(*, line_y=CORNER_Y, teeth=False, count=1):
    """(count, 1, 128, 128) grey faces: skin, darker lips, a dark line between them, teeth below."""
    y = (np.arange(128) + 0.5) / 128
    x = y
    grey = np.full((128, 128), 160.0)
    lips = (np.abs(y[:, None] - line_y) < 0.035) & (np.abs(x - CENTRE_X) < HALF_WIDTH)
    grey[lips] = 110
    mouth = np.abs(x - CENTRE_X) < 0.8 * HALF_WIDTH
    if teeth:
        grey[((y > line_y) & (y < line_y + 0.03))[:, None] & mouth] = 230
        grey[(np.abs(y - line_y - 0.034) < 0.006)[:, None] & mouth] = 60
    grey[(np.abs(y - line_y) < 0.006)[:, None] & mouth] = 40
    return torch.as_tensor(grey).to(torch.uint8).expand(count, 1, 128, 128).contiguous()


def opening_of(motion, guide, **keywords) -> LipOpening:
    opening = part_lips(motion, guide, **keywords)
    assert opening is not None
    return opening


def test_lips_that_do_not_part_are_left_to_the_landmarks():
    assert part_lips(moved(face(), 0.0), drawn()) is None
    assert part_lips(moved(face(), 0.9 * SMALLEST_GAP), drawn()) is None
    eyes = FaceMotion(points=np.zeros((1, 5, 2)), moves=np.ones((1, 5, 2)))
    assert part_lips(eyes, drawn()) is None


def test_the_rest_of_the_motion_does_not_part_the_lips():
    opening = opening_of(moved(face(), 0.05), None)
    assert opening.gap[0] == pytest.approx(0.05)
    apart = opening.rest.moves[0, LOWER] - opening.rest.moves[0, UPPER]
    np.testing.assert_allclose(apart, 0.0, atol=1e-12)
    np.testing.assert_allclose(opening.rest.moves[0, UPPER], [[0.01, 0.0]] * 3, atol=1e-12)
    np.testing.assert_allclose(opening.rest.moves[0, 8], [0.01, 0.0])


@pytest.mark.parametrize("line_y", [CORNER_Y - 0.02, CORNER_Y - 0.01, CORNER_Y])
def test_the_line_between_the_lips_is_found_in_the_picture(line_y):
    opening = opening_of(moved(face(), 0.04), drawn(line_y=line_y))
    middle = np.abs(KNOTS) < 0.6
    np.testing.assert_allclose(opening.seam[0, middle] + CORNER_Y, line_y, atol=0.006)


def test_upper_teeth_stay_with_the_upper_lip():
    points = face(lips_apart=0.034)
    points[:, (*UPPER, *LOWER), 1] += 0.017
    opening = opening_of(moved(points, 0.04), drawn(teeth=True))
    middle = np.abs(KNOTS) < 0.5
    np.testing.assert_allclose(opening.seam[0, middle], 0.034, atol=0.006)


def test_lips_end_where_the_line_ends():
    guide = drawn()
    guide[..., : int(0.45 * 128)] = 160  # a mouth that is half as wide to the left
    guide[..., int(0.57 * 128) :] = 160
    left, right = opening_of(moved(face(), 0.04), guide).ends[0]
    assert -0.65 < left < -0.45
    assert 0.6 < right < 0.85


def test_lips_go_apart_with_what_is_above_and_below_and_the_face_stays():
    gap = 0.04
    mouth = open_mouth(opening_of(moved(face(), gap), drawn()), 0, size=SIZE)
    x, line = SIZE // 2, int(CORNER_Y * SIZE)
    fall, rise = (1 - UPPER_SHARE) * gap * SIZE, UPPER_SHARE * gap * SIZE
    np.testing.assert_allclose(mouth.flow[int(line + fall + 3), x], [0.0, -fall], atol=0.3)
    np.testing.assert_allclose(mouth.flow[int(line - rise - 2), x], [0.0, rise], atol=0.4)
    # All that is seen between the lips is drawn from the line itself.
    between = np.arange(int(line - rise + 2), int(line + fall - 1))
    np.testing.assert_allclose(between + mouth.flow[between, x, 1], line, atol=1.0)
    chin = mouth.flow[int(0.85 * SIZE), x, 1]
    assert -fall < chin < -0.1 * fall
    assert np.abs(mouth.flow[: int(0.5 * SIZE)]).max() < 1e-6
    assert np.abs(np.diff(mouth.flow[..., 1], axis=0)).max() < 1.01  # nothing folds
    np.testing.assert_allclose(mouth.flow[..., 0], 0.0, atol=1e-5)


def test_between_open_lips_it_is_dark_and_elsewhere_nothing_is_painted():
    mouth = open_mouth(opening_of(moved(face(), 0.05), drawn()), 0, size=SIZE)
    share = mouth.inside[..., 3]
    middle = mouth.inside[int((CORNER_Y + 0.005) * SIZE), SIZE // 2]
    assert middle[3] == pytest.approx(1.0)
    assert middle[:3].max() < 0.5 * 160
    assert middle[0] > middle[1]  # a mouth, not a hole
    inside = share > 0
    assert 0.005 < inside.mean() < 0.02
    assert not mouth.inside[~inside].any()
    assert mouth.painted[int(CORNER_Y * SIZE), SIZE // 2, 0] == pytest.approx(0.0)
    assert mouth.painted[: SIZE // 2].min() == 1.0


def test_what_cannot_shut_further_is_not_painted_shut():
    shut = face(lips_apart=0.001)
    motion = moved(shut, -0.0099)
    closing = opening_of(FaceMotion(points=shut, moves=motion.moves), drawn())
    assert closing.gap[0] == 0.0
    assert closing.painted[0] == pytest.approx(0.0)
    mouth = open_mouth(closing, 0, size=SIZE)
    assert not mouth.flow.any()
    assert not mouth.inside.any()
    wide = face(lips_apart=0.1)
    opened = opening_of(moved(wide, -0.0099), drawn())
    assert opened.painted[0] == pytest.approx(0.9, abs=0.01)


def test_an_edit_may_leave_the_lips_alone_without_parting_them():
    opening = opening_of(moved(face(), 0.0), drawn(), painted=np.array([0.25]))
    mouth = open_mouth(opening, 0, size=SIZE)
    assert mouth.painted.min() == pytest.approx(0.25)
    assert not mouth.flow.any()


def test_the_line_is_steadied_in_time_and_not_across_a_cut():
    count = 12
    guide = torch.cat([drawn(line_y=CORNER_Y + d) for d in (0.0, 0.012) * 3 + (0.03,) * 6])
    motion, times = moved(face(count=count), 0.04), np.arange(count) / 30
    alone = opening_of(motion, guide)
    runs = [Interval(0, 6), Interval(6, 12)]
    steady = opening_of(motion, guide, seconds=times, intervals=runs)
    middle = len(KNOTS) // 2
    assert np.ptp(steady.seam[:6, middle]) < 0.35 * np.ptp(alone.seam[:6, middle])
    np.testing.assert_allclose(steady.seam[6:, middle], alone.seam[6:, middle], atol=1e-9)


def test_a_slight_opening_sets_in_gently():
    little = open_mouth(opening_of(moved(face(), 0.25 * VISIBLE), drawn()), 0, size=SIZE)
    assert 0.0 < little.inside[..., 3].max() < 0.3


def test_a_mouth_that_was_detected_elsewhere_opens_there():
    guide = torch.roll(drawn(count=3), 10, dims=3)  # 10 of 128 pixels to the right
    motion, shift = moved(face(count=3), 0.04), 10 / 128
    corners = motion.points[:, (48, 54)] + [shift, 0.0]
    opening = opening_of(motion, guide, corners=corners)
    np.testing.assert_allclose(opening.origin[:, 0], CENTRE_X + shift, atol=1e-9)
    inside = open_mouth(opening, 1, size=SIZE).inside[..., 3]
    middle = (inside.sum(axis=0) * np.arange(SIZE)).sum() / inside.sum() / SIZE
    assert middle == pytest.approx(CENTRE_X + shift, abs=0.01)


def test_a_long_track_is_looked_at_block_by_block():
    count = 2 * BLOCK + 3
    guide = drawn(count=count)
    guide[BLOCK:] = drawn(line_y=CORNER_Y - 0.01)
    opening = opening_of(moved(face(count=count), 0.04), guide)
    alone = opening_of(moved(face(), 0.04), drawn(line_y=CORNER_Y - 0.01))
    assert opening.seam.shape == (count, len(KNOTS))
    np.testing.assert_allclose(opening.seam[-1], alone.seam[0], atol=1e-9)
    np.testing.assert_allclose(opening.skin, 160.0, atol=1e-6)
