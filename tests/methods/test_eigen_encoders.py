from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.methods.test_eigen import write_eigen_pack
from tests.training.tiny import drawn_crop
from vidinvert import images
from vidinvert.checkpoints import write_pack
from vidinvert.errors import KeyMismatchError, MissingError
from vidinvert.methods import load_method
from vidinvert.methods.eigen_encoders import OPTIMISATION, EigenEncoders
from vidinvert.networks.eigen_encoder import LatentEncoder, encode, refine_from_average

NAMES = ("e4e", "restyle", "indomain", "force-indomain")


def load(pack, name, *, dtype=torch.float32):
    method = load_method(pack, method=name, dtype=dtype)
    assert isinstance(method, EigenEncoders)
    return method


def write_encoder_pack(directory, *, names=NAMES, maps=None):
    """The tiny pack of kind eigen with encoders of random weights, in half precision."""
    pack = write_eigen_pack(directory)
    torch.manual_seed(1)
    for name in names:
        encoder = LatentEncoder(maps=maps or (2 if name == "restyle" else 1), style_width=8)
        torch.nn.init.normal_(encoder.last.weight, std=0.02)
        state = {f"encoder.{key}": value.half() for key, value in encoder.state_dict().items()}
        if name == "force-indomain":
            state["discriminator.kept"] = torch.zeros(1)
        save_file(state, directory / f"{name}.safetensors")
    return write_pack(
        directory,
        name="tiny",
        version="0",
        license="CC0-1.0",
        summary="Random weights for tests",
        generator={
            "kind": "eigen",
            "crop_size": 256,
            "style_count": 4,
            "style_width": 8,
            **pack.settings,
        },
        files={part: f"{part}.safetensors" for part in (*pack.files, *names)},
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_encoder_pack(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def crops():
    return images.to_float(np.stack([drawn_crop(0), drawn_crop(1)]))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_two_calls_invert_and_render_and_nothing_is_kept(pack, crops, name):
    method = load(pack, name)
    embedding = method.embed(crops)
    assert embedding.w_plus.shape == (2, 4, 8)
    assert embedding.w_plus.dtype == torch.float32
    synthesis = method.synthesise(embedding, embedding.w_plus)
    assert torch.equal(synthesis.image, method.generate(embedding.w_plus))
    assert synthesis.ood.shape == (2, 1, 256, 256)
    assert synthesis.ood.abs().max() == 0.0
    assert torch.equal(method.find_mask(embedding), synthesis.ood)
    assert torch.equal(method.embed(crops).w_plus, embedding.w_plus)
    alone = torch.cat([method.embed(crop[None]).w_plus for crop in crops])
    torch.testing.assert_close(alone, embedding.w_plus, rtol=0, atol=1e-4)


@torch.no_grad()
def test_restyle_takes_five_steps_and_the_others_one_pass(pack, crops):
    for name in NAMES:
        method = replace(load(pack, name), optimisation=None)
        latents = method.encoder(crops.contiguous(memory_format=torch.channels_last)).latents
        if name == "restyle":
            expected = refine_from_average(method.inverter, method.generator, latents, steps=5)
        else:
            expected = encode(method.inverter, method.generator.basis, latents)
        torch.testing.assert_close(method.embed(crops).w_plus, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_in_domain_optimises_its_encoders_codes_and_force_in_domain_when_asked(pack, crops):
    found = load(pack, "indomain")
    assert found.optimisation == OPTIMISATION
    encoded = replace(found, optimisation=None).embed(crops).w_plus
    latents = found.encoder(crops.contiguous(memory_format=torch.channels_last)).latents

    def missed(codes):
        return (found.generator(codes).latents - latents).square().mean(dim=(1, 2, 3))

    with torch.inference_mode():  # as clips are inverted
        optimised = found.embed(crops).w_plus
    assert (missed(optimised) < missed(encoded)).all()
    assert load(pack, "force-indomain").optimisation is None
    asked = load(pack, "force-indomain:steps=3")
    assert asked.optimisation == replace(OPTIMISATION, steps=3)
    assert load(pack, "indomain:steps=0").optimisation is None


@torch.no_grad()
def test_it_runs_in_bfloat16_with_codes_in_float32(pack, crops):
    exact = load_method(pack, method="restyle").embed(crops).w_plus
    found = load_method(pack, method="restyle", dtype=torch.bfloat16).embed(crops).w_plus
    assert found.dtype == torch.float32
    assert (found - exact).norm() / exact.norm() < 0.1


def test_a_pack_without_the_encoder_is_refused(tmp_path):
    pack = write_encoder_pack(tmp_path, names=("e4e",))
    with pytest.raises(MissingError, match="has no part 'indomain'"):
        load_method(pack, method="indomain")


def test_an_encoder_that_sees_other_maps_is_refused(tmp_path):
    pack = write_encoder_pack(tmp_path, names=("restyle",), maps=1)
    with pytest.raises(KeyMismatchError, match="has other shapes than LatentEncoder"):
        load_method(pack, method="restyle")
