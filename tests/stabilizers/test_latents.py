import numpy as np
import pytest
import torch

from stabilizers import (
    BilateralFilter,
    GaussianFilter,
    Interval,
    LayeredFilter,
    smooth,
    smooth_latents,
)

FILTER = GaussianFilter(sigma_seconds=0.1)


def codes(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(2))


def test_codes_are_smoothed_number_by_number(monkeypatch):
    w_plus, seconds, cut = codes(), np.arange(12) / 25, [Interval(0, 5), Interval(5, 12)]
    expected = smooth(w_plus.numpy(), seconds, FILTER, intervals=cut)
    np.testing.assert_allclose(
        smooth_latents(w_plus, seconds, FILTER, intervals=cut).numpy(), expected, rtol=0, atol=1e-6
    )
    monkeypatch.setattr("stabilizers.latents._CHUNK_BYTES", 8 * 12 * 5)  # five columns at a time
    np.testing.assert_allclose(
        smooth_latents(w_plus, seconds, FILTER, intervals=cut).numpy(), expected, rtol=0, atol=1e-6
    )


def test_the_codes_of_a_still_face_stay():
    still = codes(1).repeat(9, 1, 1)
    smoothed = smooth_latents(still, np.arange(9) / 25, FILTER, intervals=[Interval(0, 9)])
    assert torch.equal(smoothed, still)


def test_the_argument_is_not_changed():
    w_plus = codes()
    before = w_plus.clone()
    smooth_latents(w_plus, np.arange(12) / 25, FILTER, intervals=[Interval(0, 12)])
    assert torch.equal(w_plus, before)


def test_gradients_and_empty_tracks_are_no_obstacle():
    w_plus = codes().requires_grad_()
    smoothed = smooth_latents(w_plus, np.arange(12) / 25, FILTER, intervals=[Interval(0, 12)])
    assert not smoothed.requires_grad
    assert smooth_latents(codes(0), np.zeros(0), FILTER, intervals=[]).shape == (0, 4, 6)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 2, 4, dtype=torch.float64), torch.zeros(3, 8)])
def test_dtype_and_shape_are_checked(wrong):
    with pytest.raises(ValueError, match=r"expected torch.float32 \(T, L, D\)"):
        smooth_latents(wrong, np.arange(3.0), FILTER, intervals=[])


@pytest.mark.parametrize(
    ("layers", "edges"), [(4, (1, 2)), (14, (4, 7)), (18, (4, 9)), (1, (0, 0)), (2, (0, 1))]
)
def test_groups_are_shares_of_the_layers_and_cover_them_all(layers, edges):
    groups = LayeredFilter(coarse=None, expression=FILTER, fine=None).groups(layers)
    assert [(g.start, g.stop) for g, _ in groups] == [
        (0, edges[0]),
        edges,
        (edges[1], layers),
    ]
    assert [chosen for _, chosen in groups] == [None, FILTER, None]


def test_each_group_gets_its_own_filter():
    w_plus, seconds, run = codes(), np.arange(12) / 25, [Interval(0, 12)]
    filter_ = LayeredFilter(coarse=FILTER, expression=None, fine=BilateralFilter())
    smoothed = smooth_latents(w_plus, seconds, filter_, intervals=run)
    everything = smooth_latents(w_plus, seconds, FILTER, intervals=run)
    assert torch.equal(smoothed[:, 0], everything[:, 0])
    assert torch.equal(smoothed[:, 1], w_plus[:, 1])
    fine = BilateralFilter().apply(w_plus[:, 2:].numpy(), seconds)
    np.testing.assert_allclose(smoothed[:, 2:], fine, rtol=0, atol=1e-6)
