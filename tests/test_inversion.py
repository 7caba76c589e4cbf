from dataclasses import replace

import numpy as np
import torch

from stabilizers import FlowFilter, StabilizerPlan
from tests.test_rendering import alignment, edited_face, frames
from vidinvert.inversion import stabilise_inversion


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
