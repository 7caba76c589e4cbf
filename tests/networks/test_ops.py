import pytest
import torch
from torch.nn import functional as F

from vidinvert.networks import ops, winograd


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("prepared", [False, True])
def test_modulated_convolution_equals_the_grouped_form(upsample, demodulate, prepared):
    conv = ops.ModulatedConv2d(128, 128, 3, style_width=8, upsample=upsample, demodulate=demodulate)
    x, w = random(3, 128, 6, 5), random(3, 8, seed=1)
    with torch.no_grad():
        styles = conv.modulation(w) * conv.gain
        wanted = ops.modulated_conv2d_reference(
            x, conv.weight, styles, demodulate=demodulate, upsample=upsample
        )
        if prepared:
            conv.prepare()
            assert (conv.fast is not None) == (not upsample)
        seen = conv(x.contiguous(memory_format=torch.channels_last), w)
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)


def test_doubling_and_a_convolution_are_one_transposed_convolution():
    x, weight, bias = random(2, 5, 6, 7), random(4, 5, 3, 3, seed=1), random(4, seed=2)
    wanted = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    merged = ops.merge_doubling(weight)
    seen = F.conv_transpose2d(x, merged, bias, stride=2, padding=1)
    torch.testing.assert_close(seen, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (2, 1, 2, 1), (0, 3, 2, 1)])
def test_blur_equals_the_sum_of_its_taps(padding):
    x = random(2, 3, 7, 9)
    seen = ops.blur(x, padding=padding, gain=4.0)
    torch.testing.assert_close(seen, ops.blur_reference(x, padding=padding, gain=4.0))


def test_blur_keeps_a_constant_away_from_the_border():
    blurred = ops.blur(torch.ones(1, 2, 9, 9), padding=(2, 1, 2, 1))
    torch.testing.assert_close(blurred[:, :, 2:-1, 2:-1], torch.ones(1, 2, 6, 6))


def test_image_upsampling_equals_inserting_zeros_and_blurring():
    x = random(2, 3, 5, 6)
    torch.testing.assert_close(ops.upsample_image(x), ops.upsample_image_reference(x))


def test_instance_statistics_equal_instance_norm():
    x = random(2, 5, 7, 6) * 3 + 2
    affine = ops.InstanceAffine(5)
    wanted = F.instance_norm(x, weight=affine.weight, bias=affine.bias, eps=1e-5)
    torch.testing.assert_close(affine(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [False, True])
def test_normalising_equals_taking_statistics_first(dtype, affine):
    x = (random(3, 8, 7, 6) * 3 + 2).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = (random(8, seed=1), random(8, seed=2)) if affine else (None, None)
    seen, wanted = ops.normalise(x, weight, bias), ops.normalise_reference(x.float(), weight, bias)
    error = 1e-5 if dtype == torch.float32 else 0.02  # bfloat16: 8 bits of numbers up to 4
    torch.testing.assert_close(seen.float(), wanted, rtol=error, atol=error)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    assert ops.normalise(x, weight, bias).grad_fn is not None


@pytest.mark.parametrize("size_hw", [(4, 4), (7, 10), (17, 5), (1, 1)])
@pytest.mark.parametrize("count", [1, 3])
def test_winograd_equals_the_direct_convolution(size_hw, count):
    x, weight = random(count, 6, *size_hw), random(5, 6, 3, 3, seed=1)
    seen = winograd.convolve(x, winograd.transform_weight(weight))
    torch.testing.assert_close(seen, F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-4)
    assert seen.is_contiguous(memory_format=torch.channels_last) or size_hw[0] % 4 != 0


@pytest.mark.parametrize("budget", [36 * 6, 36 * 6 * 3, 36 * 6 * 20])
def test_winograd_does_not_depend_on_the_portions(monkeypatch, budget):
    x, weight = random(3, 6, 12, 9), random(5, 6, 3, 3, seed=1)
    monkeypatch.setattr(winograd, "BUFFER_ELEMENTS", budget)
    seen = winograd.convolve(x, winograd.transform_weight(weight))
    torch.testing.assert_close(seen, F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-4)


def test_a_prepared_convolution_still_passes_gradients_to_its_input():
    torch.manual_seed(0)
    conv = ops.Conv2d(128, 128, 3, bias=True)
    direct = conv(random(1, 128, 4, 4)).detach()
    conv.requires_grad_(False).prepare()
    x = random(1, 128, 4, 4).requires_grad_()
    out = conv(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(out.detach(), direct)
    torch.testing.assert_close(conv(x.detach()), direct, rtol=1e-4, atol=1e-5)


def test_winograd_is_for_wide_float32_on_the_cpu_alone():
    wide = torch.zeros(128, 128, 3, 3)
    assert winograd.suits(wide)
    assert not winograd.suits(wide.bfloat16())
    assert not winograd.suits(wide[:, :64])
    assert not winograd.suits(wide[:, :, :1, :1])


def test_reduced_precision_leaves_styles_and_norms_in_float32():
    network = torch.nn.Sequential(
        ops.ModulatedConv2d(4, 4, 3, style_width=8), ops.InstanceAffine(4), torch.nn.Conv2d(4, 4, 1)
    )
    ops.set_precision(network, torch.bfloat16, keep=[network[2]])
    kinds = {name: p.dtype for name, p in network.named_parameters()}
    assert kinds["0.weight"] == torch.bfloat16
    assert {d for n, d in kinds.items() if n != "0.weight"} == {torch.float32}
