import pytest
import torch

from vidinvert.networks.diffcam import (
    PUBLISHED_CLASSES,
    DiffCam,
    latent_diffcam,
    normalise_map,
    resnet_diffcam,
)


def grad_cam_reference(network: DiffCam, before, after, index: int) -> torch.Tensor:
    """Grad-CAM as published: weights are the spatial means of the logit's gradient."""
    activations = network.activations(before, after).detach().requires_grad_(True)
    logit = network.logits(activations)[:, index].sum()
    (gradient,) = torch.autograd.grad(logit, activations)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weights * activations).sum(dim=1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return latent_diffcam(5, channels=4).requires_grad_(False)


def test_maps_in_closed_form_are_those_of_the_backward_pass(network):
    before, after = torch.randn(2, 3, 4, 32, 32)
    maps = network.maps(network.activations(before, after))
    assert maps.shape == (3, 5, 16, 16)
    for index in range(5):
        expected = grad_cam_reference(network, before, after, index)
        torch.testing.assert_close(maps[:, index], expected, rtol=1e-5, atol=1e-9)
    assert maps.max() > 0


def test_what_both_inputs_share_cancels_out(network):
    same = torch.randn(1, 4, 32, 32)
    assert torch.equal(network.difference(same, same), torch.zeros(1, 64, 32, 32))
    before, after = same.clone(), same.clone()
    after[:, :, 8:12, 8:12] += 1.0
    changed = network.difference(before, after).abs().amax(dim=(0, 1)) > 0
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert (rows.min(), rows.max()) == (6, 13)  # two cells further, as two convolutions see
    assert (columns.min(), columns.max()) == (6, 13)


def test_a_map_spans_zero_to_one_and_an_empty_one_stays_empty():
    cam = torch.tensor([[[[1.0, 3.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    normal = normalise_map(cam)
    assert normal[0, 0].tolist() == [[0.0, 1.0], [0.5, 0.0]]
    assert normal[0, 1].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    flat = normalise_map(torch.full((1, 1, 2, 2), 7.0))  # an even map shows no place either
    assert flat.tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]


def test_no_difference_gives_an_empty_mask_not_nan(network):
    same = torch.randn(1, 4, 32, 32)
    maps = normalise_map(network.maps(torch.zeros_like(network.activations(same, same))))
    assert torch.equal(maps, torch.zeros_like(maps))


def test_the_published_network_has_the_published_shapes():
    with torch.device("meta"):
        network = resnet_diffcam()
        images = torch.empty(2, 3, 256, 256)
        assert network.difference(images, images).shape == (2, 1024, 16, 16)
        activations = network.activations(images, images)
        assert activations.shape == (2, 2048, 8, 8)
        assert network.logits(activations).shape == (2, PUBLISHED_CLASSES)
    # ResNet-101 has 44.5 M parameters with its 2.05 M for a thousand classes.
    assert sum(p.numel() for p in network.parameters()) == 42_500_160 + 2048 * 17 + 17
    assert len(network.shared) == 7
    assert [len(group) for group in network.shared[4:]] == [3, 4, 10]
    assert [len(group) for group in network.judge] == [13, 3]
