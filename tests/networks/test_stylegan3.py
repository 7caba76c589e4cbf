import math

import numpy as np
import pytest
import torch

from tests.reference import stylegan3 as reference
from tests.stylegan3_files import (
    CONFIGS,
    SIZE,
    STYLE_WIDTH,
    as_arrays,
    codes,
    filter_plan,
    generator,
    sg3_state,
)
from vidinvert.networks.alias_free import (
    Band,
    FilterPlan,
    bands,
    design_lowpass,
    downsample,
    published_channels,
    upsample,
    upsample_reference,
)
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.stylegan3 import FourierInput, Generator3


def relative(seen, wanted) -> float:
    seen, wanted = np.asarray(seen, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(seen - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("designed", [False, True], ids=["stored filters", "designed filters"])
def test_pictures_are_those_of_the_layer_by_layer_reference(config, designed):
    plan = filter_plan(config, size=32, layers=6)
    network = generator(plan, most=6)
    w_plus = codes(network, 2)
    with torch.no_grad():
        seen = network(w_plus)
    wanted = reference.synthesise(
        as_arrays(sg3_state(network)),
        w_plus.double().numpy(),
        size=plan.size,
        kernel=plan.kernel,
        radial=plan.radial,
        designed=designed,
    )
    assert wanted.std() > 0.1
    assert relative(seen, wanted) < 1e-5


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_drawn_moves_by_whole_pixels_with_the_input(config):
    network = generator(filter_plan(config))
    w_plus = codes(network, 1)
    still = network(w_plus)
    for right, below in ((1, 0), (8, -5)):
        network.input.transform.copy_(torch.eye(3))
        network.input.transform[:2, 2] = -torch.tensor([right, below]) / SIZE
        moved = network(w_plus)
        shifted = torch.roll(still, (below, right), dims=(2, 3))
        inner = (..., slice(10, -10), slice(10, -10))
        error = (moved - shifted)[inner].square().mean()
        assert (still - moved).square().mean() > 100 * error
        assert 10 * math.log10(4 / error) > 75  # 84 to 88 dB measured; the paper reports 66


def test_radial_filters_turn_a_picture_by_a_right_angle():
    plain, radial = (generator(filter_plan(config)) for config in ("T", "R"))
    errors = []
    for network in (plain, radial):
        w_plus = codes(network, 1)
        still = network(w_plus)
        network.input.transform.copy_(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
        turned = torch.rot90(still, 1, dims=(2, 3))
        errors.append(float((network(w_plus) - turned).square().mean() / still.var()))
    assert errors[1] < 1e-9
    assert errors[0] > 0.01  # 3x3 weights have a direction


def test_a_picture_does_not_depend_on_its_neighbours():
    network = generator()
    w_plus = codes(network, 3) * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    whole = network(w_plus)
    for index in range(3):
        torch.testing.assert_close(network(w_plus[index : index + 1])[0], whole[index])


@pytest.mark.parametrize("config", CONFIGS)
def test_channels_are_filtered_alike_all_at_once_or_one_by_one(config, monkeypatch):
    network = generator(filter_plan(config))
    w_plus = codes(network, 2)
    whole = network(w_plus)
    monkeypatch.setattr("vidinvert.networks.alias_free.AT_ONCE", 1)
    torch.testing.assert_close(network(w_plus), whole, rtol=1e-5, atol=1e-5)


def test_prepared_and_in_bfloat16_it_draws_the_same():
    network = generator()
    w_plus = codes(network, 2)
    wanted = network(w_plus)
    set_precision(network, torch.float32)
    prepare(network)
    torch.testing.assert_close(network(w_plus), wanted, rtol=1e-5, atol=1e-5)
    rough = generator()
    set_precision(rough, torch.bfloat16)
    prepare(rough)
    assert rough(w_plus).dtype == torch.float32
    assert 1e-4 < relative(rough(w_plus), wanted) < 0.1


def test_gradients_are_those_of_differences_and_the_same_when_layers_run_again(monkeypatch):
    network = generator(filter_plan(size=16, layers=4))
    w_plus = codes(network, 1).double().requires_grad_(True)
    prepare(network.double())
    weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    gradients = []
    for side, at_once in ((10_000, 2**23), (10_000, 1), (0, 1)):
        monkeypatch.setattr("vidinvert.networks.stylegan3.RERUN_FROM", side)
        monkeypatch.setattr("vidinvert.networks.alias_free.AT_ONCE", at_once)
        gradients.append(torch.autograd.grad((network(w_plus) * weights).sum(), w_plus)[0])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])

    def draw(codes):  # as the network does, but for its last rounding to float32
        x = network.input(codes[:, 0])
        for index, layer in enumerate(network.layers):
            x = layer(x, codes[:, index + 1])
        return (network.to_rgb(x, codes[:, -1]) * weights).sum() * network.output_scale

    along = torch.randn(w_plus.shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        measured = (draw(w_plus + 1e-6 * along) - draw(w_plus - 1e-6 * along)) / 2e-6
    assert float(measured) == pytest.approx(float((gradients[0] * along).sum()), rel=1e-6)


def test_the_published_generators_have_the_layers_of_their_names():
    plan = FilterPlan(size=1024)
    made = [f"{b.size}_{c}" for b, c in zip(bands(plan), published_channels(plan), strict=True)]
    assert made == [
        *("36_512", "36_512", "52_512", "52_512", "84_512", "148_512", "148_512", "276_323"),
        *("276_203", "532_128", "1044_81", "1044_51", "1044_32", "1024_32", "1024_3"),
    ]
    wide = published_channels(plan, base=65536, most=1024)
    assert wide[:8] == (1024,) * 7 + (645,)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("padding", [(9, 8), (-4, -5), (30, 29)])
def test_upsampling_equals_putting_zeros_between(factor, padding):
    source = torch.Generator().manual_seed(0)
    x, taps = torch.randn(2, 3, 15, 17, generator=source), torch.randn(12, generator=source)
    seen = upsample(x, taps, factor=factor, padding=padding)
    wanted = upsample_reference(x, taps, factor=factor, padding=padding)
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)


def test_downsampling_by_two_passes_equals_one_by_their_product():
    source = torch.Generator().manual_seed(0)
    x, taps = torch.randn(2, 3, 20, 24, generator=source), torch.randn(12, generator=source)
    seen, wanted = (downsample(x, k, factor=2) for k in (taps, torch.outer(taps, taps)))
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("radial", [False, True])
def test_filters_pass_the_band_and_stop_what_lies_beyond(radial):
    band = Band(size=64, rate=64, cutoff=12.0, half_width=16.0)
    kernel = design_lowpass(24, band, rate=128, radial=radial)
    line = kernel.sum(axis=0) if radial else kernel
    assert line.sum() == pytest.approx(1)
    np.testing.assert_allclose(line, line[::-1], atol=1e-12)
    places = (np.arange(24) - 11.5) / 128
    passed, stopped = (abs(np.exp(-2j * np.pi * f * places) @ line) for f in (4.0, 40.0))
    assert passed > 0.9
    assert stopped < 0.02
    if radial:
        np.testing.assert_allclose(kernel, kernel.T, atol=1e-12)


def test_the_input_fades_frequencies_that_a_transform_brings_beyond_its_samples():
    torch.manual_seed(0)
    band = Band(size=36, rate=16, cutoff=2.0, half_width=6.0)
    drawn = FourierInput(16, band=band, style_width=4)
    w = torch.randn(1, 4)
    plain = drawn(w)
    drawn.transform.copy_(torch.diag(torch.tensor([50.0, 50.0, 1.0])))
    assert drawn(w).abs().max() < 0.2 * plain.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 100}, "size is 100, expected a power of two"),
        ({"layers": 2}, "critical is 2 of 2 layers"),
        ({"size": 2**20}, "size is 1048576, expected a power of two from 8 to 4096"),
        ({"first_cutoff": 0.0}, "first_cutoff and first_stopband are 0.0 and 4.28"),
        ({"first_stopband": 1.5}, "are 2.0 and 1.5, expected 1 or more, and more than that"),
        ({"last_stopband_ratio": 1.0}, "last_stopband_ratio is 1.0, expected a number from 1.01"),
        ({"margin": -1}, "margin is -1, expected a number from 0 to 64"),
        ({"taps": 10**9}, "taps is 1000000000, expected a number from 2 to 16"),
        ({"kernel": 2}, "kernel and oversampling are 2 and 2, expected"),
    ],
)
def test_plans_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        filter_plan(**change)


def test_channels_for_other_layers_are_refused():
    with pytest.raises(ValueError, match=r"channels are \[8, 3\], expected 14 for the layers, and"):
        Generator3(filter_plan(), style_width=STYLE_WIDTH, channels=(8, 3))


def test_the_mapping_is_that_of_the_reference():
    network = generator()
    z = torch.randn(3, STYLE_WIDTH, generator=torch.Generator().manual_seed(0))
    wanted = reference.map_codes(as_arrays(sg3_state(network)), z.double().numpy())
    assert relative(network.mapping(z), wanted) < 1e-5
