from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import FlowFilter, Interval, StabilizerPlan
from tests.test_rendering import Brightener, alignment, edited_face, frames
from vidinvert.inversion import (
    KEY_FILTER,
    LANDMARK_FILTER,
    choose_measured,
    invert,
    keep_steadied,
    stabilise_inversion,
    stabilise_landmarks,
)
from vidinvert.types import FrameBatch, SteadiedMasks


def inversion(count=6):
    batch = frames(count)
    still = replace(batch, frames=np.repeat(batch.frames[:1], count, axis=0))
    return edited_face(still, alignment(range(count)), 0.0).inversion


def test_an_inversion_keeps_the_crops_grey_pictures_beside_the_masks():
    measured = inversion()
    assert measured.mask.guide is not None
    assert measured.mask.guide.shape == measured.mask.ood.shape
    assert 40 <= measured.mask.guide.float().mean() <= 200


def test_a_mask_that_does_not_flicker_stays_along_the_flow():
    plan = StabilizerPlan(latents=None, mask=FlowFilter(time_seconds=0.1))
    measured = inversion()
    steady = stabilise_inversion(measured, np.arange(6) / 25, plan, shots=())
    assert (steady.mask.ood.int() - measured.mask.ood.int()).abs().max() <= 1  # it did not flicker
    assert torch.equal(steady.latents.w_plus, measured.latents.w_plus)


