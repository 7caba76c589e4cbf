import pytest
import torch

from tests.training.tiny import random_basis
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_encoder import (
    CodeDiscriminator,
    LatentEncoder,
    draw_codes,
    encode,
    mahalanobis,
    refine,
    refine_from_average,
)


@pytest.fixture
def basis():
    return random_basis((4, 4, 4, 4))


@pytest.fixture
def latents():
    return torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def generator(basis):
    torch.manual_seed(0)
    network = EigenGenerator((4, 4, 4, 4), style_width=8).requires_grad_(False)
    network.basis.load_state_dict(basis.state_dict())
    return network


def test_an_untrained_encoder_is_the_closed_form_one(basis, latents):
    encoder = LatentEncoder(style_width=8)
    assert torch.equal(encode(encoder, basis, latents), basis.codes(latents))


def test_gain_and_correction_both_reach_the_codes(basis, latents):
    encoder = LatentEncoder(style_width=8)
    with torch.no_grad():
        encoder.gain[1] = 0.5
        encoder.last.bias[3] = 1.0
        codes = encode(encoder, basis, latents)
    moved = latents.clone()
    moved[:, 3] += 1.0
    expected = basis.codes(moved) * torch.tensor([1.0, 0.5, 1.0, 1.0])[:, None]
    torch.testing.assert_close(codes, expected)


def test_changes_are_the_difference_of_codes(basis, latents):
    other = latents.flip(0)
    torch.testing.assert_close(
        basis.changes(latents - other),
        basis.codes(latents) - basis.codes(other),
        rtol=0,
        atol=1e-5,
    )


def test_a_step_of_restyle_adds_what_the_render_misses(basis, latents):
    encoder = LatentEncoder(maps=2, style_width=8)
    w_plus = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2))
    rendered = 0.5 * latents
    with torch.no_grad():
        following = refine(encoder, basis, latents, rendered, w_plus)
    torch.testing.assert_close(following, w_plus + basis.changes(0.5 * latents))
    still = refine(encoder, basis, latents, latents, w_plus)
    torch.testing.assert_close(still, w_plus)


@torch.inference_mode()
def test_restyle_starts_at_the_average_and_no_step_leaves_it_there(generator, latents):
    encoder = LatentEncoder(maps=2, style_width=8)
    none = refine_from_average(encoder, generator, latents, steps=0)
    assert torch.equal(none, torch.zeros(2, 4, 8))
    one = refine_from_average(encoder, generator, latents, steps=1)
    average = generator(none).latents
    torch.testing.assert_close(one, generator.basis.changes(latents - average))
    two = refine_from_average(encoder, generator, latents, steps=2)
    assert not torch.equal(two, one)


def test_drawn_codes_are_of_unit_variance_and_lie_at_distance_one(basis):
    basis = random_basis((4, 8, 8, 6))
    codes = draw_codes(basis, 4096, random=torch.Generator().manual_seed(0))
    assert codes.shape == (4096, 4, 8)
    assert codes[:, 0, 4:].abs().max() == 0.0  # that level has four components
    assert codes[:, 1].var().item() == pytest.approx(1.0, abs=0.03)
    distance = mahalanobis(basis, codes)
    assert distance.square().mean().item() == pytest.approx(1.0, abs=0.03)
    torch.testing.assert_close(mahalanobis(basis, 2.0 * codes), 2.0 * distance)


def test_the_discriminator_learns_what_was_not_drawn():
    torch.manual_seed(0)
    basis = random_basis((64, 64, 64, 64), style_width=64)
    judge = CodeDiscriminator(basis.components, style_width=64)
    optimizer = torch.optim.Adam(judge.parameters(), 4e-3)
    random = torch.Generator().manual_seed(0)
    for _ in range(40):
        real = draw_codes(basis, 32, random=random)
        fake = 1.2 * draw_codes(basis, 32, random=random)
        loss = torch.nn.functional.softplus(-judge(real)).mean()
        loss = loss + torch.nn.functional.softplus(judge(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = (s * draw_codes(basis, 64, random=random) for s in (1.0, 1.2))
        assert (judge(real) > judge(fake)).float().mean() > 0.9


@pytest.mark.parametrize("maps", [1, 2])
def test_an_encoder_is_small(maps):
    encoder = LatentEncoder(maps=maps, style_width=1024)
    assert sum(p.numel() for p in encoder.parameters()) < 300_000
