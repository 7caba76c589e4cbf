"""Put the second look into a detector's ONNX file: who loads it gets better key points, as before.

The faces are chosen in the graph, by the non-maximum suppression that insightface applies to the
outputs afterwards; the key points of the rows that it keeps are looked at again, all others stay.
Names of what is added begin with `look.`, so that it can be taken out again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from vidinvert.networks.detector import ANCHORS_PER_CELL, POINT_COUNT, STRIDES, Residual
from vidinvert.networks.second_look import (
    EXPECTED_XY,
    MIRRORED_POINTS,
    PATCH,
    VIEWS,
    SecondLook,
    centre,
    fitting_matrix,
    sample_axis,
)
from vidinvert.training.detector_export import LOOK_PREFIX as PREFIX
from vidinvert.training.detector_export import fold

FINAL, ROUGH = "points_", f"{PREFIX}rough_points_"
OPSET = 16  # the first that samples a picture at given places
MOST_FACES = 16
MIN_SCORE = 0.3  # insightface's and our own thresholds are above
MAX_OVERLAP = 0.4  # insightface's
HALVED_FROM = 1_000  # numbers; smaller weights stay float32


def add_second_look(model: onnx.ModelProto, look: SecondLook) -> onnx.ModelProto:
    """Return a detector's model with a second look at the faces it finds.

    Args:
        model: of `detector_export.to_onnx`, with a second look (which is replaced) or without.
        look: the trained network.

    Returns:
        A model with the same inputs and outputs.
    """
    graph = _Graph()
    _look_again(graph, look)
    return _with_second_look(model, graph.nodes, graph.weights)


def carry_second_look(model: onnx.ModelProto, earlier: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the second look of an earlier file, if that has one."""
    nodes = [node for node in earlier.graph.node if node.name.startswith(PREFIX)]
    weights = [w for w in earlier.graph.initializer if w.name.startswith(PREFIX)]
    return _with_second_look(model, nodes, weights) if nodes else model


def has_second_look(model: onnx.ModelProto) -> bool:
    """Say whether a detector's model looks twice."""
    return any(node.name.startswith(PREFIX) for node in model.graph.node)


def remove_second_look(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a detector's model without its second look, if it has one."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in [node for node in made.graph.node if node.name.startswith(PREFIX)]:
        made.graph.node.remove(node)
    for weight in [w for w in made.graph.initializer if w.name.startswith(PREFIX)]:
        made.graph.initializer.remove(weight)
    _rename_outputs(made, ROUGH, FINAL)
    return made


def _with_second_look(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    made = remove_second_look(model)
    _rename_outputs(made, FINAL, ROUGH)
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(weights)
    made.opset_import[0].version = max(OPSET, made.opset_import[0].version)
    onnx.checker.check_model(made, full_check=True)
    return made


def _rename_outputs(model: onnx.ModelProto, before: str, after: str) -> None:
    for node in model.graph.node:
        for number, name in enumerate(node.output):
            if name.startswith(before):
                node.output[number] = after + name.removeprefix(before)


def halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its large weights stored as float16; it computes in float32 as before.

    A Cast stands behind each; onnxruntime applies it once, when it loads the file.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    casts = []
    for weight in made.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < HALVED_FROM:
            continue
        name = weight.name
        halved = f"{name}.half"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), halved))
        node_name = f"{PREFIX}{name}.cast" if name.startswith(PREFIX) else f"{name}.cast"
        casts.append(
            helper.make_node("Cast", [halved], [name], name=node_name, to=TensorProto.FLOAT)
        )
    nodes = [*casts, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made, full_check=True)
    return made


