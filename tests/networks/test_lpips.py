import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vidinvert.networks.lpips import Lpips

ALEX = [(0, 3, 64), (3, 64, 192), (6, 192, 384), (8, 384, 256), (10, 256, 256)]
VGG = [
    [(0, 3, 64), (2, 64, 64)],
    [(5, 64, 128), (7, 128, 128)],
    [(10, 128, 256), (12, 256, 256), (14, 256, 256)],
    [(17, 256, 512), (19, 512, 512), (21, 512, 512)],
    [(24, 512, 512), (26, 512, 512), (28, 512, 512)],
]
KERNELS = {0: 11, 3: 5, 6: 3, 8: 3, 10: 3}


def random_state(backbone: str) -> dict[str, torch.Tensor]:
    """A state dict with the authors' names."""
    torch.manual_seed(3)
    slices = [[layer] for layer in ALEX] if backbone == "alex" else VGG
    state = {}
    for number, layers in enumerate(slices):
        for index, inputs, outputs in layers:
            side = KERNELS[index] if backbone == "alex" else 3
            weight = torch.randn(outputs, inputs, side, side) / (inputs * side * side) ** 0.5
            state[f"net.slice{number + 1}.{index}.weight"] = weight
            state[f"net.slice{number + 1}.{index}.bias"] = 0.1 * torch.randn(outputs)
        state[f"lin{number}.model.1.weight"] = torch.rand(1, layers[-1][2], 1, 1)
    return state


def reference(state, first, second) -> torch.Tensor:
    """LPIPS on AlexNet, written from the paper and torchvision's layer list."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    for number, (index, _, _) in enumerate(ALEX):
        features[index].weight.data = state[f"net.slice{number + 1}.{index}.weight"]
        features[index].bias.data = state[f"net.slice{number + 1}.{index}.bias"]
    shift = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]
    a, b, total = (first - shift) / scale, (second - shift) / scale, 0.0
    taps = {1: 0, 4: 1, 7: 2, 9: 3, 11: 4}
    for place, layer in enumerate(features):
        a, b = layer(a), layer(b)
        if place in taps:
            difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)) ** 2
            weighted = F.conv2d(difference, state[f"lin{taps[place]}.model.1.weight"])
            total = total + weighted.mean(dim=(2, 3))[:, 0]
    return total


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    return first, (first + 0.3 * torch.randn(first.shape, generator=generator)).clamp(-1, 1)


@torch.no_grad()
def test_the_distance_is_the_published_one():
    state = random_state("alex")
    network = Lpips(state)
    first, second = pictures()
    assert network.backbone == "alex"
    torch.testing.assert_close(network(first, second), reference(state, first, second))


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_identical_pictures_are_at_no_distance_and_others_at_some(backbone):
    network = Lpips(random_state(backbone))
    first, second = pictures()
    assert network.backbone == backbone
    assert network(first, first).tolist() == [0.0, 0.0]
    assert network(first, second).min() > 0
    torch.testing.assert_close(network(first, second), network(second, first))


def test_other_tensors_are_refused():
    with pytest.raises(ValueError, match="are not those of lpips"):
        Lpips({"conv.weight": torch.zeros(1)})
    state = random_state("alex")
    del state["lin3.model.1.weight"]
    with pytest.raises(ValueError, match=r"lin3\.model\.1\.weight is absent"):
        Lpips(state)
    state = random_state("alex") | {"net.slice1.0.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(ValueError, match=r"net\.slice1\.0\.weight is \(64, 3, 3, 3\), expected"):
        Lpips(state)
