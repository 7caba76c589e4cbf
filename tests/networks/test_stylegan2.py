import pytest
import torch

from vidinvert.networks.e4e import E4E
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.stylegan2 import Generator, published_channels, sample_w_mean

CHANNELS = {4: 16, 8: 12, 16: 8}


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(3)
    return Generator(size=16, style_width=10, channels=CHANNELS, mapping_layers=2).requires_grad_(
        False
    )


def test_sizes_follow_the_published_counts(generator):
    assert generator.style_count == 6
    assert [n.shape[-1] for n in generator.noise] == [4, 8, 8, 16, 16]
    assert generator(torch.randn(2, 6, 10)).shape == (2, 3, 16, 16)
    with torch.device("meta"):
        full = Generator(size=1024)
    assert full.style_count == 18
    assert len(full.noise) == 17
    assert 29e6 < sum(p.numel() for p in full.parameters()) < 31e6


def test_published_channels_halve_with_the_multiplier():
    assert published_channels()[1024] == 32
    assert published_channels(multiplier=1)[64] == 256


@pytest.mark.parametrize("size", [4, 12, 100])
def test_sizes_that_are_no_power_of_two_are_refused(size):
    with pytest.raises(ValueError, match="expected a power of two"):
        Generator(size=size)


def test_channels_must_reach_the_size():
    with pytest.raises(ValueError, match=r"nothing for \[32\]"):
        Generator(size=32, channels=CHANNELS)


def test_noise_is_what_is_passed_and_nothing_else(generator):
    w_plus = torch.randn(1, 6, 10)
    for module in generator.modules():
        if hasattr(module, "noise_strength"):
            module.noise_strength.data.fill_(0.5)
    without = generator(w_plus)
    assert torch.equal(without, generator(w_plus))
    zeros = [torch.zeros_like(n) for n in generator.noise]
    assert torch.equal(without, generator(w_plus, noise=zeros))
    assert not torch.allclose(without, generator(w_plus, noise=generator.noise))


def test_preparing_changes_nothing(generator):
    w_plus = torch.randn(2, 6, 10)
    before = generator(w_plus, noise=generator.noise)
    set_precision(generator, torch.float32)
    prepare(generator)
    after = generator(w_plus, noise=generator.noise)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_codes(generator):
    prepare(generator)
    w_plus = torch.randn(1, 6, 10, requires_grad=True)
    generator(w_plus).square().mean().backward()
    assert w_plus.grad is not None
    assert w_plus.grad.abs().sum(dim=(0, 2)).min() > 0


def test_the_mean_code_is_that_of_many_samples(generator):
    first = sample_w_mean(generator, samples=64, seed=1)
    assert first.shape == (10,)
    assert torch.equal(first, sample_w_mean(generator, samples=64, seed=1))


@pytest.fixture(scope="module")
def encoder() -> E4E:
    torch.manual_seed(4)
    network = E4E(style_count=9, trunk_widths=(16, 16, 32, 32)).eval().requires_grad_(False)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return network


def test_encoder_returns_offsets_and_taps_and_preparing_keeps_them(encoder):
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    before = encoder(images)
    assert before.offsets.shape == (2, 9, 32)
    assert [tuple(t.shape[1:]) for t in before.taps] == [
        (32, 32, 32),
        (16, 64, 64),
        (16, 128, 128),
        (16, 256, 256),
    ]
    one = encoder(images[1:])
    torch.testing.assert_close(one.offsets, before.offsets[1:], rtol=1e-4, atol=1e-5)
    set_precision(encoder, torch.float32)
    prepare(encoder)
    after = encoder(images)
    torch.testing.assert_close(after.offsets, before.offsets, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.taps[0], before.taps[0], rtol=1e-4, atol=1e-5)
    assert (
        encoder.fine_heads.heads[0].first.weight.data_ptr() == encoder.fine_heads.fast[0].data_ptr()
    )
    set_precision(encoder, torch.bfloat16)
    prepare(encoder)
    rough = encoder(images.bfloat16())
    assert rough.offsets.dtype == torch.float32
    assert (rough.offsets - before.offsets).norm() < 0.05 * before.offsets.norm()


def test_pyramid_upsampling_is_a_choice_that_matters():
    torch.manual_seed(4)
    widths = (16, 16, 32, 32)
    bilinear = E4E(style_count=8, trunk_widths=widths).eval().requires_grad_(False)
    bicubic = E4E(style_count=8, trunk_widths=widths, pyramid_upsampling="bicubic").eval()
    bicubic.load_state_dict(bilinear.state_dict())
    images = torch.rand(1, 3, 256, 256)
    assert not torch.allclose(bilinear(images).offsets, bicubic(images).offsets)


def test_other_sizes_are_refused(encoder):
    with pytest.raises(ValueError, match="expected \\(N, 3, 256, 256\\); resize"):
        encoder(torch.zeros(1, 3, 128, 128))


def test_too_few_style_vectors_are_refused():
    with pytest.raises(ValueError, match="style_count is 7, expected more than 7"):
        E4E(style_count=7)
