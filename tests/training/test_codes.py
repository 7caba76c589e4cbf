import numpy as np
import pytest
import torch

from tests.training.tiny import face_set
from vidinvert import images as pictures
from vidinvert.errors import PlanError
from vidinvert.networks.autoencoder import FaceEncoder
from vidinvert.networks.eigen import merge_bands
from vidinvert.training.codes import encode_copies, fit_basis, principal_components
from vidinvert.training.data import generator_at, jitter

COMPONENTS = (5, 6, 7, 8)


def samples(count, size, seed=0):
    """Centred data whose deviations fall from direction to direction."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(count, 12, generator=generator) * 0.6 ** torch.arange(12)
    data = data @ torch.linalg.qr(torch.randn(size, 12, generator=generator)).Q.T
    data = data + 1e-3 * torch.randn(count, size, generator=generator)
    return data - data.mean(dim=0)


@pytest.mark.parametrize("size", [40, 2100], ids=["exact", "randomised"])
def test_principal_components_are_those_of_the_singular_value_decomposition(size):
    data = samples(80, size)
    directions, sigma = principal_components(data, 6)
    _, values, vectors = torch.linalg.svd(data, full_matrices=False)
    torch.testing.assert_close(sigma, values[:6] / 80**0.5, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(directions @ directions.T, torch.eye(6), rtol=0, atol=1e-4)
    alike = (directions * vectors[:6]).sum(dim=1).abs()
    torch.testing.assert_close(alike, torch.ones(6), rtol=0, atol=1e-3)


def test_randomised_components_depend_on_the_seed_alone():
    data = samples(80, 2100)
    first, again = principal_components(data, 3, seed=1), principal_components(data, 3, seed=1)
    assert torch.equal(first[0], again[0])


@pytest.fixture(scope="module")
def fitted():
    """Latents (24, 1, 32, 32) and the basis fitted on them."""
    rng = np.random.default_rng(0)
    latents = (0.5 + rng.standard_normal((24, 1, 32, 32))).astype(np.float16)
    return latents, fit_basis(latents, components=COMPONENTS)


def test_codes_of_the_fitted_latents_have_mean_zero_and_variance_one(fitted):
    latents, basis = fitted
    codes = basis.codes(torch.from_numpy(latents.astype(np.float32)))
    for level, count in enumerate(COMPONENTS):
        used = codes[:, level, :count]
        torch.testing.assert_close(used.mean(dim=0), torch.zeros(count), rtol=0, atol=1e-4)
        deviation = used.std(dim=0, correction=0)
        torch.testing.assert_close(deviation, torch.ones(count), rtol=0, atol=1e-3)
        assert codes[:, level, count:].abs().max() == 0.0


def test_as_many_components_as_samples_lose_nothing():
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((6, 1, 32, 32)).astype(np.float16)
    basis = fit_basis(latents, components=(6, 6, 6, 6))
    given = torch.from_numpy(latents.astype(np.float32))
    rebuilt = merge_bands(basis.bands(basis.codes(given)))[-1]
    torch.testing.assert_close(rebuilt, given, rtol=0, atol=1e-3)


def test_components_without_variance_are_not_blown_up():
    flat = np.zeros((8, 1, 32, 32), np.float16)
    flat[:4] = 1.0  # one direction in all
    basis = fit_basis(flat, components=(3, 3, 3, 3))
    sigma = basis.get_buffer("sigma_0")
    torch.testing.assert_close(sigma[1:], sigma[:1].expand(2) * 0.02)


def test_fewer_latents_than_components_are_refused():
    with pytest.raises(PlanError, match=r"8 components and there are 7 latents.* more copies"):
        fit_basis(np.zeros((7, 1, 32, 32), np.float16), components=COMPONENTS)


def test_copies_are_the_originals_the_mirrored_and_the_jittered():
    faces = face_set(train=3, val=1, size=32)
    torch.manual_seed(0)
    encoder = FaceEncoder().eval()
    told = []
    latents = encode_copies(
        encoder,
        faces,
        faces.rows("train"),
        copies=1,
        seed=4,
        batch_size=2,
        progress=lambda done, total: told.append((done, total)),
    )
    given = [faces.images[n] for n in range(3)]
    expected = np.stack(
        [
            *given,
            *(image[:, ::-1] for image in given),
            *(jitter(image, generator_at(4, 6 + n)) for n, image in enumerate(given)),
        ]
    )
    with torch.inference_mode():
        wanted = encoder(pictures.to_float(expected)).latents.numpy()
    assert latents.dtype == np.float16
    np.testing.assert_allclose(latents, wanted, atol=2e-3)
    assert told == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]
