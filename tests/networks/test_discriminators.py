import pytest
import torch
from torch.nn import functional as F

from vidinvert.networks.discriminators import (
    Discriminator,
    EqualizedConv2d,
    StyleDiscriminator,
    batch_deviation,
)
from vidinvert.networks.ops import blur_reference

CHANNELS = {4: 8, 8: 8, 16: 6, 32: 4}


def test_pictures_of_every_size_are_judged():
    torch.manual_seed(0)
    for size in (8, 16, 32):
        judge = Discriminator(size=size, channels=CHANNELS)
        assert judge(torch.randn(6, 3, size, size)).shape == (6,)
    with pytest.raises(ValueError, match="size is 12, expected a power of two"):
        Discriminator(size=12, channels=CHANNELS)


@pytest.mark.parametrize("kernel", [1, 3])
def test_down_sampling_blurs_and_keeps_every_second_pixel(kernel):
    torch.manual_seed(0)
    conv = EqualizedConv2d(3, 5, kernel, downsample=True)
    x = torch.randn(2, 3, 16, 16)
    pad = kernel // 2 + 1
    blurred = blur_reference(x, padding=(pad, pad, pad, pad))
    expected = F.conv2d(blurred, conv.weight / (3 * kernel**2) ** 0.5, conv.bias)[:, :, ::2, ::2]
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)
    assert conv(x).shape == (2, 5, 8, 8)


def test_the_deviation_of_a_batch_is_that_of_its_groups():
    x = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    told = batch_deviation(x)
    assert told.shape == (8, 1, 4, 4)
    group = x[[0, 2, 4, 6]]  # every second picture: groups interleave, as published
    expected = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    torch.testing.assert_close(told[0, 0, 0, 0], expected)
    assert batch_deviation(x[:1]).max() < 1e-3  # alone, nothing deviates


def test_a_gradient_penalty_passes_a_second_time():
    judge = Discriminator(size=16, channels=CHANNELS)
    pictures = torch.randn(4, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(judge(pictures).sum(), pictures, create_graph=True)
    slope.square().sum().backward()
    assert judge.from_rgb.weight.grad is not None
    assert judge.from_rgb.weight.grad.abs().sum() > 0


def test_style_vectors_are_judged_one_by_one():
    judge = StyleDiscriminator(6)
    codes = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))
    logits = judge(codes)
    assert logits.shape == (2, 10)
    torch.testing.assert_close(logits[1, 3], judge(codes[1, 3]))
