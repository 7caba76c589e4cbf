import pytest
import torch
from torch.nn import functional as F

from tests.reference import published_form
from tests.reference.align_net import align_reference
from vidinvert.networks import samm as samm_module
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.samm import (
    SAMM,
    AlignNet,
    Field,
    LevelSpec,
    combine_masks,
    find_fields,
    refine_mask,
    synthesise_aligned,
)
from vidinvert.networks.stylegan2 import Generator
from vidinvert.networks.warping import sampling_grid, warp

CHANNELS = {4: 16, 8: 16, 16: 12, 32: 8}
LEVELS = (
    LevelSpec(resolution=8, channels=16, feature_channels=4),
    LevelSpec(resolution=16, channels=12, feature_channels=3),
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    source = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=source)
    return module.requires_grad_(False)


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, SAMM]:
    torch.manual_seed(1)
    generator = Generator(size=32, style_width=10, channels=CHANNELS, mapping_layers=2)
    samm = SAMM(LEVELS, align_corners=True)
    randomise(generator), randomise(samm)
    return generator, samm


def inputs(count: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    return random(count, 8, 10), (random(count, 4, 8, 8, seed=1), random(count, 3, 16, 16, seed=2))


@pytest.mark.parametrize("align_corners", [False, True])
def test_warp_equals_grid_sample(align_corners):
    x, flow = random(2, 5, 7, 9), random(2, 2, 7, 9, seed=1) * 0.7
    wanted = F.grid_sample(
        x, sampling_grid(flow), mode="bilinear", padding_mode="zeros", align_corners=align_corners
    )
    torch.testing.assert_close(warp(x, flow, align_corners=align_corners), wanted)
    graph = warp(x.requires_grad_(), flow, align_corners=align_corners)
    torch.testing.assert_close(graph.detach(), wanted)


def test_zero_flow_is_the_identity_with_aligned_corners():
    x = random(1, 3, 6, 8)
    still = warp(x, torch.zeros(1, 2, 6, 8), align_corners=True)
    torch.testing.assert_close(still, x, rtol=1e-5, atol=1e-5)


def test_zero_flow_reads_half_a_pixel_beyond_the_border():
    ones = torch.ones(1, 1, 8, 8)
    sampled = warp(ones, torch.zeros(1, 2, 8, 8), align_corners=False)[0, 0]
    torch.testing.assert_close(sampled[1:-1, 1:-1], torch.ones(6, 6))
    torch.testing.assert_close(sampled[0, 1:-1], torch.full((6,), 0.5))
    assert sampled[0, 0].item() == pytest.approx(0.25)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    row = warp(ramp, torch.zeros(1, 2, 8, 8), align_corners=False)[0, 0, 4, 1:-1]
    wanted = (torch.arange(8.0)[1:-1] - 3.5) * 8 / 7 + 3.5  # magnified by n / (n - 1)
    torch.testing.assert_close(row, wanted)


def test_a_flow_of_one_pixel_moves_the_picture_by_one_pixel():
    x = random(1, 2, 5, 5)
    flow = torch.zeros(1, 2, 5, 5)
    flow[:, 0] = 2 / 4
    moved = warp(x, flow, align_corners=True)
    torch.testing.assert_close(moved[..., :-1], x[..., 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_align_net_equals_its_reference(bias):
    net = AlignNet(4, warp_scale=0.08, bias=bias)
    randomise(net)
    x, features = random(2, 4, 9, 9) * 2 + 1, random(2, 4, 9, 9, seed=1)
    seen, wanted = net(x, net.read_source(features)), align_reference(net, x, features)
    torch.testing.assert_close(seen.flow, wanted.flow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.ood, wanted.ood, rtol=1e-4, atol=1e-5)


def test_a_prepared_align_net_equals_its_reference():
    net = AlignNet(128, warp_scale=0.08, bias=True)
    randomise(net)
    x, features = random(1, 128, 8, 8), random(1, 128, 8, 8, seed=1)
    wanted = align_reference(net, x, features)
    net.conv_out.prepare()
    net.prepare()
    assert net.fast is not None
    seen = net(x, net.read_source(features))
    torch.testing.assert_close(seen.flow, wanted.flow, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(seen.ood, wanted.ood, rtol=1e-3, atol=1e-5)


def test_refining_a_mask_keeps_what_is_in_domain_and_stays_in_range():
    coarse = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(refine_mask(torch.zeros_like(fine), fine), torch.zeros_like(fine))
    torch.testing.assert_close(refine_mask(torch.ones_like(fine), fine), fine)
    refined = refine_mask(coarse, fine)
    torch.testing.assert_close(refined, coarse * (1 + fine - coarse))
    assert refined.min() >= 0
    assert refined.max() <= 1
    assert (refine_mask(coarse, (fine + 0.1).clamp(max=1)) >= refined).all()


def test_refining_enlarges_the_coarse_mask():
    refined = refine_mask(torch.ones(1, 1, 4, 4), torch.full((1, 1, 8, 8), 0.25))
    torch.testing.assert_close(refined, torch.full((1, 1, 8, 8), 0.25))


def test_combined_mask_of_one_level_is_that_level():
    field = Field(flow=torch.zeros(1, 2, 4, 4), ood=torch.full((1, 1, 4, 4), 0.3))
    torch.testing.assert_close(combine_masks([field], size=16), torch.full((1, 1, 16, 16), 0.3))
    twice = combine_masks([field, field], size=16)
    torch.testing.assert_close(twice, torch.full((1, 1, 16, 16), 0.3 * 0.3 + 0.3 * 0.7))


def test_combining_no_masks_is_refused():
    with pytest.raises(ValueError, match="fields is empty"):
        combine_masks([], size=8)


def test_synthesis_returns_a_picture_and_a_field_for_every_level(networks):
    generator, samm = networks
    w_plus, features = inputs(2)
    aligned = synthesise_aligned(generator, samm, w_plus, features, noise=generator.noise)
    assert aligned.image.shape == (2, 3, 32, 32)
    assert [tuple(f.flow.shape) for f in aligned.fields] == [(2, 2, 8, 8), (2, 2, 16, 16)]
    for field in aligned.fields:
        assert field.flow.abs().max() <= samm_module.WARP_SCALE
        assert field.ood.min() >= 0
        assert field.ood.max() <= 1
    again = synthesise_aligned(generator, samm, w_plus, features, noise=generator.noise)
    assert torch.equal(aligned.image, again.image)


@torch.no_grad()
def test_synthesis_equals_the_published_form(networks):
    generator, samm = networks
    w_plus, features = inputs(1)
    seen = synthesise_aligned(generator, samm, w_plus, features, noise=generator.noise)
    image, fields = published_form.synthesise(generator, samm, w_plus, features)
    torch.testing.assert_close(seen.image, image, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(seen.fields, fields, strict=True):
        torch.testing.assert_close(ours.ood, theirs.ood, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours.flow, theirs.flow, rtol=1e-3, atol=1e-5)


def test_a_batch_equals_its_parts(networks):
    generator, samm = networks
    w_plus, features = inputs(3)
    whole = synthesise_aligned(generator, samm, w_plus, features)
    for index in range(3):
        part = slice(index, index + 1)
        one = synthesise_aligned(generator, samm, w_plus[part], [f[part] for f in features])
        torch.testing.assert_close(one.image, whole.image[part], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.fields[-1].ood, whole.fields[-1].ood[part])


def test_fields_are_found_without_rendering_to_the_end(networks, monkeypatch):
    generator, samm = networks
    w_plus, features = inputs(1)
    whole = synthesise_aligned(generator, samm, w_plus, features, noise=generator.noise)
    resolutions = [block.resolution for block in generator.blocks]
    rendered = []
    for block in generator.blocks:
        block.to_rgb.register_forward_hook(lambda *_, r=block.resolution: rendered.append(r))
    fields = find_fields(generator, samm, w_plus, features, noise=generator.noise)
    for found, expected in zip(fields, whole.fields, strict=True):
        assert torch.equal(found.ood, expected.ood)
        assert torch.equal(found.flow, expected.flow)
    assert rendered == [r for r in resolutions if r <= samm.specs[-1].resolution]


def test_levels_that_the_generator_does_not_have_are_refused(networks):
    generator, _ = networks
    w_plus, features = inputs(1)
    foreign = SAMM([LevelSpec(resolution=7, channels=8, feature_channels=8)])
    with pytest.raises(ValueError, match=r"acts at \[7\] px"):
        find_fields(generator, foreign, w_plus, features)


def test_a_mask_of_zero_gives_the_plain_generator(networks, monkeypatch):
    generator, samm = networks
    w_plus, features = inputs(1)

    def nothing(net, x, source):
        flow = x.new_zeros(1, 2, *x.shape[-2:])
        return Field(flow=flow, ood=flow[:, :1])

    monkeypatch.setattr(AlignNet, "forward", nothing)
    aligned = synthesise_aligned(generator, samm, w_plus, features, noise=generator.noise)
    torch.testing.assert_close(aligned.image, generator(w_plus, noise=generator.noise))


def test_gradients_reach_samm_and_the_source_features(networks):
    generator, _ = networks
    samm = SAMM(LEVELS, align_corners=True)
    w_plus, features = inputs(1)
    features = tuple(f.clone().requires_grad_() for f in features)
    aligned = synthesise_aligned(generator, samm, w_plus, features)
    (aligned.image.square().mean() + combine_masks(aligned.fields, size=32).mean()).backward()
    assert all(p.grad is not None for p in samm.parameters())
    assert all(f.grad is not None for f in features)


def test_bfloat16_is_close_to_float32_and_keeps_its_fields_in_float32(networks):
    generator, samm = networks
    w_plus, features = inputs(2)
    exact = synthesise_aligned(generator, samm, w_plus, features)
    other_generator = Generator(size=32, style_width=10, channels=CHANNELS, mapping_layers=2)
    other_samm = SAMM(LEVELS, align_corners=True)
    other_generator.load_state_dict(generator.state_dict())
    other_samm.load_state_dict(samm.state_dict())
    for network in (other_generator, other_samm):
        set_precision(network, torch.bfloat16)
        prepare(network)
    rough = synthesise_aligned(other_generator, other_samm, w_plus, features)
    assert rough.image.dtype == torch.float32
    assert rough.fields[0].flow.dtype == rough.fields[0].ood.dtype == torch.float32
    assert (rough.image - exact.image).norm() < 0.05 * exact.image.norm()
    with torch.no_grad():
        plain = other_generator(w_plus, noise=other_generator.noise)
    assert plain.dtype == torch.float32


def test_levels_must_grow():
    with pytest.raises(ValueError, match="expected one or more, growing"):
        SAMM(LEVELS[::-1])
    with pytest.raises(ValueError, match="expected one or more, growing"):
        SAMM(())


def test_there_is_at_least_one_cycle():
    with pytest.raises(ValueError, match="cycles is 0"):
        SAMM(LEVELS, cycles=0)


def test_a_wide_head_is_one_product_and_equals_its_steps():
    torch.manual_seed(3)
    head = samm_module.Head(samm_module.WIDE, bias=True).requires_grad_(False)
    x = torch.randn(2, samm_module.WIDE, 9, 7).contiguous(memory_format=torch.channels_last)
    convolved = []
    head.conv_in.register_forward_hook(lambda *_: convolved.append(True))
    seen = head(x)
    assert not convolved
    torch.testing.assert_close(seen, head._forward_plainly(x), rtol=1e-4, atol=1e-4)
