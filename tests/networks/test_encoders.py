"""ReStyle, pSp and FeatureStyle: against slow references, under official names and shapes."""

import pytest
import torch

from tests.methods.filled_packs import official_names
from tests.reference import encoders as reference
from vidinvert.checkpoints import rename_keys
from vidinvert.errors import KeyMismatchError
from vidinvert.networks import keymaps, keymaps_encoders
from vidinvert.networks.e4e import E4E
from vidinvert.networks.featurestyle import FeatureStyleEncoder, move_content
from vidinvert.networks.ops import prepare
from vidinvert.networks.restyle import ReStyleEncoder, refine_codes, shrink_by_area
from vidinvert.networks.stylegan2 import Generator

TRUNK, COUNT = (16, 20, 24, 32), 8


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_near(seen: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert seen.shape == wanted.shape
    assert (seen - wanted).norm() < tolerance * wanted.norm()


def filled(module: torch.nn.Module) -> torch.nn.Module:
    source = torch.Generator().manual_seed(4)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=source)
            tensor += 0.1 * (noise.abs() if name.endswith("running_var") else noise)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return random(1, 3, 256, 256)


@pytest.mark.parametrize("deltas", [False, True])
def test_restyle_equals_its_reference(images, deltas):
    encoder = filled(ReStyleEncoder(style_count=COUNT, trunk_widths=TRUNK, deltas=deltas))
    keymap = keymaps_encoders.restyle(style_count=COUNT, theirs="")
    state = official_names(encoder.state_dict(), keymap)
    pairs = torch.cat([images, random(1, 3, 256, 256, seed=1)], dim=1)
    found = encoder(pairs)
    wanted = reference.restyle(state, pairs, style_count=COUNT, deltas=deltas)
    check_near(found.offsets, wanted)
    assert [tap.shape[-1] for tap in found.taps] == [32, 64, 128, 256]
    prepare(encoder)
    check_near(encoder(pairs).offsets, wanted)
    with pytest.raises(ValueError, match=r"expected \(N, 6, 256, 256\)"):
        encoder(images)


def test_psp_equals_its_reference(images):
    encoder = filled(E4E(style_count=COUNT, trunk_widths=TRUNK, deltas=False))
    state = official_names(encoder.state_dict(), keymaps.e4e(style_count=COUNT, theirs=""))
    wanted = reference.psp(state, images, style_count=COUNT)
    check_near(encoder(images).offsets, wanted)


@pytest.mark.parametrize("bias", [False, True])
def test_featurestyle_equals_its_reference(images, bias):
    encoder = filled(
        FeatureStyleEncoder(
            style_count=COUNT,
            style_width=10,
            trunk_widths=TRUNK,
            content_channels=12,
            content_bias=bias,
        )
    )
    keymap = keymaps_encoders.featurestyle(style_count=COUNT, content_bias=bias)
    state = official_names(encoder.state_dict(), keymap)
    found = encoder(images)
    codes, content = reference.featurestyle(state, images, style_count=COUNT)
    check_near(found.offsets, codes)
    check_near(found.content, content)
    assert found.content.shape == (1, 12, 16, 16)
    assert [tap.shape[-1] for tap in found.taps] == [32, 64, 128, 256]
    with pytest.raises(ValueError, match=r"expected \(N, 3, 256, 256\)"):
        encoder(random(1, 3, 128, 128))


def test_every_step_of_restyle_sees_the_picture_of_the_codes_before(images):
    seen = []

    class Encoder(ReStyleEncoder):
        def forward(self, pairs):
            seen.append(pairs)
            return super().forward(pairs)

    encoder = filled(Encoder(style_count=COUNT, trunk_widths=TRUNK, deltas=True))
    rendered = []

    def generate(codes):
        rendered.append(codes)
        return codes[:, :3, :1, None].expand(-1, 3, 512, 512)

    w_mean, average = random(COUNT, 32, seed=2), random(1, 3, 256, 256, seed=3)
    w_plus, found = refine_codes(encoder, generate, images, w_mean=w_mean, average=average, steps=3)
    assert all(torch.equal(pairs[:, :3], images) for pairs in seen)
    assert torch.equal(seen[0][:, 3:], average)
    wanted = w_mean
    for step, pairs in enumerate(seen):
        if step:
            torch.testing.assert_close(rendered[step - 1], wanted)
            shown = wanted[:, :3, :1, None].expand(-1, 3, 256, 256)
            torch.testing.assert_close(pairs[:, 3:], shown)
        wanted = wanted + ReStyleEncoder.forward(encoder, pairs).offsets
    torch.testing.assert_close(w_plus, wanted)
    assert len(rendered) == 2  # the last codes are not rendered
    torch.testing.assert_close(found.taps[0], ReStyleEncoder.forward(encoder, seen[-1]).taps[0])
    with pytest.raises(ValueError, match="steps is 0"):
        refine_codes(encoder, generate, images, w_mean=w_mean, average=average, steps=0)


