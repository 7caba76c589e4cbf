"""ReStyle's and FeatureStyle's forward passes, slow and layer by layer, from official names."""

import torch
from torch import Tensor
from torch.nn import functional as F

UNITS = (3, 4, 14, 3)
State = dict[str, Tensor]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    shape = (1, -1, 1, 1)
    x = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
    return x * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)


def prelu(state: State, name: str, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))


def conv(state: State, name: str, x: Tensor, *, stride: int = 1, padding: int = 1) -> Tensor:
    bias = state.get(f"{name}.bias")
    return F.conv2d(x, state[f"{name}.weight"], bias, stride=stride, padding=padding)


def head(state: State, name: str, x: Tensor) -> Tensor:
    """A map2style head: strided convolutions to one pixel, then an equalised linear layer."""
    index = 0
    while f"{name}.convs.{index}.weight" in state:
        x = F.leaky_relu(conv(state, f"{name}.convs.{index}", x, stride=2), 0.01)
        index += 2
    weight = state[f"{name}.linear.weight"]
    return x.flatten(1) @ weight.T / weight.shape[1] ** 0.5 + state[f"{name}.linear.bias"]


def ir_se50(state: State, x: Tensor) -> list[Tensor]:
    """Spec 0.2: what leaves the input layer and units 2, 6, 20 and 23."""
    x = prelu(state, "input_layer.2", norm(state, "input_layer.1", conv(state, "input_layer.0", x)))
    maps = [x]
    starts = [sum(UNITS[:k]) for k in range(4)]
    for unit in range(sum(UNITS)):
        stride = 2 if unit in starts else 1
        there = f"body.{unit}"
        r = conv(state, f"{there}.res_layer.1", norm(state, f"{there}.res_layer.0", x))
        r = conv(
            state, f"{there}.res_layer.3", prelu(state, f"{there}.res_layer.2", r), stride=stride
        )
        r = norm(state, f"{there}.res_layer.4", r)
        gate = r.mean(dim=(2, 3), keepdim=True)
        gate = F.relu(conv(state, f"{there}.res_layer.5.fc1", gate, padding=0))
        r = r * torch.sigmoid(conv(state, f"{there}.res_layer.5.fc2", gate, padding=0))
        if f"{there}.shortcut_layer.0.weight" in state:
            x = conv(state, f"{there}.shortcut_layer.0", x, stride=stride, padding=0)
            x = norm(state, f"{there}.shortcut_layer.1", x)
        else:
            x = F.max_pool2d(x, 1, stride)
        x = x + r
        if unit in (2, 6, 20, 23):
            maps.append(x)
    return maps


def restyle(state: State, pairs: Tensor, *, style_count: int, deltas: bool) -> Tensor:
    """Spec 6: all heads on the 16 px map; e4e's flavour adds to the first."""
    coarse = ir_se50(state, pairs)[-1]
    codes = [head(state, f"styles.{k}", coarse) for k in range(style_count)]
    if deltas:
        codes = [codes[0]] + [codes[0] + code for code in codes[1:]]
    return torch.stack(codes, dim=1)


def psp(state: State, images: Tensor, *, style_count: int) -> Tensor:
    """Spec 6: heads 0-2 on the coarse map, 3-6 on the middle one, the rest on the fine one."""
    _, _, c1, c2, c3 = ir_se50(state, images)

    def up(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)

    p2 = up(c3, c2) + conv(state, "latlayer1", c2, padding=0)
    p1 = up(p2, c1) + conv(state, "latlayer2", c1, padding=0)
    maps = [c3] * 3 + [p2] * 4 + [p1] * (style_count - 7)
    return torch.stack([head(state, f"styles.{k}", m) for k, m in enumerate(maps)], dim=1)


def featurestyle(state: State, x: Tensor, *, style_count: int) -> tuple[Tensor, Tensor]:
    """Spec 8: codes (N, L, D), and the content map."""
    x = prelu(state, "conv.2", norm(state, "conv.1", conv(state, "conv.0", x)))
    pooled, content = [], None
    for group, count in enumerate(UNITS):
        for unit in range(count):
            there = f"block_{group + 1}.{unit}"
            stride = 2 if unit == 0 else 1
            r = norm(
                state, f"{there}.bn2", conv(state, f"{there}.conv1", norm(state, f"{there}.bn1", x))
            )
            r = conv(state, f"{there}.conv2", prelu(state, f"{there}.prelu", r), stride=stride)
            r = norm(state, f"{there}.bn3", r)
            if unit == 0:
                x = conv(state, f"{there}.downsample.0", x, stride=2, padding=0)
                x = norm(state, f"{there}.downsample.1", x)
            x = x + r
        pooled.append(F.adaptive_avg_pool2d(x, 3))
        if group == 2:
            content = conv(state, "content_layer.1", norm(state, "content_layer.0", x))
            content = prelu(state, "content_layer.3", norm(state, "content_layer.2", content))
            content = norm(
                state, "content_layer.5", conv(state, "content_layer.4", content, stride=2)
            )
    flat = torch.cat(pooled, dim=1).flatten(1)
    codes = [
        flat @ state[f"styles.{k}.weight"].T + state[f"styles.{k}.bias"] for k in range(style_count)
    ]
    assert content is not None
    return torch.stack(codes, dim=1), content
