"""Write a trained detector as the ONNX file and the manifest that insightface loads.

The graph is built node by node: the network has five kinds of layers, and so neither the exporter
of a torch version nor its warnings decide what is shipped. Batch norms are folded into the
convolutions. `onnx` is needed here alone (extra `train`).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from vidinvert.errors import CheckpointError
from vidinvert.networks.detector import (
    ANCHOR_SIZES,
    LOG_DISTANCE_LIMIT,
    POINT_COUNT,
    STRIDES,
    FaceDetectorNet,
    Residual,
)
from vidinvert.version import VERSION

OPSET = 13
IR_VERSION = 8  # read by onnxruntime 1.18 and newer
LOOK_PREFIX = "look."  # of what the second look adds, see second_look_export
MODEL_ID = "vidinvert-mini-detector"
# insightface wants the field; the file is only for models that its makers have signed.
MANIFEST_LICENSE = "MODEL.LICENSE"


def write_detector(net: FaceDetectorNet, directory: Path) -> Path:
    """Write `detector.onnx` and `manifest.json` into `directory`, which is made if need be.

    Returns:
        `directory`.
    """
    return write_model(to_onnx(net), directory)


def write_model(model: onnx.ModelProto, directory: Path) -> Path:
    """Write a detector's model and its manifest into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    data = model.SerializeToString(deterministic=True)
    (directory / "detector.onnx").write_bytes(data)
    detection = {
        "file": "detector.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "preprocessing": {"mean": 127.5, "std": 128.0},
    }
    manifest = {
        "manifest_version": 2,
        "model_id": MODEL_ID,
        "license": MANIFEST_LICENSE,
        "tasks": {"detection": detection},
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (directory / "manifest.json").write_text(text, encoding="utf-8")
    return directory


def to_onnx(net: FaceDetectorNet) -> onnx.ModelProto:
    """Return the network in inference mode as an ONNX model with the nine outputs of SCRFD.

    Input `images` (batch, 3, height, width), both sides divisible by 32; outputs `score_8`, ...,
    `box_8`, ..., `points_8`, ..., each (batch, rows, 1 | 4 | 10). Scores are probabilities.
    """
    graph = _Graph()
    x = graph.sequence("images", net.stem)
    features = []
    for stage in net.stages:
        x = graph.sequence(x, stage)
        features.append(x)
    levels = [graph.sequence(f, lateral) for f, lateral in zip(features, net.laterals, strict=True)]
    for fine in (1, 0):
        levels[fine] = graph.node("Add", levels[fine], graph.upsample(levels[fine + 1]))
    outputs: dict[str, list[onnx.ValueInfoProto]] = {"score": [], "box": [], "points": []}
    for level, smooth, stride, sizes in zip(
        levels, net.smooths, STRIDES, ANCHOR_SIZES, strict=True
    ):
        tower = graph.node("Relu", graph.sequence(graph.sequence(level, smooth), net.tower))
        reach = (np.array(sizes, np.float32) / stride).astype(np.float32)
        score = graph.node("Sigmoid", graph.sequence(tower, net.score))
        limit = graph.constant(np.array(LOG_DISTANCE_LIMIT, np.float32))
        distance = graph.node("Exp", graph.node("Min", graph.sequence(tower, net.box), limit))
        distance = graph.scale(distance, np.repeat(reach / 2, 4).astype(np.float32))
        offset = graph.sequence(graph.sequence(tower, net.refine), net.points)
        offset = graph.scale(offset, np.repeat(reach, POINT_COUNT * 2))
        for name, maps, width in (
            ("score", score, 1),
            ("box", distance, 4),
            ("points", offset, POINT_COUNT * 2),
        ):
            outputs[name].append(graph.rows(maps, width, name=f"{name}_{stride}"))
    image_shape = ["batch", 3, "height", "width"]
    made = helper.make_graph(
        graph.nodes,
        "face_detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, image_shape)],
        [value for values in outputs.values() for value in values],
        graph.weights,
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vidinvert",
        producer_version=VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def read_detector(path: Path, images: Tensor) -> FaceDetectorNet:
    """Read a file of `write_detector` back as a network that can go on learning.

    The file holds convolutions into which the norms were folded. Each norm is set up afresh on
    `images`: it measures what its convolution says of them and undoes its own division, so that on
    pictures like these the network computes in training what the file computes. A file from before
    the key points had layers of their own gives a network whose layers there do nothing yet.

    Args:
        path: `detector.onnx`.
        images: (N, 3, H, W) as the network reads them, N scenes such as training draws.

    Raises:
        CheckpointError: the file's convolutions are not those of the network.
    """
    model = onnx.load(str(path))
    weights = read_weights(model)
    names = [
        list(node.input[1:3])
        for node in model.graph.node
        if node.op_type == "Conv" and not node.name.startswith(LOOK_PREFIX)
    ]
    net = FaceDetectorNet()
    order = _convolutions(net, heads=len(STRIDES))
    if len(names) == len(order) - len(STRIDES) * len(_pairs(net.refine)):
        order = [pair for pair in order if pair not in _pairs(net.refine)]
    shapes = [tuple(weights[weight].shape) for weight, _ in names]
    expected = [tuple(layer.weight.shape) for layer, _ in order]
    if shapes != expected:
        raise CheckpointError(
            f"{path} holds {len(shapes)} convolutions that are not those of the detector "
            f"({len(expected)} expected); name a pack whose detector vidinvert trained"
        )
    for (layer, norm), (weight, bias) in zip(order, names, strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weights[weight].copy()))
            folded = (layer if norm is None else norm).bias
            assert folded is not None
            folded.copy_(torch.from_numpy(weights[bias].copy()))
    _measure_norms(net, {id(norm) for _, norm in order if norm is not None}, images)
    return net


def read_weights(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return a model's weights by the name that its layers read, those stored as float16 too."""
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]].astype(np.float32)
    return weights


