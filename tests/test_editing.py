from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import Interval
from vidinvert.editing import (
    apply_edit,
    apply_motion,
    colour_kept,
    fade_at_gaps,
    parse_edit,
    parse_edits,
    total_strength,
)
from vidinvert.errors import PlanError
from vidinvert.reach import LOWER, UPPER
from vidinvert.types import EditPlan, LandmarkMotion, LatentDirection, Latents

ALL = np.arange(5)  # every position of the track


def direction(name="smile", shape=(4, 8)):
    return LatentDirection(
        name=name,
        vector=torch.ones(shape) * (2.0 if name == "age" else 1.0),
        layers=tuple(range(shape[0])),
        unit="1.0 = one standard deviation",
        source="made up",
    )


DIRECTIONS = {name: direction(name) for name in ("smile", "age")}


def latents(count=5):
    generator = torch.Generator().manual_seed(0)
    return Latents(
        w_plus=torch.randn(count, 4, 8, generator=generator),
        indices=np.arange(count, dtype=np.int64),
    )


def test_a_plain_number_is_a_constant_strength():
    term = parse_edit("smile=-1.5", DIRECTIONS)
    assert term.direction.name == "smile"
    np.testing.assert_array_equal(term.strength_at(np.array([0.0, 9.0])), [-1.5, -1.5])


def test_keyframes_are_linear_between_and_constant_outside():
    term = parse_edit("smile=1@1s, 3@2s,0@4s", DIRECTIONS)
    times = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 10.0])
    np.testing.assert_allclose(term.strength_at(times), [1, 1, 2, 3, 1.5, 0, 0])


def test_a_face_may_be_named_with_a_strength_and_with_keyframes():
    assert parse_edit("smile=2:face=1", DIRECTIONS).face == 1
    assert parse_edit("smile=0@0s,1@1s:face=0", DIRECTIONS).face == 0
    assert parse_edit("smile=2", DIRECTIONS).face is None


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smile", "cannot be read. Write NAME=STRENGTH"),
        ("=2", "cannot be read"),
        ("smile=", "cannot be read"),
        ("smile=much", "strength 'much' .* is not a number"),
        ("smile=nan", "is not a number"),
        ("smile=inf", "is not a number"),
        ("smile=21", "outside"),
        ("smle=2", "no edit named 'smle'; it has: age, smile. Did you mean smile"),
        ("smile=2:face=x", "expected face=NUMBER"),
        ("smile=2:mouth=1", "expected face=NUMBER"),
        ("smile=1@1s,2", "expected STRENGTH@TIMEs"),
        ("smile=1@1", "expected STRENGTH@TIMEs"),
        ("smile=1@xs", "time 'x' .* is not a number"),
        ("smile=1@-1s", "before the clip's start"),
        ("smile=1@2s,2@1s", "increasing times"),
    ],
)
def test_edits_that_cannot_be_read_are_refused_in_one_sentence(text, message):
    with pytest.raises(PlanError, match=message):
        parse_edit(text, DIRECTIONS)


@pytest.mark.promise(5)
def test_strength_zero_leaves_the_codes_bit_for_bit():
    before = latents()
    plan = parse_edits(["smile=0", "age=0"], DIRECTIONS)
    after = apply_edit(before, plan, face=0, seconds=np.arange(5) / 25)
    assert torch.equal(after.at(ALL), before.w_plus)


def test_edits_add_up_and_do_not_change_what_they_were_given():
    before = latents()
    kept = before.w_plus.clone()
    plan = parse_edits(["smile=2", "age=-1"], DIRECTIONS)
    after = apply_edit(before, plan, face=0, seconds=np.arange(5) / 25)
    torch.testing.assert_close(after.at(ALL), kept + 2.0 - 2.0)
    assert torch.equal(before.w_plus, kept)


def test_an_edit_for_one_face_leaves_the_others_alone():
    plan = parse_edits(["smile=2:face=1"], DIRECTIONS)
    seconds = np.arange(5) / 25
    assert torch.equal(
        apply_edit(latents(), plan, face=0, seconds=seconds).at(ALL), latents().w_plus
    )
    assert total_strength(plan, face=0, seconds=seconds).tolist() == [0.0] * 5
    assert total_strength(plan, face=1, seconds=seconds).tolist() == [2.0] * 5


def test_a_direction_of_another_pack_is_refused():
    plan = EditPlan(terms=(parse_edit("smile=1", {"smile": direction(shape=(18, 8))}),))
    with pytest.raises(PlanError, match=r"shape \(18, 8\), expected \(4, 8\)"):
        apply_edit(latents(), plan, face=0, seconds=np.arange(5) / 25)


TIMES = np.arange(40) / 20


def fade(indices, *, shots=(), frames=range(40), fade_seconds=0.2):
    return fade_at_gaps(
        np.asarray(indices), TIMES, shots=shots, frames=frames, fade_seconds=fade_seconds
    )


@pytest.mark.promise(6)
def test_an_edit_sets_in_where_a_face_comes_and_goes_where_it_leaves():
    weights = fade(range(10, 30))
    np.testing.assert_allclose(weights[:4], [0.15625, 0.5, 0.84375, 1.0])
    np.testing.assert_allclose(weights, weights[::-1])
    assert weights[4:-4].min() == 1.0


def test_nothing_fades_at_the_clips_ends_at_cuts_and_at_the_ends_of_a_span():
    assert fade(range(40)).min() == 1.0
    cut = [Interval(0, 10), Interval(10, 30), Interval(30, 40)]
    assert fade(range(10, 30), shots=cut).min() == 1.0
    assert fade(range(10, 30), frames=range(10, 30)).min() == 1.0


