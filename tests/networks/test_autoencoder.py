from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder, half_readout
from vidinvert.networks.eigen_samm import align_decoder, eigen_samm, source_features
from vidinvert.networks.ops import prepare, set_precision


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return FaceEncoder().eval(), FaceDecoder().eval()


def random_images(count, height=64, width=64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, height, width, generator=generator) * 2 - 1


@torch.inference_mode()
def test_the_encoder_gives_latents_and_features_from_coarse_to_fine(networks):
    latents, features = networks[0](random_images(2, 64, 48))
    assert latents.shape == (2, 32, 8, 6)
    assert [tuple(f.shape) for f in features] == [(2, 128, 8, 6), (2, 64, 16, 12)]


@torch.inference_mode()
def test_the_decoder_is_its_four_stages_in_order(networks):
    encoder, decoder = networks
    latents = encoder(random_images(1)).latents
    image = decoder(latents)
    assert image.shape == (1, 3, 64, 64)
    eighth = decoder.stage_eighth(latents)
    quarter = decoder.stage_quarter(eighth)
    half = decoder.stage_half(quarter)
    assert [x.shape[1] for x in (eighth, quarter, half)] == [128, 64, 32]
    assert torch.equal(decoder.stage_image(half), image)


@torch.inference_mode()
def test_a_batch_equals_its_members_one_by_one(networks):
    encoder, decoder = networks
    images = random_images(3)
    together = decoder(encoder(images).latents)
    alone = torch.cat([decoder(encoder(image[None]).latents) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_latents_far_out_are_bent_back(networks):
    decoder = networks[1]
    wild = torch.full((1, 32, 4, 4), 1e3)
    torch.testing.assert_close(decoder(wild), decoder(wild * 1e3))
    assert decoder(wild).isfinite().all()


@torch.inference_mode()
def test_the_decoder_is_aligned_at_an_eighth_a_quarter_and_a_half(networks):
    encoder, decoder = networks
    torch.manual_seed(2)
    samm = eigen_samm(crop_size=64).eval()
    crops = random_images(2)
    encoded = encoder(crops)
    aligned = align_decoder(decoder, samm, encoded.latents, source_features(encoded, crops))
    assert aligned.features.shape == (2, 32, 32, 32)
    assert [field.ood.shape[-1] for field in aligned.fields] == [8, 16, 32]
    for field in aligned.fields:
        assert 0.0 <= field.ood.min() <= field.ood.max() <= 1.0
        assert field.flow.abs().max() <= 0.08 + 1e-6


@torch.inference_mode()
def test_a_prepared_decoder_draws_the_same(networks):
    latents = networks[0](random_images(2, 64, 48)).latents
    prepared = deepcopy(networks[1])
    set_precision(prepared, torch.float32)
    prepare(prepared)
    assert prepared.doubling is not None
    torch.testing.assert_close(prepared(latents), networks[1](latents), rtol=0, atol=2e-5)


def test_a_prepared_decoder_still_passes_gradients(networks):
    latents = networks[0](random_images(1)).latents.detach().requires_grad_()
    prepared = deepcopy(networks[1])
    prepare(prepared)
    slopes = [
        torch.autograd.grad(decoder(latents).square().mean(), latents)[0]
        for decoder in (prepared, networks[1])
    ]
    torch.testing.assert_close(slopes[0], slopes[1])


@torch.inference_mode()
def test_a_sketch_is_the_picture_at_half_the_size(networks):
    latents, decoder = networks[0](random_images(2, 64, 48)).latents, deepcopy(networks[1])
    shrunk = F.avg_pool2d(decoder(latents), 2)
    assert torch.equal(decoder.sketch(latents), shrunk)
    decoder.readout = half_readout()
    features = decoder.stage_quarter(decoder.stage_eighth(latents))
    read = decoder.sketch(latents)
    assert read.shape == shrunk.shape
    torch.testing.assert_close(read[..., 1::2, ::2], decoder.readout(features)[:, [2, 6, 10]])