def test_masks_that_were_kept_steadied_are_taken_for_the_same_filter_only():
    plan = StabilizerPlan(latents=None, mask=FlowFilter(time_seconds=0.1))
    measured = inversion()
    seconds = np.arange(6) / 25
    kept = replace(measured, mask=keep_steadied(measured.mask, seconds, plan, shots=()))
    fresh = stabilise_inversion(measured, seconds, plan, shots=())
    spared = stabilise_inversion(kept, seconds, plan, shots=())
    assert torch.equal(spared.mask.ood, fresh.mask.ood)
    assert spared.mask.steadied is None
    marked = SteadiedMasks(ood=kept.mask.ood // 2, filter_text=repr(plan.mask))
    kept = replace(kept, mask=replace(kept.mask, steadied=marked))
    assert torch.equal(stabilise_inversion(kept, seconds, plan, shots=()).mask.ood, marked.ood)
    other = StabilizerPlan(latents=None, mask=FlowFilter(time_seconds=0.3))
    again = stabilise_inversion(kept, seconds, other, shots=()).mask.ood
    assert torch.equal(again, stabilise_inversion(measured, seconds, other, shots=()).mask.ood)


def test_the_mask_of_an_edit_moves_with_the_crop_and_not_with_what_it_shows():
    batch = frames(6)
    turning = np.stack([np.roll(batch.frames[0], 3 * t, axis=1) for t in range(6)])
    measured = edited_face(replace(batch, frames=turning), alignment(range(6)), 0.0).inversion
    still = replace(measured.mask, ood=measured.mask.ood[:1].repeat(6, 1, 1, 1), of_edit=True)
    seconds = np.arange(6) / 25
    plan = StabilizerPlan(latents=None, mask=FlowFilter(time_seconds=0.1, radius=0.05))
    steady = stabilise_inversion(replace(measured, mask=still), seconds, plan, shots=())
    assert torch.equal(steady.mask.ood, still.ood)
    other = replace(measured, mask=replace(still, of_edit=False))
    assert not torch.equal(stabilise_inversion(other, seconds, plan, shots=()).mask.ood, still.ood)


class Counter(Brightener):
    """Says how many crops it was shown."""

    seen = 0

    def embed(self, crops):
        self.seen += len(crops)
        return super().embed(crops)


def test_a_picture_that_stands_still_is_inverted_once():
    moving, placed = frames(8), alignment(range(8))
    stills = moving.frames[[0, 0, 1, 1, 1, 2, 0, 0]]
    method = Counter()
    (found,) = invert(
        [replace(moving, frames=stills)], [placed], method, pack_sha256="0", method_name="test"
    )
    assert method.seen == 4
    each = [
        invert(
            [FrameBatch(frames=stills[k : k + 1], indices=np.array([0]))],
            [alignment([0])],
            Brightener(),
            pack_sha256="0",
            method_name="test",
        )[0]
        for k in range(8)
    ]
    for k, alone in enumerate(each):
        assert torch.equal(found.latents.w_plus[k], alone.latents.w_plus[0])
        assert torch.equal(found.mask.ood[k], alone.mask.ood[0])
        assert torch.equal(found.mask.guide[k], alone.mask.guide[0])


def test_landmarks_are_steadied_within_a_run_and_only_where_changes_are():
    seconds = np.arange(20) / 25
    points = np.random.default_rng(0).normal(size=(20, 3, 2))
    runs = (Interval(0, 10), Interval(10, 20))
    steady = stabilise_landmarks(
        points, seconds, StabilizerPlan(), intervals=runs, filter_=LANDMARK_FILTER
    )
    assert (
        np.abs(np.diff(steady[:10], axis=0)).mean() < 0.4 * np.abs(np.diff(points, axis=0)).mean()
    )
    other = points.copy()
    other[10:] += 5.0
    again = stabilise_landmarks(
        other, seconds, StabilizerPlan(), intervals=runs, filter_=LANDMARK_FILTER
    )
    np.testing.assert_array_equal(again[:10], steady[:10])
    off = StabilizerPlan(change=None)
    assert stabilise_landmarks(points, seconds, off, intervals=runs, filter_=KEY_FILTER) is points


def test_crops_that_are_not_wanted_are_filled_in_from_both_sides():
    batch, placed, method = frames(7), alignment(range(7)), Counter()
    wanted = np.array([1, 0, 1, 0, 0, 1, 1], bool)
    options = {"pack_sha256": "0", "method_name": "test"}
    (sparse,) = invert([batch], [placed], method, measured=[wanted], **options)
    (dense,) = invert([batch], [placed], Brightener(), **options)
    assert method.seen == wanted.sum()
    np.testing.assert_array_equal(sparse.mask.measured, wanted)
    assert torch.equal(sparse.mask.guide, dense.mask.guide)  # every crop was looked at by eye
    for one, all_ in (
        (sparse.latents.w_plus, dense.latents.w_plus),
        (sparse.mask.ood.float(), dense.mask.ood.float()),
    ):
        torch.testing.assert_close(one[wanted], all_[wanted])
        for gap, first, last in ((1, 0, 2), (3, 2, 5), (4, 2, 5)):
            between = one[first] + (one[last] - one[first]) * (gap - first) / (last - first)
            assert (one[gap] - between).abs().max() <= (0.5 if one.max() > 2 else 1e-6)


def test_a_gap_without_measured_neighbours_is_refused():
    batch, placed = frames(4), alignment(range(4))
    for wanted in ([0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]):
        with pytest.raises(ValueError, match="not measured lies before or after all that are"):
            invert(
                [batch],
                [placed],
                Brightener(),
                pack_sha256="0",
                method_name="test",
                measured=[np.array(wanted, bool)],
            )


def test_batches_of_crops_do_not_depend_on_batches_of_frames():
    batch, placed = frames(7), alignment(range(7))
    alone = [
        FrameBatch(frames=batch.frames[k : k + 1], indices=batch.indices[k : k + 1])
        for k in range(7)
    ]
    sizes = []

    class Sizes(Brightener):
        def embed(self, crops):
            sizes.append(len(crops))
            return super().embed(crops)

    told = []
    options = {"pack_sha256": "0", "method_name": "test", "batch_size": 3}
    (whole,) = invert([batch], [placed], Sizes(), **options)
    (pieces,) = invert(alone, [placed], Sizes(), progress=told.append, **options)
    assert sizes == [3, 3, 1, 3, 3, 1]
    assert told == [1] * 7
    assert torch.equal(whole.latents.w_plus, pieces.latents.w_plus)
    assert torch.equal(whole.mask.ood, pieces.mask.ood)


def test_every_third_crop_is_inverted_where_all_is_averaged_over_time():
    placed, seconds, method = alignment(range(9)), np.arange(9) / 25, Brightener()
    plan = StabilizerPlan()
    chosen = choose_measured(placed, method, seconds, plan, shots=())
    assert chosen.astype(int).tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 1]
    cut = (Interval(0, 4), Interval(4, 9))
    assert choose_measured(placed, method, seconds, plan, shots=cut).astype(int).tolist() == [
        *(1, 0, 0, 1),
        *(1, 0, 0, 1, 1),
    ]
    slow = np.arange(9) / 10
    assert choose_measured(placed, method, slow, plan, shots=()).all()
    for other in (
        replace(plan, mask=None),
        replace(plan, mask=FlowFilter(time_seconds=0.0)),
        replace(plan, latents=None),
        replace(plan, change=None),
    ):
        assert choose_measured(placed, method, seconds, other, shots=()).all()
