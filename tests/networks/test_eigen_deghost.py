import pytest
import torch

from tests.training.tiny import random_basis
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_deghost import (
    Bank,
    Deghoster,
    correctable,
    fuse,
    recall,
    redraw,
)


@pytest.fixture(scope="module")
def bank():
    torch.manual_seed(0)
    generator = EigenGenerator((4, 4, 4, 4), style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    networks = FaceEncoder(), generator, FaceDecoder()
    return Bank(*(network.requires_grad_(False) for network in networks))


@pytest.fixture(scope="module")
def deghoster():
    torch.manual_seed(1)
    network = Deghoster().requires_grad_(False)
    torch.nn.init.normal_(network.to_correction.weight, std=0.05)
    for layer in network.fusion:
        torch.nn.init.normal_(layer.weight, std=0.02)
    return network


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(2)) * 2.0 - 1.0


def test_an_untrained_network_corrects_nothing(bank, images):
    assert torch.equal(Deghoster()(images, bank), torch.zeros_like(images))


def test_a_correction_is_a_picture_for_each_picture(bank, deghoster, images):
    whole = deghoster(images, bank)
    assert whole.shape == images.shape
    assert whole.abs().max() > 0
    alone = deghoster(images[1:], bank)
    torch.testing.assert_close(alone, whole[1:], rtol=0, atol=1e-5)


def test_a_window_gives_the_same_correction_away_from_its_border(bank, deghoster, images):
    recalled = recall(images, bank)
    assert [tuple(s.shape[1:]) for s in recalled.sources] == [
        (128, 32, 32),
        (64, 64, 64),
        (12, 128, 128),
    ]
    whole = deghoster.correct(recalled, bank.decoder)
    part = deghoster.correct(recalled.window(4, 8, 24), bank.decoder)
    inner = whole[:, :, 32:224, 64:256]
    centre = (slice(None), slice(None), slice(88, 104), slice(88, 104))
    torch.testing.assert_close(part[centre], inner[centre], rtol=0, atol=1e-5)


def test_no_change_redraws_the_source_itself(bank, images):
    own = bank.encoder(images).latents
    assert torch.equal(redraw(images, own, torch.zeros_like(own), bank.decoder), images)
    change = torch.zeros_like(own)
    change[:, :, 16, 16] = 3.0
    redrawn = redraw(images, own, change, bank.decoder)
    apart = (redrawn - images).abs().amax(dim=(0, 1))
    assert apart[128:136, 128:136].max() > 0
    assert apart[:32].max() < 1e-3
    assert redrawn.abs().max() <= 1.0


def test_fusing_shows_the_edit_where_the_map_is_one():
    source, edited = torch.zeros(1, 3, 1, 3), torch.ones(1, 3, 1, 3)
    cam = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    assert fuse(source, edited, cam)[0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_ghosts_are_corrected_only_where_the_pictures_differ():
    source = torch.zeros(1, 3, 64, 64)
    assert correctable(source, source).max() == 0.0
    edited = source.clone()
    edited[:, 0, 20:44, 20:44] = 0.5
    where = correctable(source, edited)
    assert where.shape == (1, 1, 64, 64)
    assert where[0, 0, 32, 32] == 1.0
    assert where[0, 0, :16].max() == 0.0
    assert where[0, 0, 18, 32] > 0.0  # the neighbourhood of a difference counts
