from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import Interval
from tests.methods.filled_packs import check_edit, official_names, whole_pack
from tests.test_rendering import alignment, frames
from vidinvert.errors import CheckpointError, MissingError, PlanError
from vidinvert.inversion import invert
from vidinvert.methods import Refiner, load_method
from vidinvert.networks import keymaps_indomain
from vidinvert.networks.indomain import DomainGuidedEncoder
from vidinvert.networks.stylegan1 import Generator1
from vidinvert.networks.vgg import Vgg16Features
from vidinvert.types import Embedding, Synthesis

SIZE, STYLE_COUNT, STYLE_WIDTH = 64, 10, 16
CHANNELS, WIDTHS, VGG_WIDTHS = (16, 16, 12, 12, 8), (8, 12, 14, 16, 16), (8, 8, 8, 8)
GENERATOR = {
    "kind": "stylegan1",
    "crop_size": SIZE,
    "style_count": STYLE_COUNT,
    "style_width": STYLE_WIDTH,
    "channels": list(CHANNELS),
    "encoder_widths": list(WIDTHS),
    "vgg_widths": list(VGG_WIDTHS),
}


def parts():
    torch.manual_seed(0)
    channels = {4 * 2**level: width for level, width in enumerate(CHANNELS)}
    generator = Generator1(size=SIZE, style_width=STYLE_WIDTH, channels=channels)
    for parameter in generator.parameters():  # a constant picture would have no deviation
        parameter.data += 0.3 * torch.randn(parameter.shape)
    encoder = DomainGuidedEncoder(
        size=SIZE, style_count=STYLE_COUNT, style_width=STYLE_WIDTH, widths=WIDTHS
    )
    vgg = Vgg16Features(widths=VGG_WIDTHS)
    maps = {
        "generator": keymaps_indomain.stylegan1(style_count=STYLE_COUNT),
        # Of these widths the last block keeps its channels, and has no shortcut.
        "encoder": keymaps_indomain.domain_guided_encoder(blocks=4, shortcuts=3),
        "vgg": keymaps_indomain.vgg16(),
    }
    networks = {"generator": generator, "encoder": encoder, "vgg": vgg}
    return {
        part: official_names(module.state_dict(), maps[part]) for part, module in networks.items()
    }


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    states = parts()
    return whole_pack(
        tmp_path_factory.mktemp("indomain"),
        GENERATOR,
        states,
        formats=dict.fromkeys(states, "official"),
    )


@pytest.fixture(scope="module")
def crops():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_encoder_alone_by_default_and_steps_when_asked(pack, crops):
    plain = load_method(pack, method="indomain")
    assert (plain.crop_size, plain.style_count, plain.style_width) == (64, 10, 16)
    assert isinstance(plain, Refiner)
    embedding = plain.embed(crops)
    assert embedding.w_plus.shape == (2, STYLE_COUNT, STYLE_WIDTH)
    assert plain.refine(crops, embedding, None) is embedding
    image = plain.synthesise(embedding, embedding.w_plus)
    assert image.image.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(plain.find_mask(embedding), image.ood)

    asked = load_method(pack, method="indomain:steps=5")
    refined = asked.refine(crops, asked.embed(crops), None)
    errors = [
        float((plain.generate(codes) - crops).square().mean())
        for codes in (embedding.w_plus, refined.w_plus)
    ]
    assert errors[1] < errors[0]
    first = asked.refine(crops[:1], asked.embed(crops[:1]), None)
    torch.testing.assert_close(first.w_plus, refined.w_plus[:1], rtol=1e-3, atol=1e-3)


def test_bfloat16_is_near_float32(pack, crops):
    exact, rough = (
        load_method(pack, method="indomain:steps=2", dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    codes, near = exact.embed(crops).w_plus, rough.embed(crops).w_plus
    assert near.dtype == torch.float32
    assert (codes - near).norm() < 0.1 * codes.norm()
    image, other = exact.generate(codes), rough.generate(codes)
    assert other.dtype == torch.float32
    assert (image - other).norm() < 0.1 * image.norm()
    assert rough.refine(crops, rough.embed(crops), None).w_plus.isfinite().all()


def test_an_edit_through_the_pipeline(pack, tmp_path):
    check_edit(pack, tmp_path, method="indomain:steps=1")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("samm", r"does not run the method 'samm', expected one of: indomain"),
        ("indomain:cycles=1", r"has an option 'cycles', expected of a pack .*: steps"),
        ("indomain:steps=x", r"has steps 'x', expected a whole number up to 10000"),
        ("indomain:steps=10001", r"has steps '10001'"),
        ("indomain:steps", r"has steps ''"),
    ],
)
def test_methods_and_options_that_do_not_fit_are_refused(pack, method, message):
    with pytest.raises(PlanError, match=message):
        load_method(pack, method=method)


def test_descriptions_and_parts_that_do_not_fit_are_refused(pack):
    wrong = replace(pack, style_count=12)
    with pytest.raises(CheckpointError, match="has style_count 12, expected 10 for crop_size 64"):
        load_method(wrong, method="indomain")
    files = {part: file for part, file in pack.files.items() if part != "vgg"}
    bare = replace(pack, files=files)
    load_method(bare, method="indomain")
    with pytest.raises(MissingError, match="has no part 'vgg'"):
        load_method(bare, method="indomain:steps=1")


class Walker:
    """Refined codes are one more than the frame before's; 100 at the start of a run."""

    crop_size, style_count, style_width = 32, 1, 1

    def embed(self, crops):
        return Embedding(w_plus=torch.zeros(len(crops), 1, 1))

    def refine(self, crops, embedding, previous):
        assert len(crops) == len(embedding.w_plus) == 1
        start = torch.full((1, 1, 1), 99.0) if previous is None else previous
        return replace(embedding, w_plus=start + 1)

    def find_mask(self, embedding):
        return torch.zeros(len(embedding.w_plus), 1, 32, 32)

    def synthesise(self, embedding, w_plus):
        return Synthesis(image=self.generate(w_plus), ood=self.find_mask(embedding))

    def generate(self, w_plus):
        return torch.zeros(len(w_plus), 3, 32, 32)


def test_codes_start_from_the_frame_before_within_a_run():
    clip = frames(10)
    batches = [
        replace(clip, frames=clip.frames[a:b], indices=clip.indices[a:b])
        for a, b in ((0, 4), (4, 8), (8, 10))
    ]
    seen = [0, 1, 2, 4, 5, 6, 7, 8, 9]  # frame 3 is missing, and a cut lies before frame 6
    (found,) = invert(
        batches,
        [alignment(seen)],
        Walker(),
        pack_sha256="",
        method_name="walker",
        shots=(Interval(0, 6), Interval(6, 10)),
    )
    wanted = np.array([100, 101, 102, 100, 101, 100, 101, 102, 103], np.float32)
    np.testing.assert_array_equal(found.latents.w_plus.flatten().numpy(), wanted)