def test_shrinking_averages_whole_blocks():
    image = random(1, 1, 512, 512)
    wanted = image.view(1, 1, 256, 2, 256, 2).mean(dim=(3, 5))
    torch.testing.assert_close(shrink_by_area(image), wanted)
    assert shrink_by_area(wanted) is wanted


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    channels = {4: 8, 8: 8, 16: 6, 32: 4, 64: 4}
    made = Generator(size=64, style_width=10, channels=channels, mapping_layers=1)
    return filled(made)


def test_content_takes_the_place_of_the_features_of_16_px(generator):
    codes = random(2, 10, 10)
    own = generator.coarse_features(codes, noise=generator.noise)
    assert own.shape == (2, 6, 16, 16)
    plain = generator(codes, noise=generator.noise)
    torch.testing.assert_close(generator(codes, noise=generator.noise, content=own), plain)
    other = generator(codes, noise=generator.noise, content=own + 1)
    assert (other - plain).abs().max() > 1e-3


def test_content_moves_as_the_edit_moves_the_generators_features(generator):
    codes, content = random(2, 10, 10), random(2, 6, 16, 16, seed=5)
    assert torch.equal(move_content(generator, content, codes, codes), content)
    fine = codes.clone()
    fine[:, 6:] += 1  # 32 px on
    assert torch.equal(move_content(generator, content, codes, fine), content)
    coarse = codes.clone()
    coarse[:, 0] += 1
    moved = move_content(generator, content, codes, coarse)
    wanted = generator.coarse_features(coarse, noise=generator.noise)
    wanted = content + wanted - generator.coarse_features(codes, noise=generator.noise)
    torch.testing.assert_close(moved, wanted, rtol=1e-4, atol=1e-5)


# Shapes of official keys, from the published layouts: 18 style vectors, 1024 px.
RESTYLE_SHAPES = {
    "input_layer.0.weight": (64, 6, 3, 3),
    "input_layer.2.weight": (64,),
    "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
    "body.20.res_layer.5.fc1.weight": (16, 256, 1, 1),
    "body.23.res_layer.3.weight": (512, 512, 3, 3),
    "styles.0.convs.6.weight": (512, 512, 3, 3),
    "styles.17.convs.0.bias": (512,),
    "styles.17.linear.weight": (512, 512),
}
FEATURESTYLE_SHAPES = {
    "conv.0.weight": (64, 3, 3, 3),
    "conv.2.weight": (64,),
    "block_1.0.downsample.0.weight": (64, 64, 1, 1),
    "block_2.3.conv2.weight": (128, 128, 3, 3),
    "block_3.13.bn3.running_var": (256,),
    "block_4.0.conv1.weight": (512, 256, 3, 3),
    "content_layer.0.weight": (256,),
    "content_layer.1.weight": (512, 256, 3, 3),
    "content_layer.4.weight": (512, 512, 3, 3),
    "styles.0.weight": (512, 8640),
    "styles.17.bias": (512,),
}


@pytest.mark.parametrize("name", ["restyle", "featurestyle", "psp"])
def test_official_names_have_the_official_shapes(name):
    with torch.device("meta"):
        if name == "restyle":
            module, shapes = ReStyleEncoder(style_count=18, deltas=True), RESTYLE_SHAPES
            keymap = keymaps_encoders.restyle(style_count=18, theirs="")
        elif name == "psp":
            module = E4E(style_count=18, deltas=False)
            shapes = {
                "latlayer1.weight": (512, 256, 1, 1),
                "styles.7.convs.10.weight": (512, 512, 3, 3),
            }
            keymap = keymaps.e4e(style_count=18, theirs="")
        else:
            module, shapes = FeatureStyleEncoder(style_count=18), FEATURESTYLE_SHAPES
            keymap = keymaps_encoders.featurestyle(style_count=18)
    ours = module.state_dict()
    assert set(keymap.renames.values()) == set(ours)
    for theirs, shape in shapes.items():
        assert tuple(ours[keymap.renames[theirs]].shape) == shape


def test_names_that_no_keymap_mentions_are_refused():
    keymap = keymaps_encoders.restyle_file(style_count=COUNT)
    state = {name: torch.zeros(()) for name in keymap.renames}
    assert len(rename_keys(state, keymap)) == len(keymap.renames)
    extra = state | {"state_dict.encoder.latlayer1.weight": torch.zeros(())}
    with pytest.raises(KeyMismatchError, match=r"not mentioned: state_dict\.encoder\.latlayer1"):
        rename_keys(extra, keymap)
    keymap = keymaps_encoders.featurestyle_file(style_count=COUNT)
    state = {name: torch.zeros(()) for name in keymap.renames}
    del state["block_4.2.bn3.weight"]
    with pytest.raises(KeyMismatchError, match=r"missing: block_4\.2\.bn3\.weight"):
        rename_keys(state, keymap)