class _Graph:
    """Collects nodes and weights; every method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, values: NDArray[np.generic] | list[int]) -> str:
        """Add an array, or name the equal one that is there: looks share their network."""
        array = np.array(values, np.int64 if isinstance(values, list) else None, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = name = f"{PREFIX}w{len(self.weights)}"
            self.weights.append(numpy_helper.from_array(array, name))
        return self.known[key]

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{PREFIX}x{len(self.nodes)}"
        label = f"{PREFIX}{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=label, **attributes))
        return name

    def size_of(self, x: str, axis: int) -> str:
        """Length (1,) int64 of an axis."""
        return self.node("Shape", x, start=axis, end=axis + 1)

    def columns(self, x: str, start: int, end: int, *, axis: int = 1) -> str:
        bounds = [self.constant([value]) for value in (start, end, axis)]
        return self.node("Slice", x, *bounds)

    def network(self, x: str, module: nn.Module) -> str:
        """Add a `SecondLook`'s body; each norm is folded into its convolution."""
        if isinstance(module, Residual):
            inner = self.network(self.network(x, module.first), module.second)
            return self.node("Relu", self.node("Add", x, inner))
        layers = list(module.children())
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                norm = layers[number + 1]
                assert isinstance(norm, nn.BatchNorm2d)
                weight, bias = (self.constant(values) for values in fold(layer, norm))
                strides = list(layer.stride)
                x = self.node(
                    "Conv", x, weight, bias, kernel_shape=[3, 3], strides=strides, pads=[1, 1, 1, 1]
                )
            elif isinstance(layer, nn.ReLU):
                x = self.node("Relu", x)
            elif not isinstance(layer, nn.BatchNorm2d):
                x = self.network(x, layer)
        return x


def _look_again(g: _Graph, look: SecondLook) -> None:
    """Add everything between the rough key points and the outputs `points_8`, ..."""
    cells, strides, counts = _cells(g)
    rough = [f"{ROUGH}{stride}" for stride in STRIDES]
    scores = g.node("Concat", *(f"score_{s}" for s in STRIDES), axis=1)  # (B, R, 1)
    boxes = g.node("Mul", g.node("Concat", *(f"box_{s}" for s in STRIDES), axis=1), strides)
    batch, row = _choose(g, scores, boxes, cells)
    flat = g.node("Add", g.node("Mul", batch, g.size_of(scores, 1)), row)  # (F,)
    offsets = g.node("Concat", *rough, axis=1)  # (B, R, 10)
    rows = g.node("Reshape", offsets, g.constant([-1, POINT_COUNT * 2]))
    step = g.node("Gather", strides, row, axis=0)  # (F, 1)
    found = g.node("Mul", g.node("Gather", rows, flat, axis=0), step)
    here = g.node("Gather", cells, row, axis=0)  # (F, 2)
    found = g.node("Add", found, g.node("Tile", here, g.constant([1, POINT_COUNT])))
    images = g.node("Gather", "images", batch, axis=0)
    first = _look_at(g, look, images, found, ((0.0, False),))
    others = _look_at(g, look, images, first, VIEWS)
    share = 1.0 / (1 + len(VIEWS))
    better = g.node(
        "Add",
        g.node("Mul", first, g.number(share)),
        g.node("Mul", others, g.number(1.0 - share)),
    )
    moved = g.node("Div", g.node("Sub", better, found), step)
    index = g.node("Unsqueeze", flat, g.constant([1]))
    before = g.node("Gather", rows, flat, axis=0)
    rows = g.node("ScatterND", rows, index, g.node("Add", before, moved))
    made = g.node("Reshape", rows, g.node("Shape", offsets))
    start = g.constant([0])
    for stride, count in zip(STRIDES, counts, strict=True):
        end = g.node("Add", start, count)
        g.node("Slice", made, start, end, g.constant([1]), output=f"{FINAL}{stride}")
        start = end


