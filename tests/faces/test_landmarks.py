import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vidinvert.faces.landmarks import FACE_BOX, MIRRORED, LandmarkNetwork, expression_measures


def symmetric_face():
    """68 points in Multi-PIE order, (68, 2), looking straight ahead; x = 0 is the middle."""
    turn = np.linspace(0, np.pi, 17)
    jaw = np.stack([-np.cos(turn) * 80, np.sin(turn) * 90], axis=1)
    brow = np.stack([np.linspace(-60, -15, 5), -40 - 6 * np.sin(np.linspace(0, np.pi, 5))], axis=1)
    bridge = np.stack([np.zeros(4), np.linspace(-15, 15, 4)], axis=1)
    nostrils = np.stack([np.linspace(-15, 15, 5), 22 + np.array([0, 2, 4, 2, 0.0])], axis=1)
    eye = np.array([[-50, -20], [-42, -26], [-30, -25], [-22, -19], [-30, -15], [-42, -16.0]])
    flipped = eye * [-1, 1]
    right_eye = flipped[[3, 2, 1, 0, 5, 4]]
    upper = np.array([[-28, 45], [-18, 40], [-8, 37], [0, 38], [8, 37], [18, 40], [28, 45.0]])
    lower = np.array([[18, 52], [8, 56], [0, 57], [-8, 56], [-18, 52.0]])
    inner = np.array([[-24, 45], [-8, 43], [0, 43], [8, 43], [24, 45], [8, 48], [0, 49], [-8, 48]])
    parts = [jaw, brow, brow[::-1] * [-1, 1], bridge, nostrils, eye, right_eye, upper, lower]
    return np.concatenate([*parts, inner]).astype(float)


def faces(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return symmetric_face() + rng.normal(0, 2, (count, 68, 2))


def test_mirroring_twice_gives_every_point_back():
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(68))


def test_mirroring_exchanges_left_and_right_and_keeps_the_middle():
    for left, right in ((range(17, 22), range(22, 27)), (range(36, 42), range(42, 48))):
        assert set(MIRRORED[list(left)]) == set(right)
    for alone in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66):
        assert MIRRORED[alone] == alone
    face = symmetric_face()
    np.testing.assert_allclose(face[MIRRORED] * [-1, 1], face, atol=1e-9)


def moved(points, *, angle=0.0, scale=1.0, shift=(0.0, 0.0)):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + np.array(shift)


@pytest.mark.parametrize(
    "motion", [{"angle": 0.7}, {"angle": np.pi}, {"scale": 3.0}, {"shift": (40.0, -9.0)}], ids=str
)
def test_expressions_do_not_depend_on_where_the_face_is(motion):
    expected = expression_measures(faces())
    for name, values in expression_measures(moved(faces(), **motion)).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-9, err_msg=name)


def test_a_mirrored_face_looks_the_other_way_with_the_same_expression():
    given = expression_measures(faces())
    mirrored = expression_measures(faces()[:, MIRRORED] * [-1, 1])
    for name, values in mirrored.items():
        sign = -1 if name == "yaw" else 1
        np.testing.assert_allclose(values, sign * given[name], atol=1e-9, err_msg=name)


def measure(points):
    return {name: float(values[0]) for name, values in expression_measures(points[None]).items()}


def test_each_measure_grows_with_its_expression():
    plain = symmetric_face()
    smiling, opened, awake, turned = (plain.copy() for _ in range(4))
    smiling[[48, 54], 1] -= 6
    opened[65:68, 1] += 10
    awake[[37, 38, 43, 44], 1] -= 3
    turned[27:36, 0] += 12
    before = measure(plain)
    assert before["yaw"] == pytest.approx(0.0, abs=1e-9)
    assert measure(smiling)["smile"] > before["smile"] + 0.05
    assert measure(opened)["mouth_open"] > before["mouth_open"] + 0.05
    assert measure(awake)["eyes_open"] > before["eyes_open"] + 0.05
    assert measure(turned)["yaw"] > 0.1


def test_pressed_lips_are_less_open_than_closed_ones():
    closed, pressed = symmetric_face(), symmetric_face()
    closed[65:68, 1] = closed[61:64, 1].mean()
    pressed[65:68, 1] = pressed[61:64, 1].mean() - 2
    assert measure(pressed)["mouth_open"] < measure(closed)["mouth_open"] - 0.01


@pytest.fixture(scope="module")
def mean_colour_network(tmp_path_factory):
    """An ONNX file whose first three numbers are the mean red, green and blue; the rest are 0."""
    weight = np.zeros((3, 136), np.float32)
    weight[[0, 1, 2], [0, 1, 2]] = 1.0
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["points"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["n", 136])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path_factory.mktemp("landmarks") / "mean68.onnx"
    onnx.save(model, str(path))
    return LandmarkNetwork(path)


def test_the_network_sees_the_face_in_rgb_and_answers_in_pixels_of_the_crop(mean_colour_network):
    crops = np.zeros((2, 256, 256, 3), np.uint8)
    left, top, width = (round(share * 256) for share in FACE_BOX)
    crops[1, top : top + width, left : left + width] = (255, 102, 51)
    points = mean_colour_network(crops)
    assert points.shape == (2, 68, 2)
    np.testing.assert_array_equal(points[0], np.tile([left, top], (68, 1)))
    expected = [left + width, top + 0.4 * width]
    np.testing.assert_allclose(points[1, 0], expected, atol=0.01)
    np.testing.assert_allclose(points[1, 1], [left + 0.2 * width, top], atol=0.01)
