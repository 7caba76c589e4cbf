import pytest
import torch

from tests.training.tiny import random_basis
from vidinvert.networks.eigen import (
    LEVEL_CELLS,
    EigenBasis,
    EigenGenerator,
    LatentDiscriminator,
    merge_bands,
    quantise_bases,
    restore_bases,
    split_bands,
)
from vidinvert.networks.ops import prepare, set_precision


def random_latents(count, seed=0, channels=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, 32, 32, generator=generator)


def random_codes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, 4, 8, generator=generator)
    codes[:, :, 4:] = 0.0  # four components a level
    return codes


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    network = EigenGenerator((4, 4, 4, 4), style_width=8).eval()
    network.basis.load_state_dict(random_basis().state_dict())
    return network


def test_bands_add_up_to_the_latents_exactly():
    latents = random_latents(2)
    bands = split_bands(latents)
    assert [band.shape[-1] for band in bands] == list(LEVEL_CELLS)
    sums = merge_bands(bands)
    assert [part.shape[-1] for part in sums] == list(LEVEL_CELLS)
    torch.testing.assert_close(sums[-1], latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        sums[0], latents.unflatten(2, (4, 8)).unflatten(4, (4, 8)).mean((3, 5))
    )


def test_flat_latents_have_a_coarse_band_alone():
    bands = split_bands(torch.full((1, 3, 32, 32), 2.5))
    assert torch.all(bands[0] == 2.5)
    assert all(band.abs().max() == 0.0 for band in bands[1:])


def spanned(latents):
    """A basis whose rows span the bands of these latents, (N - 1) components a level."""
    count = len(latents) - 1
    basis = EigenBasis([count] * 4, channels=latents.shape[1], style_width=8)
    for level, band in enumerate(split_bands(latents)):
        flat = band.flatten(1)
        mean = flat.mean(dim=0)
        rows = torch.linalg.qr((flat - mean)[:count].T).Q.T
        basis.get_buffer(f"mean_{level}").copy_(mean)
        basis.get_buffer(f"basis_{level}").copy_(rows)
        basis.get_buffer(f"sigma_{level}").copy_(torch.arange(1, count + 1) / 2)
    return basis


def test_latents_in_the_span_come_back_from_their_codes():
    latents = random_latents(4, channels=2)
    mixed = torch.tensordot(torch.tensor([[0.5, 0.5, 0, 0], [0.2, 0, 0.9, -0.1]]), latents, dims=1)
    basis = spanned(latents)
    codes = basis.codes(mixed)
    assert codes.shape == (2, 4, 8)
    assert codes[:, :, 3:].abs().max() == 0.0
    torch.testing.assert_close(merge_bands(basis.bands(codes))[-1], mixed, rtol=0, atol=1e-5)


def test_codes_of_a_band_are_those_it_was_made_from():
    basis = random_basis()
    codes = random_codes(3)
    for level, band in enumerate(basis.bands(codes)):
        mean, rows, sigma = basis.level(level)
        back = (band.flatten(1) - mean) @ rows.T / sigma
        torch.testing.assert_close(back, codes[:, level, :4], rtol=0, atol=1e-4)