def _cells(g: _Graph) -> tuple[str, str, list[str]]:
    """Return the cells' points (R, 2) in pixels, the strides (R, 1), and the rows a stride (1,)."""
    height, width = g.size_of("images", 2), g.size_of("images", 3)
    cells, strides, counts = [], [], []
    for stride in STRIDES:
        step = g.constant([stride])
        across, down = g.node("Div", width, step), g.node("Div", height, step)
        count = g.node("Mul", g.node("Mul", across, down), g.constant([ANCHORS_PER_CELL]))
        last = g.node("Squeeze", count, g.constant([0]))
        zero, one = (g.constant(np.array(v, np.int64)) for v in (0, 1))
        cell = g.node("Div", g.node("Range", zero, last, one), g.constant([ANCHORS_PER_CELL]))
        xy = [g.node("Mod", cell, across), g.node("Div", cell, across)]
        xy = [g.node("Unsqueeze", g.node("Mul", v, step), g.constant([1])) for v in xy]
        pixels = g.node("Cast", g.node("Concat", *xy, axis=1), to=TensorProto.FLOAT)
        cells.append(pixels)
        ones = g.node("Expand", g.number(stride), g.node("Concat", count, g.constant([1]), axis=0))
        strides.append(ones)
        counts.append(count)
    return g.node("Concat", *cells, axis=0), g.node("Concat", *strides, axis=0), counts


def _choose(g: _Graph, scores: str, boxes: str, cells: str) -> tuple[str, str]:
    """Return picture and row of every face that suppression keeps, each (F,) int64."""
    low = g.node("Sub", cells, g.columns(boxes, 0, 2, axis=2))
    high = g.node("Add", cells, g.columns(boxes, 2, 4, axis=2))
    corners = g.node("Concat", low, high, axis=2)  # (B, R, 4)
    kept = g.node(
        "NonMaxSuppression",
        corners,
        g.node("Transpose", scores, perm=[0, 2, 1]),
        g.constant([MOST_FACES]),
        g.number(MAX_OVERLAP),
        g.number(MIN_SCORE),
    )  # (F, 3): picture, class, row
    return tuple(  # pyright: ignore[reportReturnType] - two of them
        g.node("Squeeze", g.columns(kept, k, k + 1), g.constant([1])) for k in (0, 2)
    )


def _look_at(
    g: _Graph, look: SecondLook, images: str, points: str, views: tuple[tuple[float, bool], ...]
) -> str:
    """Return the mean of looks at faces, one a view (turn, mirrored).

    Args:
        g: the graph.
        look: the network.
        images: (F, 3, H, W), one a face.
        points: (F, 10) in pixels, by which patches are placed.
        views: see `SecondLook.look`.

    Returns:
        (F, 10) in pixels.
    """
    placed = g.node("MatMul", points, g.constant(fitting_matrix().numpy()))  # (F, 4)
    parts = [g.columns(placed, k, k + 1) for k in range(4)]
    patches = _cut(g, images, parts, [turn for turn, _ in views])
    shown = []
    for number, (_, mirrored) in enumerate(views):
        patch = patches
        if len(views) > 1:
            patch = g.columns(patches, number * PATCH, (number + 1) * PATCH, axis=2)
        if mirrored:
            bounds = [g.constant([value]) for value in (-1, -(PATCH + 1), 3, -1)]
            patch = g.node("Slice", patch, *bounds)
        shown.append(patch)
    seen = g.node("Concat", *shown, axis=0)  # (V F, 3, 80, 80)
    features = g.node("Flatten", g.network(seen, look.body), axis=1)
    weight = g.constant(look.head.weight.detach().numpy())
    bias = g.constant(look.head.bias.detach().numpy())
    found = g.node("Gemm", features, weight, bias, transB=1)  # (V F, 10), less the expected points
    found = g.node("Reshape", found, g.constant([len(views), -1, POINT_COUNT * 2]))
    matrices, offsets = zip(*(_upright(*view) for view in views), strict=True)
    found = g.node("MatMul", found, g.constant(np.stack(matrices).astype(np.float32)))
    found = g.node("ReduceMean", found, axes=[0], keepdims=0)
    found = g.node("Add", found, g.constant(np.mean(offsets, axis=0).astype(np.float32)))
    return _to_picture(g, parts, found)


