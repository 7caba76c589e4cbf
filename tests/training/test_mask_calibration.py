"""Calibrating masks: what it does to the weights, what it may change, and that it helps."""

import numpy as np
import pytest
import torch

from tests.training.tiny import face_set, random_basis
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_samm import eigen_samm
from vidinvert.training import mask_calibration
from vidinvert.training.autoencoder import freeze
from vidinvert.training.mask_calibration import (
    Calibration,
    Limits,
    calibrate,
    neighbours,
    search,
    shifted,
)

START = Calibration((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def test_the_logits_of_masks_are_stretched_and_shifted_and_flows_stay():
    torch.manual_seed(0)
    samm = eigen_samm()
    for parameter in samm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made = shifted(samm, Calibration((2.0, 1.0, 0.5), (0.25, -1.0, 0.0)))
    for k, (gain, offset) in enumerate(((2.0, 0.25), (1.0, -1.0), (0.5, 0.0))):
        head = samm.levels[k].align.head
        x = torch.randn(2, head.conv_in.in_channels, 8, 8)
        with torch.no_grad():
            before, after = head(x), made.levels[k].align.head(x)
        torch.testing.assert_close(after[:, :2], before[:, :2])
        torch.testing.assert_close(after[:, 2], gain * before[:, 2] + offset, atol=1e-4, rtol=1e-4)


def made_up(calibration: Calibration) -> dict[str, float]:
    """Masks that grow with offsets, on faces too, unless they get sharper."""
    offset, gain = float(np.mean(calibration.offsets)), float(np.mean(calibration.gains))
    return {
        "psnr": 29.0 + 2.0 * offset + 0.1 * gain,
        "mean_ood": 0.25 + 0.06 * offset,
        "mean_ood_face": max(0.0, 0.05 + 0.03 * offset - 0.02 * (gain - 1.0)),
        "planted_iou": 0.72 - 0.002 * offset,
    }


def test_the_blend_gets_better_within_the_limits():
    limits = Limits(mean_ood=0.31, face_rise=0.005, planted_fall=0.01)
    found, figures = search(made_up, START, limits=limits)
    assert figures == made_up(found)
    assert figures["psnr"] > 30.0
    assert 0.29 < figures["mean_ood"] <= 0.31
    assert figures["mean_ood_face"] <= 0.055


def test_masks_stay_as_they_were_where_nothing_is_better():
    def worse(calibration: Calibration) -> dict[str, float]:
        changed = calibration != START
        return made_up(START) | {"psnr": 28.0 if changed else 29.0}

    assert search(worse, START, limits=Limits()) == (START, worse(START))


def test_masks_that_are_large_already_do_not_grow():
    limits = Limits(mean_ood=0.2)
    _, figures = search(made_up, START, limits=limits)
    assert figures["mean_ood"] <= 0.25


def test_a_neighbour_changes_one_level_or_all():
    for made in neighbours(START, 0.5):
        gains = [g != 1.0 for g in made.gains]
        offsets = [o != 0.0 for o in made.offsets]
        assert sum(gains) in (0, 1, 3)
        assert sum(offsets) in (0, 1, 3)
        assert sum(gains) + sum(offsets) in (1, 2, 6)


def test_random_networks_are_calibrated_on_drawn_faces(monkeypatch):
    monkeypatch.setattr(mask_calibration, "MOST_TRIES", 2)
    torch.manual_seed(0)
    generator = EigenGenerator((4, 4, 4, 4), style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    networks = [freeze(module) for module in (FaceEncoder(), FaceDecoder(), generator)]
    tried = []
    made, found, figures = calibrate(
        eigen_samm(),
        face_set(train=3, val=1),
        *networks,
        limits=Limits(mean_ood=0.9, face_rise=0.02, planted_fall=0.5),
        count=1,
        progress=tried.append,
    )
    assert figures["psnr"] >= tried[0]["psnr"]
    assert figures["mean_ood_face"] <= tried[0]["mean_ood_face"] + 0.02
    assert len(tried) == 18  # the masks as they are, sharper ones, and what is around these
    head = made.levels[0].align.head
    assert float(head.norm_out.bias.detach()[2]) == pytest.approx(found.offsets[0], abs=1e-6)