def test_a_cut_in_the_middle_of_a_track_costs_nothing():
    shots = [Interval(0, 17), Interval(17, 40)]
    assert fade(range(40), shots=shots).min() == 1.0


@pytest.mark.promise(6)
def test_both_sides_of_a_gap_fade():
    weights = fade([*range(15), *range(25, 40)])
    assert weights[:10].min() == weights[-10:].min() == 1.0
    assert weights[14] == pytest.approx(0.15625)
    assert weights[15] == pytest.approx(0.15625)


def test_a_face_that_is_seen_shortly_never_reaches_the_full_edit():
    weights = fade([20, 21, 22])
    assert weights.tolist() == pytest.approx([0.15625, 0.5, 0.15625])


def test_no_fade_leaves_every_strength():
    assert fade(range(10, 20), fade_seconds=0.0).tolist() == [1.0] * 10


def test_a_fade_scales_every_strength():
    plan = parse_edits(["smile=2", "age=-1"], DIRECTIONS)
    weight, seconds = np.array([0.0, 0.25, 0.5, 1.0, 1.0]), np.arange(5) / 25
    before = latents()
    full = apply_edit(before, plan, face=0, seconds=seconds)
    faded = apply_edit(before, plan, face=0, seconds=seconds, fade=weight)
    expected = before.w_plus + torch.tensor(weight).float()[:, None, None] * (
        full.at(ALL) - before.w_plus
    )
    torch.testing.assert_close(faded.at(ALL), expected, rtol=0, atol=1e-6)
    assert torch.equal(faded.at(ALL)[0], before.w_plus[0])
    np.testing.assert_allclose(
        total_strength(plan, face=0, seconds=seconds, fade=weight), 3.0 * weight
    )


def face_points():
    """68 points of an upright face whose lids and lips are 0.02 apart, in shares of the side."""
    points = np.full((68, 2), 0.5)
    points[27], points[8] = (0.5, 0.4), (0.5, 0.8)
    points[list(UPPER), 1], points[list(LOWER), 1] = 0.6, 0.62
    return points


def moving(moves, share=0.5):
    motion = LandmarkMotion(moves=moves, share=share)
    return {"smile": replace(direction(), motion=motion), "age": direction("age")}


def test_an_edit_moves_landmarks_by_its_strength_over_time():
    moves = np.zeros((68, 2))
    moves[48] = (-0.01, -0.02)
    plan = parse_edits(["smile=0@0s,2@4s:face=1", "age=1"], moving(moves))
    track = np.repeat(face_points()[None], 5, axis=0)
    seconds = np.arange(5.0)
    found = apply_motion(track, plan, face=1, seconds=seconds, fade=np.array([1, 1, 1, 1, 0.5]))
    assert found is not None
    np.testing.assert_allclose(found.moves[:, 48, 1], [0, -0.01, -0.02, -0.03, -0.02])
    assert apply_motion(track, plan, face=0, seconds=seconds) is None
    assert (
        apply_motion(track, parse_edits(["age=1"], moving(moves)), face=0, seconds=seconds) is None
    )


def test_moves_are_held_back_where_lips_meet():
    moves = np.zeros((68, 2))
    moves[list(UPPER), 1], moves[list(LOWER), 1] = 0.01, -0.03
    track = face_points()[None]
    plan = parse_edits(["smile=1"], moving(moves))
    found = apply_motion(track, plan, face=0, seconds=np.zeros(1))
    assert found is not None
    after = (track + found.moves)[0, :, 1]
    np.testing.assert_allclose(after[list(LOWER)] - after[list(UPPER)], 0.02 / 3)


def test_codes_move_by_a_share_where_landmarks_are_moved_too():
    codes, known = latents(), moving(np.zeros((68, 2)), share=0.25)
    plan = parse_edits(["smile=2", "age=1"], known)
    whole = apply_edit(codes, plan, face=0, seconds=np.zeros(5)).at(ALL)
    beside = apply_edit(codes, plan, face=0, seconds=np.zeros(5), beside_motion=True).at(ALL)
    torch.testing.assert_close(whole - codes.w_plus, torch.full((5, 4, 8), 4.0))
    torch.testing.assert_close(beside - codes.w_plus, torch.full((5, 4, 8), 2.5))


def test_colours_are_kept_as_much_as_edits_that_ask_for_it_weigh():
    known = {"smile": direction(), "age": replace(direction("age"), keeps_colour=True)}
    times = np.array([0.0, 1.0, 2.0])
    plan = parse_edits(["smile=2", "age=0@0s,-2@1s,2@2s", "age=9:face=1"], known)
    np.testing.assert_allclose(colour_kept(plan, face=0, seconds=times), [0.0, 0.5, 0.5])
    np.testing.assert_allclose(colour_kept(plan, face=1, seconds=times)[:1], [9 / 11])
    nothing = parse_edits(["age=0"], known)
    np.testing.assert_array_equal(colour_kept(nothing, face=0, seconds=times), [0.0, 0.0, 0.0])
    moved = {**known, "smile": moving(np.zeros((68, 2)), share=0.25)["smile"]}
    beside = parse_edits(["smile=2", "age=2"], moved)  # a quarter of the smile is painted
    np.testing.assert_allclose(colour_kept(beside, face=0, seconds=times), 2 / 2.5)
