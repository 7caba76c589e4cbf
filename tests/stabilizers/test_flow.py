import numpy as np
import pytest
import torch

from stabilizers import flow_tensor, guided_filter, visible_in_both, warp_back


def picture(height: int = 12, width: int = 16) -> torch.Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(2))


def shift(dx: float, dy: float, height: int = 12, width: int = 16) -> torch.Tensor:
    flow = torch.zeros(1, 2, height, width)
    flow[:, 0], flow[:, 1] = dx, dy
    return flow


def test_no_flow_is_the_identity():
    np.testing.assert_allclose(warp_back(picture(), shift(0, 0)), picture(), rtol=0, atol=1e-5)


def test_whole_pixels_are_fetched_exactly_and_the_border_repeats():
    moved = warp_back(picture(), shift(3, -2))
    np.testing.assert_allclose(moved[..., 2:, :-3], picture()[..., :-2, 3:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(moved[..., 0, 0], picture()[..., 0, 3], rtol=0, atol=1e-5)


def test_half_pixels_are_halfway():
    ramp = torch.arange(8.0).repeat(1, 1, 4, 1)
    assert warp_back(ramp, shift(0.5, 0, 4, 8))[0, 0, 1, :7].tolist() == pytest.approx(
        [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5], abs=1e-5
    )


def test_what_does_not_return_is_hidden():
    there, back = shift(2, 0), shift(-2, 0)
    back[..., 5:9] = 4.0  # the second picture says something else there
    seen = visible_in_both(there, back)[0, 0]
    assert seen[:, :3].min() == 1
    assert seen[:, 3:7].max() == 0  # lands on 5..8
    assert seen[:, 14:].max() == 0  # leaves the picture


def test_small_errors_count_as_returning():
    assert visible_in_both(shift(1.0, 0), shift(-0.5, 0)).min(dim=-1).values.max() == 0
    assert visible_in_both(shift(1.0, 0), shift(-0.5, 0))[..., :-1].min() == 1


def guided_by_hand(mask: np.ndarray, guide: np.ndarray, radius: int, edge: float) -> np.ndarray:
    """He et al., algorithm 1, window by window."""
    height, width = mask.shape
    total, count = np.zeros_like(mask), np.zeros_like(mask)
    slope, offset = np.zeros_like(mask), np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            columns = slice(max(0, x - radius), x + radius + 1)
            g, m = guide[rows, columns], mask[rows, columns]
            slope[y, x] = ((g * m).mean() - g.mean() * m.mean()) / (g.var() + edge**2)
            offset[y, x] = m.mean() - slope[y, x] * g.mean()
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - radius), y + radius + 1)
            columns = slice(max(0, x - radius), x + radius + 1)
            total[y, x] = (slope[rows, columns].mean() * guide[y, x]) + offset[rows, columns].mean()
            count[y, x] = 1
    return np.clip(total / count, 0, 1)


def test_the_guided_filter_agrees_with_the_papers_algorithm():
    mask, guide = picture(), picture().flip(3)
    filtered = guided_filter(mask, guide, radius=2, edge=0.1)[0, 0]
    expected = guided_by_hand(mask[0, 0].double().numpy(), guide[0, 0].double().numpy(), 2, 0.1)
    np.testing.assert_allclose(filtered, expected, rtol=0, atol=1e-4)


def test_the_guided_filter_copies_an_edge_of_the_guide():
    guide = torch.zeros(1, 1, 20, 20)
    guide[..., 10:] = 1.0
    blurred = torch.linspace(0, 1, 20).repeat(1, 1, 20, 1)
    sharp = guided_filter(blurred, guide, radius=4, edge=0.05)
    assert sharp[0, 0, 10, 10] - sharp[0, 0, 10, 9] > 0.2 > blurred[0, 0, 10, 10] - 0.47


def test_radius_0_returns_the_mask():
    assert torch.equal(guided_filter(picture(), picture(), radius=0, edge=0.1), picture())


@pytest.mark.parametrize(("radius", "edge"), [(-1, 0.1), (2, 0.0)])
def test_the_guided_filters_parameters_are_checked(radius, edge):
    with pytest.raises(ValueError, match="expected a radius >= 0 in pixels and an edge > 0"):
        guided_filter(picture(), picture(), radius=radius, edge=edge)


def test_an_estimators_flow_becomes_a_tensor():
    flow = np.arange(24).reshape(3, 4, 2)
    tensor = flow_tensor(flow)
    assert tensor.shape == (1, 2, 3, 4)
    assert tensor[0, :, 1, 2].tolist() == flow[1, 2].tolist()