def _pairs(module: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Return the convolutions of a module in their order, each with the norm behind it."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    return [
        (layer, following if isinstance(following, nn.BatchNorm2d) else None)
        for layer, following in zip(layers, [*layers[1:], None], strict=True)
        if isinstance(layer, nn.Conv2d)
    ]


def _convolutions(
    net: FaceDetectorNet, *, heads: int
) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Return the convolutions in the order in which `to_onnx` writes them."""
    head = [
        pair
        for module in (net.tower, net.score, net.box, net.refine, net.points)
        for pair in _pairs(module)
    ]
    found = [*_pairs(net.stem), *_pairs(net.stages), *_pairs(net.laterals)]
    for number in range(heads):
        found += [*_pairs(net.smooths[number]), *head]
    return found


@torch.no_grad()
def _measure_norms(net: FaceDetectorNet, known: set[int], images: Tensor) -> None:
    """Set the norms in `known`, whose bias is that of the folded convolution, up on pictures."""

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if id(norm) in known:
            x = inputs[0].double()  # (N, C, h, w)
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.add_(mean)

    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    net.eval()
    net(images)
    for hook in hooks:
        hook.remove()
    net.train()


class _Graph:
    """Collects nodes and weights; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._written: dict[int, tuple[str, str]] = {}

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def sequence(self, x: str, module: nn.Module) -> str:
        """Add the layers of a module in their order, each norm folded into its convolution."""
        if isinstance(module, nn.Conv2d):
            return self._convolution(x, module, None)
        if isinstance(module, nn.ReLU):
            return self.node("Relu", x)
        if isinstance(module, Residual):
            inner = self.sequence(self.sequence(x, module.first), module.second)
            return self.node("Relu", self.node("Add", x, inner))
        if not isinstance(module, nn.Sequential):
            raise TypeError(
                f"cannot write a {type(module).__name__}, expected Conv2d, ReLU, Residual or a "
                "Sequential of them; add the layer to detector_export"
            )
        layers = list(module)
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                continue
            following = layers[number + 1] if number + 1 < len(layers) else None
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                x = self._convolution(x, layer, following)
            else:
                x = self.sequence(x, layer)
        return x

    def _convolution(self, x: str, layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> str:
        if id(layer) not in self._written:  # a head that all strides share is written once
            weight, bias = fold(layer, norm)
            self._written[id(layer)] = (self.constant(weight), self.constant(bias))
        return self.node(
            "Conv",
            x,
            *self._written[id(layer)],
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[int(p) for p in layer.padding] * 2,
        )

    def upsample(self, x: str) -> str:
        """Double both sides, each pixel becoming four."""
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        return self.node(
            "Resize",
            x,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def scale(self, x: str, factors: NDArray[np.float32]) -> str:
        """Multiply each channel by its factor."""
        return self.node("Mul", x, self.constant(factors.reshape(1, -1, 1, 1)))

    def rows(self, x: str, width: int, *, name: str) -> onnx.ValueInfoProto:
        """Add an output: maps (N, 2 * width, h, w) as rows (N, h * w * 2, width)."""
        last = self.node("Transpose", x, perm=[0, 2, 3, 1])
        shape = self.constant(np.array([0, -1, width], np.int64))
        self.node("Reshape", last, shape, output=name)
        dimensions: Sequence[str | int] = ["batch", f"rows_{name}", width]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions)


def fold(
    layer: nn.Conv2d, norm: nn.BatchNorm2d | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight and bias of a convolution with the batch norm behind it folded in."""
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    if norm is not None:
        assert norm.running_var is not None
        assert norm.running_mean is not None
        gain = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * gain[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * gain + norm.bias.detach().double()
    return weight.float().contiguous().numpy(), bias.float().numpy()
