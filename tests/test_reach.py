import numpy as np
import pytest

from vidinvert.reach import (
    CORNERS,
    INNER_CORNERS,
    LOWER,
    NOSE,
    OUTER,
    THINNER,
    UPPER,
    hold_back,
)

GAP = 0.02
STRENGTHS = (0.1, 0.5, 1.0, 2.0, 4.0, 20.0)


def face():
    """68 points (1, 68, 2) of an upright face whose lids and lips are `GAP` apart."""
    points = np.full((68, 2), 0.5)
    points[27:31, 1], points[8] = (0.40, 0.45, 0.5, 0.55), (0.5, 0.9)
    points[31:36] = [(x, 0.57) for x in (0.45, 0.47, 0.5, 0.53, 0.55)]
    points[list(UPPER), 1], points[list(LOWER), 1] = 0.7, 0.7 + GAP
    points[list(INNER_CORNERS)] = (0.43, 0.4), (0.57, 0.4)
    points[3], points[13] = (0.2, 0.6), (0.8, 0.6)
    points[list(CORNERS)] = (0.4, 0.7), (0.6, 0.7)
    for inner, outer in OUTER.items():
        for above, below, _ in outer:
            points[above], points[below] = (0.5, 0.68), (0.5, 0.74)
        points[inner, 0] = 0.5
    return points[None]


def turned(points):
    """The same face, rotated by a third of a turn."""
    angle = 2 * np.pi / 3
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def closing():
    moves = np.zeros((1, 68, 2))
    moves[:, UPPER, 1], moves[:, LOWER, 1] = 0.01, -0.03
    return moves


def narrowing():
    moves = np.zeros((1, 68, 2))
    moves[0, CORNERS[0], 0], moves[0, CORNERS[1], 0] = 0.03, -0.03
    return moves


def sliding():
    moves = np.zeros((1, 68, 2))
    moves[:, NOSE, 0] = 0.04
    return moves


def test_of_a_closing_move_a_part_is_done_that_leaves_a_gap():
    after = face() + hold_back(face(), closing())
    gap = after[0, LOWER, 1] - after[0, UPPER, 1]
    np.testing.assert_allclose(gap, GAP - 0.04 * GAP / (0.04 + GAP))


def test_lids_and_lips_never_cross_and_close_more_with_every_further_move():
    gaps = []
    for strength in STRENGTHS:
        after = face() + hold_back(face(), strength * closing())
        gaps.append(after[0, LOWER, 1] - after[0, UPPER, 1])
    assert (np.diff(gaps, axis=0) < 0).all()
    assert (np.array(gaps) > 0).all()


def shut_lips(strength):
    """How far lips (3 pairs or more) that are shut come together outside: thickness before, after.

    Inner and outer contours are asked to do the same.
    """
    shut = face()
    shut[:, LOWER] = shut[:, UPPER]
    moves = closing()
    for outer in OUTER.values():
        for above, below, _ in outer:
            moves[:, above, 1], moves[:, below, 1] = 0.01, -0.03
    done = hold_back(shut, strength * moves)
    np.testing.assert_allclose(done[0, UPPER, 1], done[0, LOWER, 1], atol=1e-6)
    pairs = [pair for outer in OUTER.values() for pair in outer if pair[2] == 1.0]
    before = np.array([shut[0, below, 1] - shut[0, above, 1] for above, below, _ in pairs])
    moved = np.array([done[0, below, 1] - done[0, above, 1] for above, below, _ in pairs])
    return before, before + moved


def test_closed_lips_are_pressed_and_never_swallowed():
    """They grow thinner with every further move, at most by `THINNER` of their thickness."""
    after = []
    for strength in STRENGTHS:
        before, pressed = shut_lips(strength)
        after.append(pressed)
        assert (pressed > (1.0 - THINNER) * before).all()
    assert (np.diff(after, axis=0) < 0).all()
    assert (after[0] > 0.97 * before).all()  # a small move presses little
    assert (after[-1] < 0.6 * before).all()


def test_a_mouth_keeps_half_its_width_however_hard_it_is_drawn_in():
    widths = []
    for strength in STRENGTHS:
        after = face() + hold_back(face(), strength * narrowing())
        widths.append(after[0, CORNERS[1], 0] - after[0, CORNERS[0], 0])
    assert (np.diff(widths) < 0).all()
    assert min(widths) > 0.1


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_nose_comes_near_an_eye_and_never_slides_over_it(sign):
    bridges, tips = [], []
    for strength in STRENGTHS:
        after = face() + hold_back(face(), sign * strength * sliding())
        bridges.append(sign * (after[0, 27, 0] - 0.5))
        tips.append(sign * (after[0, 30, 0] - 0.5))
    assert (np.diff(bridges) > 0).all()
    assert max(bridges) < 0.07
    assert (np.array(tips) > bridges).all()  # there is more room before the cheek
    assert max(tips) < 0.3


def test_moves_that_come_near_nothing_are_done_in_full():
    for moves in (-closing(), -narrowing()):
        np.testing.assert_array_equal(hold_back(face(), moves), moves)
    np.testing.assert_allclose(hold_back(face(), 1e-6 * sliding()), 1e-6 * sliding(), rtol=1e-4)


@pytest.mark.parametrize("moves", [closing, narrowing, sliding])
def test_what_is_held_back_does_not_depend_on_how_the_head_is_tilted(moves):
    upright = hold_back(face(), moves())
    np.testing.assert_allclose(hold_back(turned(face()), turned(moves())), turned(upright))
