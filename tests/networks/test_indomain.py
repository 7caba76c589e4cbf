"""In-Domain inversion's networks: laws on tiny sizes, every official name, and the parity file."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from tests.networks.parity import fill_rule, relative_error
from tests.shared_data import shared_path
from tests.tolerances import ADAM_PARITY, FLOAT32_PARITY
from vidinvert.checkpoints import fill_module, rename_keys, select
from vidinvert.errors import KeyMismatchError
from vidinvert.methods.optimisation import OptimisationPlan, optimise_codes
from vidinvert.networks import keymaps_indomain
from vidinvert.networks.indomain import DomainGuidedEncoder
from vidinvert.networks.keymaps import join
from vidinvert.networks.stylegan1 import Epilogue, Generator1, Layer
from vidinvert.networks.vgg import Vgg16Features

CHANNELS = {4: 12, 8: 8, 16: 6}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator() -> Generator1:
    torch.manual_seed(0)
    made = Generator1(size=16, style_width=10, channels=CHANNELS, mapping_layers=2)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return made.requires_grad_(False)


def test_a_picture_is_rendered_of_codes_alone(generator):
    codes = random(2, 6, 10)
    image = generator(codes)
    assert image.shape == (2, 3, 16, 16)
    assert image.abs().max() <= 1
    assert torch.equal(image, generator(codes))
    torch.testing.assert_close(generator(codes[1:]), image[1:])
    assert not torch.equal(generator(codes.flip(1)), image)


def test_every_layer_has_a_code_of_its_own_and_coarse_ones_are_drawn_to_the_mean(generator):
    codes = generator.sample_codes(random(3, 10))
    assert codes.shape == (3, 6, 10)
    assert not torch.equal(codes[:, 0], codes[:, 1])
    torch.testing.assert_close(codes, 0.7 * generator.mapping(random(3, 10)))  # w_mean is zero


def test_an_epilogue_leaves_the_styles_mean_and_deviation():
    epilogue = Epilogue(3, resolution=8, style_width=4)
    w = random(2, 4)
    out = epilogue(random(2, 3, 8, 8) * 5 + 2, w)
    scale, shift = epilogue.find_style(w).chunk(2, dim=1)
    torch.testing.assert_close(out.mean(dim=(2, 3)), shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        out.std(dim=(2, 3), correction=0), (scale + 1).abs(), rtol=1e-4, atol=1e-5
    )


def test_fused_enlarging_equals_repeating_pixels_and_convolving():
    fused = Layer(4, 3, resolution=128, style_width=4, upsample=True)
    plain = Layer(4, 3, resolution=64, style_width=4, upsample=True)
    assert fused.fused
    assert not plain.fused
    # A transposed convolution turns its kernel round.
    plain.weight.data = fused.weight.data.flip(0, 1).permute(3, 2, 0, 1).contiguous()
    x = random(1, 4, 8, 8)
    torch.testing.assert_close(fused.convolve(x), plain.convolve(x), rtol=1e-4, atol=1e-5)


def test_the_encoder_finds_codes_of_a_picture():
    encoder = DomainGuidedEncoder(size=16, style_count=6, style_width=10, widths=(4, 8, 8)).eval()
    assert [block.shortcut is None for block in encoder.blocks] == [False, True]
    images = random(2, 3, 16, 16)
    codes = encoder(images)
    assert codes.shape == (2, 6, 10)
    torch.testing.assert_close(encoder(images[:1]), codes[:1])
    with pytest.raises(ValueError, match=r"expected \(N, 3, 16, 16\)"):
        encoder(random(1, 3, 8, 8))
    with pytest.raises(ValueError, match="size is 32, expected 16 for 3 widths"):
        DomainGuidedEncoder(size=32, style_count=6, widths=(4, 8, 8))


def test_vgg_reads_blue_first_and_returns_an_eighth():
    vgg = Vgg16Features(widths=(4, 4, 4, 4))
    seen = []
    vgg.convs[0].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    image = torch.zeros(1, 3, 16, 16)
    image[:, 0] = 1.0  # red
    features = vgg(image)
    assert features.shape == (1, 4, 2, 2)
    assert features.min() >= 0
    wanted = torch.tensor([127.5 - 103.939, 127.5 - 116.779, 255 - 123.68])
    torch.testing.assert_close(seen[0][0, :, 0, 0], wanted)


def test_sizes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="size is 24, expected a power of two"):
        Generator1(size=24)
    with pytest.raises(ValueError, match=r"channels has nothing for \[32\]"):
        Generator1(size=32, channels=CHANNELS)


# The parity file.


def whole_keymap():
    return join(
        "indomain",
        keymaps_indomain.stylegan1(style_count=14, theirs="generator.", ours="generator."),
        keymaps_indomain.domain_guided_encoder(theirs="encoder.", ours="encoder."),
        keymaps_indomain.vgg16(theirs="vgg.", ours="vgg."),
    )


def official_shapes() -> dict[str, tuple[tuple[int, ...], bool]]:
    table = json.loads(shared_path("parity/idinvert_256.json").read_text())
    return {name: (tuple(shape), kind == "filled") for name, (shape, kind) in table.items()}


def official_networks() -> tuple[Generator1, DomainGuidedEncoder, Vgg16Features]:
    fill = fill_rule().fill
    state = {}
    for name, (shape, filled) in official_shapes().items():
        counts = name.endswith("num_batches_tracked")
        values = torch.zeros(shape, dtype=torch.int64 if counts else torch.float32)
        state[name] = torch.from_numpy(fill(name, shape)) if filled else values
    ours = rename_keys(state, whole_keymap())
    with torch.device("meta"):
        # The file was recorded without the tanh that ends the published generators.
        generator = Generator1(size=256, final_tanh=False)
        encoder, vgg = DomainGuidedEncoder(size=256, style_count=14), Vgg16Features()
    for part, module in (("generator", generator), ("encoder", encoder), ("vgg", vgg)):
        fill_module(module, select(ours, f"{part}."), source="idinvert_256")
        module.eval().requires_grad_(False)
    return generator, encoder, vgg


@pytest.mark.shared
def test_every_official_name_is_accounted_for():
    names = official_shapes()
    keymap = whole_keymap()
    assert set(names) == set(keymap.renames) | set(keymap.dropped)
    state = {name: torch.zeros(()) for name in names}
    with pytest.raises(KeyMismatchError, match=r"1 not mentioned: generator\.synthesis\.layer14"):
        rename_keys(state | {"generator.synthesis.layer14.bias": torch.zeros(())}, keymap)
    del state["vgg.layer21.bias"]
    with pytest.raises(KeyMismatchError, match=r"1 missing: vgg\.layer21\.bias"):
        rename_keys(state, keymap)


@pytest.mark.shared
@pytest.mark.slow
def test_indomain_equals_the_official_networks_and_their_optimisation():
    recorded = np.load(shared_path("parity/idinvert_256.npz"))
    generator, encoder, vgg = official_networks()
    crop = torch.from_numpy(recorded["image_uint8"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    w_plus = encoder(crop)
    optimise = partial(
        optimise_codes,
        crop,
        w_plus,
        generate=generator,
        find_codes=encoder,
        find_features=lambda images: (vgg(images),),
    )
    done = optimise(plan=OptimisationPlan(steps=5))
    # With Adam's first step of rate * gradient / (|gradient| + 1e-8).
    shares = (optimise(plan=OptimisationPlan(steps=1)).w_plus - w_plus)[0] / 0.01
    gradient = 1e-8 * shares / (1 - shares.abs()).clamp_min(1e-12)
    columns = done.losses[:, 0][:, [0, 1, 2, 4]]
    errors = {
        "w_plus": relative_error(w_plus[0], recorded["w_plus"]),
        "generated": relative_error(generator(w_plus)[0], recorded["generated"]),
        "vgg_conv4_3": relative_error(vgg(crop)[0, :16], recorded["vgg_conv4_3"]),
        "losses": relative_error(columns, recorded["losses"]),
    } | {
        name: relative_error(columns[:, k], recorded["losses"][:, k])
        for k, name in enumerate(("pixel", "feature", "code", "total"))
    }
    moved = relative_error(done.w_plus[0], recorded["w_plus_after_5"])
    print(errors, "w_plus_after_5", moved)
    assert max(errors.values()) < FLOAT32_PARITY, errors
    assert moved < ADAM_PARITY
    # The half with the largest gradients; the others' drown in rounding, on some CPUs early.
    reference = torch.from_numpy(recorded["w_plus_after_5"])
    clear = gradient.abs() > gradient.abs().median()
    off = (done.w_plus[0] - reference)[clear].norm()
    assert off / reference[clear].norm() < FLOAT32_PARITY
