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
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

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
MODEL_ID = "vidinvert-mini-detector"
# insightface wants the field; the file is only for models that its makers have signed.
MANIFEST_LICENSE = "MODEL.LICENSE"


def write_detector(net: FaceDetectorNet, directory: Path) -> Path:
    """Write `detector.onnx` and `manifest.json` into `directory`, which is made if need be.

    Returns:
        `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = to_onnx(net).SerializeToString(deterministic=True)
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
        offset = graph.scale(graph.sequence(tower, net.points), np.repeat(reach, POINT_COUNT * 2))
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


class _Graph:
    """Collects nodes and weights; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

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
        weight, bias = fold(layer, norm)
        return self.node(
            "Conv",
            x,
            self.constant(weight),
            self.constant(bias),
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