def test_the_trunk_is_linear_in_the_codes():
    basis = random_basis()
    first, second = random_codes(1, seed=1), random_codes(1, seed=2)

    def trunk(codes):
        return merge_bands(basis.bands(codes))[-1]

    mixed = trunk(0.3 * first + 0.7 * second)
    torch.testing.assert_close(mixed, 0.3 * trunk(first) + 0.7 * trunk(second), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_batch_equals_its_members_one_by_one(generator):
    codes = random_codes(3)
    together = generator(codes)
    assert together.latents.shape == (3, 32, 32, 32)
    assert together.features.shape == (3, 96, 32, 32)
    alone = torch.cat([generator(code[None]).latents for code in codes])
    torch.testing.assert_close(together.latents, alone, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_untrained_refiner_changes_the_trunk_little_and_follows_every_level(generator):
    codes = random_codes(1)
    trunk = merge_bands(generator.basis.bands(codes))[-1]
    latents = generator(codes).latents
    assert 0.0 < (latents - trunk).std() < 0.5
    for level in range(4):
        moved = codes.clone()
        moved[:, level, 0] += 1.0
        assert not torch.equal(generator(moved).latents, latents)


def test_the_basis_is_not_trained(generator):
    assert not any(name.startswith("basis") for name, _ in generator.named_parameters())


def test_the_discriminator_gives_a_logit_a_picture_and_one_a_patch():
    torch.manual_seed(0)
    network = LatentDiscriminator()
    logits, patches = network(random_latents(3))
    assert logits.shape == (3,)
    assert patches.shape == (3, 1, 8, 8)
    assert network(random_latents(1))[0].isfinite().all()  # no spread within a batch of one


def test_quantised_bases_come_back_within_half_a_step():
    state = {f"basis.{name}": value for name, value in random_basis().state_dict().items()}
    stored = quantise_bases(state)
    assert stored["basis.basis_2"].dtype == torch.int8
    restored = restore_bases(stored)
    assert set(restored) == set(state)
    for level in range(4):
        step = stored[f"basis.scale_{level}"][:, None]
        difference = (restored[f"basis.basis_{level}"] - state[f"basis.basis_{level}"]).abs()
        assert (difference <= 0.5 * step + 1e-7).all()


def test_bases_that_were_not_quantised_are_left_alone():
    state = dict(random_basis().state_dict())
    assert all(value is state[name] for name, value in restore_bases(state).items())


def test_bfloat16_products_with_a_quantised_basis_err_by_rounding_alone():
    stored = quantise_bases(dict(random_basis().state_dict()))
    exact, brief = random_basis(), random_basis()
    for basis in (exact, brief):
        basis.load_state_dict(restore_bases(stored))
    brief.lay_out(torch.bfloat16)
    codes, latents = random_codes(3), random_latents(3)
    for seen, wanted in zip(brief.bands(codes), exact.bands(codes), strict=True):
        assert (seen - wanted).norm() < 0.004 * wanted.norm()
    for project in ("codes", "changes"):
        seen, wanted = (getattr(basis, project)(latents) for basis in (brief, exact))
        assert (seen - wanted).norm() < 0.004 * wanted.norm()
        assert seen.dtype == torch.float32


def test_float32_columns_give_the_products_of_rows():
    stored = quantise_bases(
        {f"basis.{name}": value for name, value in random_basis().state_dict().items()}
    )
    restored = {k.removeprefix("basis."): v for k, v in restore_bases(stored).items()}
    rows, columns, adopted = random_basis(), random_basis(), random_basis()
    for basis in (rows, columns):
        basis.load_state_dict(restored)
    columns.lay_out(torch.float32)
    rest = adopted.adopt(stored, torch.float32)
    adopted.load_state_dict({k.removeprefix("basis."): v for k, v in rest.items()})
    codes, latents = random_codes(3), random_latents(3)
    for basis in (columns, adopted):
        assert basis.level(3)[1].numel() == 0  # the rows are let go
        for seen, wanted in zip(basis.bands(codes), rows.bands(codes), strict=True):
            torch.testing.assert_close(seen, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(basis.codes(latents), rows.codes(latents), rtol=1e-5, atol=1e-5)


def test_adopted_int8_rows_are_those_that_laying_out_makes():
    state = {f"basis.{name}": value for name, value in random_basis().state_dict().items()}
    stored = quantise_bases(state)
    adopted, shortened = random_basis(), random_basis()
    rest = adopted.adopt(stored, torch.bfloat16)
    adopted.load_state_dict({name.removeprefix("basis."): value for name, value in rest.items()})
    restored = restore_bases(stored)
    shortened.load_state_dict(
        {name.removeprefix("basis."): value for name, value in restored.items()}
    )
    shortened.lay_out(torch.bfloat16)
    assert adopted.laid_out is not None
    assert shortened.laid_out is not None
    for seen, wanted in zip(adopted.laid_out, shortened.laid_out, strict=True):
        assert torch.equal(seen.columns, wanted.columns)
        torch.testing.assert_close(seen.step, wanted.step)
    adopted.lay_out(torch.bfloat16)  # what is short already stays
    assert torch.equal(adopted.codes(random_latents(2)), shortened.codes(random_latents(2)))


def test_rows_that_do_not_fit_are_not_adopted():
    state = {f"basis.{name}": value for name, value in random_basis().state_dict().items()}
    for wrong in (state, quantise_bases(state) | {"basis.basis_1": torch.zeros(3, 5).char()}):
        basis = random_basis()
        assert basis.adopt(wrong, torch.bfloat16) == wrong
        assert basis.laid_out is None
        assert basis.level(0)[1].numel() > 0


def test_a_generator_prepared_in_bfloat16_lets_its_float32_bases_go(generator):
    brief = EigenGenerator((4, 4, 4, 4), style_width=8)
    brief.load_state_dict(generator.state_dict())
    set_precision(brief, torch.bfloat16)
    prepare(brief)
    assert brief.basis.level(3)[1].numel() == 0
    codes = random_codes(2)
    with torch.inference_mode():
        seen, wanted = brief(codes).latents, generator(codes).latents
    assert seen.dtype == torch.float32
    assert (seen - wanted).norm() < 0.02 * wanted.norm()
