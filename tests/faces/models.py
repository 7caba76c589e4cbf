"""Tiny ONNX models in the layouts that insightface loads, written by hand."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

REDNESS = np.array([0.45, -0.225, -0.225], np.float32).reshape(1, 3, 1, 1)
# The face of a cell, in cells: its box is the cell, its points a face within.
BOX = [0.0, 0.0, 1.0, 1.0]
POINTS = [0.3, 0.35, 0.7, 0.35, 0.5, 0.55, 0.35, 0.75, 0.65, 0.75]


def write_red_square_detector(path: Path, *, side: int | None = None, points: bool = True) -> None:
    """Write an SCRFD that takes cells of 32 pixels for faces by how red they are (0.9 = all)."""
    nodes = [helper.make_node("Conv", ["picture", "redness"], ["red"], name="redden")]
    constants = {"redness": REDNESS}
    outputs = []
    for kind, values in (("score", None), ("box", BOX), ("points", POINTS if points else [])):
        for stride in (8, 16, 32):
            if values == []:
                continue
            name = f"{kind}_{stride}"
            width = 1 if values is None else len(values)
            pooled, laid, twice = f"{name}_pooled", f"{name}_laid", f"{name}_twice"
            nodes += [
                helper.make_node(
                    "AveragePool",
                    ["red"],
                    [pooled],
                    kernel_shape=[stride, stride],
                    strides=[stride, stride],
                ),
                helper.make_node("Transpose", [pooled], [laid], perm=[0, 2, 3, 1]),
                # Two anchors a cell; the second never scores.
                helper.make_node("Concat", [laid] * (2 * width), [twice], axis=3),
                helper.make_node("Reshape", [twice, f"rows_{width}"], [f"{name}_rows"]),
            ]
            scale = np.zeros(width, np.float32)
            if kind == "score" and stride == 32:
                scale[:] = 1.0
            constants[f"rows_{width}"] = np.array([-1, width], np.int64)
            constants[f"{name}_scale"] = scale
            constants[f"{name}_shift"] = np.array([0.0] if values is None else values, np.float32)
            nodes += [
                helper.make_node("Mul", [f"{name}_rows", f"{name}_scale"], [f"{name}_scaled"]),
                helper.make_node("Add", [f"{name}_scaled", f"{name}_shift"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]))
    size = [side, side] if side is not None else ["height", "width"]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, *size])
    _save(path, nodes, [picture], outputs, constants)


def write_mean_colour_recogniser(path: Path) -> None:
    """Write a recognition model whose identity is the mean colour, (r, g, b) in [-1, 1]."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["mean"], name="average"),
        helper.make_node("Flatten", ["mean"], ["identity"], name="flatten"),
    ]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 112, 112])
    identity = helper.make_tensor_value_info("identity", TensorProto.FLOAT, ["n", 3])
    _save(path, nodes, [picture], [identity], {})


def _save(path: Path, nodes, inputs, outputs, constants) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
