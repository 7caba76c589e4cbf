import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.mini import mini
from tests.training.tiny import drawn_crop, random_basis
from vidinvert import images
from vidinvert.checkpoints import write_pack
from vidinvert.clock import Clock
from vidinvert.errors import KeyMismatchError, MissingError
from vidinvert.methods import Sketcher, load_method, sketch, time_method
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_samm import COMPARED, eigen_samm

COMPONENTS = (4, 4, 4, 4)


def write_eigen_pack(
    directory,
    *,
    components=COMPONENTS,
    parts=("autoencoder", "generator"),
    compared=COMPARED,
):
    """A pack of kind eigen with random weights, in half precision, and codes of eight columns."""
    torch.manual_seed(0)
    encoder, decoder = FaceEncoder(), FaceDecoder()
    generator = EigenGenerator(COMPONENTS, style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    states = {
        "autoencoder": {
            **{f"encoder.{name}": value for name, value in encoder.state_dict().items()},
            **{f"decoder.{name}": value for name, value in decoder.state_dict().items()},
        },
        "generator": generator.state_dict(),
        "samm": eigen_samm(compared=compared).state_dict(),
    }
    for part in (*parts, "samm"):
        halved = {name: value.half() for name, value in states[part].items()}
        save_file(halved, directory / f"{part}.safetensors")
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
            "components": list(components),
            **({} if None in compared else {"samm_compared": list(compared)}),
        },
        files={part: f"{part}.safetensors" for part in (*parts, "samm")},
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_eigen_pack(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def method(pack):
    return load_method(pack, method="samm")


@pytest.fixture(scope="module")
def crops():
    return images.to_float(np.stack([drawn_crop(0), drawn_crop(1)]))


@pytest.fixture(scope="module")
def embedding(method, crops):
    with torch.inference_mode():
        return method.embed(crops)


@torch.inference_mode()
def test_codes_are_those_of_the_encoders_latents(method, crops, embedding):
    assert (method.crop_size, method.style_count, method.style_width) == (256, 4, 8)
    assert embedding.w_plus.shape == (2, 4, 8)
    assert embedding.w_plus.dtype == torch.float32
    latents, features = method.encoder(crops.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(embedding.w_plus, method.generator.basis.codes(latents))
    shapes = [tuple(f.shape[1:]) for f in embedding.features]
    assert shapes == [(128, 32, 32), (64, 64, 64), (12, 128, 128)]
    torch.testing.assert_close(embedding.features[1], features[1])


@torch.inference_mode()
def test_a_generated_picture_is_the_decoded_generators_latents(method, embedding):
    image = method.generate(embedding.w_plus)
    assert image.shape == (2, 3, 256, 256)
    expected = method.decoder(method.generator(embedding.w_plus).latents)
    assert torch.equal(image, expected)


@torch.inference_mode()
def test_a_synthesis_has_a_picture_a_mask_in_zero_to_one_and_small_flows(method, embedding):
    synthesis = method.synthesise(embedding, embedding.w_plus)
    assert synthesis.image.shape == (2, 3, 256, 256)
    assert synthesis.ood.shape == (2, 1, 256, 256)
    assert torch.equal(method.find_mask(embedding), synthesis.ood)
    assert 0.0 <= synthesis.ood.min() <= synthesis.ood.max() <= 1.0
    assert [tuple(flow.shape) for flow in synthesis.flows] == [(2, 2, r, r) for r in (32, 64, 128)]
    assert max(flow.abs().max() for flow in synthesis.flows) <= 0.08 + 1e-6


@torch.inference_mode()
def test_the_same_input_gives_the_same_output_and_an_edit_another(method, crops, embedding):
    again = method.embed(crops)
    assert torch.equal(again.w_plus, embedding.w_plus)
    first = method.synthesise(embedding, embedding.w_plus)
    second = method.synthesise(again, again.w_plus)
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.ood, second.ood)
    edited = embedding.w_plus.clone()
    edited[:, 0, 0] += 2.0
    assert not torch.equal(method.synthesise(embedding, edited).image, first.image)
    assert not torch.equal(method.generate(edited), method.generate(embedding.w_plus))


@torch.inference_mode()
def test_a_batch_equals_its_members_one_by_one(method, crops, embedding):
    alone = [method.embed(crop[None]) for crop in crops]
    codes = torch.cat([one.w_plus for one in alone])
    torch.testing.assert_close(codes, embedding.w_plus, rtol=0, atol=1e-4)
    together = method.generate(embedding.w_plus)
    single = torch.cat([method.generate(one.w_plus) for one in alone])
    torch.testing.assert_close(together, single, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_it_runs_in_bfloat16_with_codes_in_float32(pack, crops, embedding):
    small = load_method(pack, method="samm", dtype=torch.bfloat16)
    found = small.embed(crops[:1])
    assert found.w_plus.dtype == torch.float32
    assert found.features[0].dtype == torch.bfloat16
    error = (found.w_plus - embedding.w_plus[:1]).norm() / embedding.w_plus[:1].norm()
    assert error < 0.1
    synthesis = small.synthesise(found, found.w_plus)
    assert synthesis.image.dtype == torch.float32
    assert synthesis.image.isfinite().all()
    assert synthesis.ood.isfinite().all()


def test_weights_stored_in_half_precision_are_computed_with_in_single(method):
    assert {p.dtype for p in method.decoder.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in method.generator.parameters())


def test_a_pack_without_a_part_is_refused(tmp_path):
    incomplete = write_eigen_pack(tmp_path, parts=("autoencoder",))
    with pytest.raises(MissingError, match="has no part 'generator', only autoencoder, samm"):
        load_method(incomplete, method="samm")


def test_a_pack_that_describes_another_generator_is_refused(tmp_path):
    other = write_eigen_pack(tmp_path, components=(4, 4, 4, 5))
    with pytest.raises(KeyMismatchError, match="has other shapes than EigenGenerator"):
        load_method(other, method="samm")


def test_levels_may_compare_in_fewer_channels_than_they_align():
    narrow, full = eigen_samm(), eigen_samm(compared=(None, None, None))
    for level, (whole, width) in enumerate(zip((128, 64, 32), COMPARED, strict=True)):
        assert narrow.levels[level].align.channels == width
        assert full.levels[level].align.channels == whole
        assert full.levels[level].reduce is None


def test_a_pack_that_says_nothing_of_it_has_two_levels_that_compare_in_all_channels(tmp_path):
    pack = write_eigen_pack(tmp_path, compared=(None, None))
    levels = load_method(pack, method="samm").samm.levels
    assert [level.align.channels for level in levels] == [128, 64]


@torch.inference_mode()
def test_the_shipped_packs_sketches_are_its_pictures_at_half_the_size():
    for name in ("samm", "e4e", "diffcam"):
        method = load_method(mini().pack, method=name)
        assert isinstance(method, Sketcher)
        codes = mini().method.draw(4, seed=3)
        sketched, drawn = method.sketch(codes), F.avg_pool2d(method.generate(codes), 2)
        assert sketched.shape == (4, 3, 128, 128)
        assert 10 * torch.log10(4.0 / (sketched - drawn).square().mean()) > 38.0
        timed = time_method(method, Clock())
        assert torch.equal(sketch(timed, codes), sketched)


@torch.inference_mode()
def test_a_pack_without_a_readout_sketches_by_shrinking(pack):
    method, codes = load_method(pack, method="samm"), torch.zeros(2, 4, 8)
    assert torch.equal(method.sketch(codes), F.avg_pool2d(method.generate(codes), 2))