def _upright(turn: float, mirrored: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how the network's ten numbers become points of an upright patch, less `centre()`.

    Returns:
        (10, 10) and (10,): numbers x become x @ matrix + offset.
    """
    known, middle = np.array(EXPECTED_XY), np.array(centre())

    def points(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        five = known + numbers.reshape(5, 2)
        if mirrored:
            five = five[list(MIRRORED_POINTS)] * (-1.0, 1.0) + (1.0, 0.0)
        (u, v), c, s = (five - middle).T, np.cos(turn), np.sin(turn)
        return np.stack([c * u - s * v, s * u + c * v], axis=1).reshape(-1)

    offset = points(np.zeros(10))
    return np.stack([points(row) - offset for row in np.eye(10)]), offset


def _cut(g: _Graph, images: str, placed: list[str], turns: list[float]) -> str:
    """Cut patches (F, 3, 80 V, 80), V one below the other; see `second_look.cut_patches`."""
    a, b, x, y = placed  # (F, 1)
    c = g.constant(np.cos(turns).astype(np.float32)[None])
    s = g.constant(np.sin(turns).astype(np.float32)[None])
    along = g.node("Sub", g.node("Mul", a, c), g.node("Mul", b, s))  # (F, V)
    aside = g.node("Add", g.node("Mul", b, c), g.node("Mul", a, s))
    axes = g.constant([2, 3])
    u = g.constant(sample_axis(0).numpy().reshape(1, 1, 1, PATCH))
    v = g.constant(sample_axis(1).numpy().reshape(1, 1, PATCH, 1))
    grid = []
    terms = ((3, along, x, g.node("Neg", aside)), (2, aside, y, along))
    for axis, by_u, shift, by_v in terms:
        size = g.node("Cast", g.size_of(images, axis), to=TensorProto.FLOAT)
        scale = g.node("Div", g.number(2.0), size)
        # A pixel x of the picture is (2 x + 1) / size - 1 to GridSample.
        start = g.node("Mul", g.node("Add", shift, g.number(0.5)), scale)
        start = g.node("Unsqueeze", g.node("Sub", start, g.number(1.0)), axes)  # (F, 1, 1, 1)
        by_u, by_v = (g.node("Unsqueeze", g.node("Mul", n, scale), axes) for n in (by_u, by_v))
        row = g.node("Add", g.node("Mul", by_u, u), start)  # (F, V, 1, 80)
        places = g.node("Add", row, g.node("Mul", by_v, v))  # (F, V, 80, 80)
        # Kept on the picture here: onnxruntime takes four times as long to do so ("border").
        last = g.node("Sub", g.number(1.0), g.node("Div", g.number(1.0), size))
        places = g.node("Max", g.node("Min", places, last), g.node("Neg", last))
        grid.append(g.node("Unsqueeze", places, g.constant([4])))
    return g.node(
        "GridSample",
        images,
        g.node(
            "Reshape",
            g.node("Concat", *grid, axis=4),
            g.constant([0, len(turns) * PATCH, PATCH, 2]),
        ),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=0,
    )


def _to_picture(g: _Graph, placed: list[str], points: str) -> str:
    """Return points (F, 10) of patches, less `centre()`, in pixels: `second_look.from_patch`."""
    a, b, x, y = (g.node("Unsqueeze", part, g.constant([2])) for part in placed)  # (F, 1, 1)
    five = g.node("Reshape", points, g.constant([-1, POINT_COUNT, 2]))
    u, v = (g.columns(five, k, k + 1, axis=2) for k in (0, 1))  # (F, 5, 1)
    across = g.node("Add", g.node("Sub", g.node("Mul", a, u), g.node("Mul", b, v)), x)
    down = g.node("Add", g.node("Add", g.node("Mul", b, u), g.node("Mul", a, v)), y)
    both = g.node("Concat", across, down, axis=2)
    return g.node("Reshape", both, g.constant([-1, POINT_COUNT * 2]))
