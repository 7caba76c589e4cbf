"""Curves of what was measured, and the frames they point to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import Interval
from tests.measured import MASK, small_analysis
from vidinvert.preview import find_spots, measure_curves


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    faces = (tuple(range(2, 12)) + tuple(range(15, 28)),)
    path = tmp_path_factory.mktemp("curves") / "clip.mp4"
    return small_analysis(path, frames=30, faces=faces, shots=((0, 20), (20, 30)))


def curves_of(measured, masks=None, alignment=None, track=None):
    ood = torch.zeros(23, 1, MASK, MASK, dtype=torch.uint8) if masks is None else masks
    return measure_curves(
        track or measured.tracks[0],
        alignment or measured.alignments[0],
        ood,
        seconds=measured.info.seconds,
        shots=measured.shots,
        frames=measured.frames,
    )


def test_the_mean_mask_is_the_mean_of_each_frame(measured):
    masks = torch.zeros(23, 1, MASK, MASK, dtype=torch.uint8)
    masks[4] = 255
    masks[5, :, : MASK // 2] = 255
    curves = curves_of(measured, masks)
    np.testing.assert_allclose(curves.values["mask"][[3, 4, 5]], [0.0, 1.0, 0.5])
    np.testing.assert_allclose(curves.values["change"][[3, 4, 5]], [0.0, 1.0, 0.5])


def test_flicker_compares_neighbours_but_not_across_gaps_and_cuts(measured):
    masks = torch.zeros(23, 1, MASK, MASK, dtype=torch.uint8)
    masks[10:] = 255  # behind the gap
    masks[15:] = 0  # behind the cut at frame 20
    masks[18] = 51
    flicker = curves_of(measured, masks).values["flicker"]
    assert np.flatnonzero(np.isnan(flicker)).tolist() == [0, 10, 15]
    np.testing.assert_allclose(flicker[[17, 18, 19, 20]], [0.0, 0.2, 0.2, 0.0])


def test_steady_motion_is_no_jitter_and_a_jump_is(measured):
    still = measured.alignments[0]
    quads = still.quads_xy + 3.0 * still.indices[:, None, None]
    moving = curves_of(measured, alignment=replace(still, quads_xy=quads)).values["jitter"]
    np.testing.assert_allclose(moving[np.isfinite(moving)], 0.0, atol=1e-9)
    quads[4] += [4.0, 0.0]
    jumping = curves_of(measured, alignment=replace(still, quads_xy=quads)).values["jitter"]
    np.testing.assert_allclose(jumping[[3, 4, 5, 7]], [5.0, 10.0, 5.0, 0.0], atol=1e-9)  # of 40 px


def test_frames_without_the_face_are_gaps_also_at_the_ends(measured):
    assert curves_of(measured).gaps == (Interval(0, 2), Interval(12, 15), Interval(28, 30))


def test_a_part_of_the_clip_has_the_curves_of_that_part(measured):
    part = measure_curves(
        measured.tracks[0],
        measured.alignments[0],
        measured.inversions[0].mask.ood,
        seconds=measured.info.seconds,
        shots=measured.shots,
        frames=range(10, 18),
    )
    assert part.indices.tolist() == [10, 11, 15, 16, 17]
    assert part.gaps == (Interval(12, 15),)
    whole = curves_of(measured, measured.inversions[0].mask.ood)
    np.testing.assert_array_equal(part.values["mask"], whole.values["mask"][8:13])


def test_a_covered_face_and_a_lost_score_are_worth_a_look(measured):
    masks = torch.zeros(23, 1, MASK, MASK, dtype=torch.uint8)
    masks[16:18, :, :8] = 200  # frames 21 and 22
    track = replace(measured.tracks[0], score=np.full(23, 0.9))
    track.score[3] = 0.4  # frame 5
    spots = find_spots(curves_of(measured, masks, track=track), seconds=measured.info.seconds)
    assert [spot.frame for spot in spots] == [5, 21]
    assert spots[0].reasons == ("score",)
    assert set(spots[1].reasons) == {"mask", "change", "flicker"}


def test_what_leaves_the_face_is_shown_while_it_is_there(measured):
    masks = torch.zeros(23, 1, MASK, MASK, dtype=torch.uint8)
    masks[15, :, :8] = 200  # frame 20, behind the cut: what comes with it is no flicker
    curves = curves_of(measured, masks)
    values = {name: curves.values[name] for name in ("change", "flicker")}
    spots = find_spots(replace(curves, values=values), seconds=measured.info.seconds)
    assert values["flicker"][16] == np.nanmax(values["flicker"])  # between frames 20 and 21
    assert [spot.frame for spot in spots] == [20]


def test_where_nothing_happens_nothing_is_worth_a_look(measured):
    track = replace(measured.tracks[0], score=np.full(23, 0.9))
    assert find_spots(curves_of(measured, track=track), seconds=measured.info.seconds) == ()
    outside = replace(measured, frames=range(2))
    assert find_spots(curves_of(outside, track=track), seconds=measured.info.seconds) == ()
