import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.faces.models import write_red_square_detector
from vidinvert.checkpoints import check_self_contained
from vidinvert.checkpoints.onnx_files import DEEPEST
from vidinvert.errors import CheckpointError, MissingError
from vidinvert.faces import FaceDetector
from vidinvert.faces.landmarks import LandmarkNetwork
from vidinvert.faces.recognise import FaceRecogniser

OPSET = helper.make_opsetid("", 13)
pytestmark = pytest.mark.promise(14)


def external(place="/etc/passwd"):
    """A tensor whose values are those of another file."""
    tensor = TensorProto(name="weights", dims=[4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    return tensor


def model_of(nodes=(), initializers=(), **more):
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    graph = helper.make_graph(list(nodes), "g", [shape], [shape], list(initializers))
    model = helper.make_model(graph, opset_imports=[OPSET])
    for name, values in more.items():
        getattr(model, name).extend(values)
    return model


def in_a_branch():
    branch = helper.make_graph(
        [], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])], [external()]
    )
    return helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)


def sparse():
    indices = numpy_helper.from_array(np.arange(4), "indices")
    model = model_of()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(external(), indices, [8]))
    return model


def constant():
    return helper.make_node("Constant", [], ["y"], value=external())


def without_a_name():
    """Where the values lie is said, the list of places is empty."""
    tensor = external()
    del tensor.external_data[:]
    return tensor


PLACES = {
    "an initializer": lambda: model_of(initializers=[external()]),
    "an initializer without a place": lambda: model_of(initializers=[without_a_name()]),
    "a constant": lambda: model_of(nodes=[constant()]),
    "a branch": lambda: model_of(nodes=[in_a_branch()]),
    "a sparse tensor": sparse,
    "a function": lambda: model_of(
        functions=[
            helper.make_function(
                "d", "f", ["x"], ["y"], [constant()], [helper.make_opsetid("", 13)]
            )
        ]
    ),
    "training": lambda: model_of(
        training_info=[helper.make_training_info(model_of(nodes=[constant()]).graph, [], None, [])]
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_values_in_other_files_are_found_wherever_they_hide(tmp_path, place):
    path = tmp_path / "model.onnx"
    path.write_bytes(PLACES[place]().SerializeToString())
    with pytest.raises(CheckpointError, match=r"in other files .*; save it again as one file"):
        check_self_contained(path)


def test_a_model_that_holds_its_values_passes(tmp_path):
    path = tmp_path / "model.onnx"
    write_red_square_detector(path)
    check_self_contained(path)
    values = numpy_helper.from_array(np.ones(4, np.float32), "weights")
    path.write_bytes(model_of(initializers=[values]).SerializeToString())
    check_self_contained(path)


def test_a_detector_a_recogniser_and_landmarks_with_external_data_are_not_loaded(tmp_path):
    detector = tmp_path / "detector.onnx"
    write_red_square_detector(detector)
    model = onnx.load(detector)
    (tmp_path / "values.bin").write_bytes(model.graph.initializer[0].raw_data)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="values.bin")
    detector.write_bytes(model.SerializeToString())
    for load in (
        lambda: FaceDetector(tmp_path, device="cpu"),
        lambda: FaceRecogniser(detector),
        lambda: LandmarkNetwork(detector),
    ):
        with pytest.raises(CheckpointError, match=r"ONNX external data\), expected a model that"):
            load()
    (tmp_path / "below").mkdir()
    detector.rename(tmp_path / "below" / "hidden.ONNX")
    write_red_square_detector(detector)
    with pytest.raises(CheckpointError, match="external data"):
        FaceDetector(tmp_path, device="cpu")


def nested(depth):
    """Branches within branches, written by hand."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # a graph in an attribute in a node
            length, size = len(content), b""
            while length > 127:
                size += bytes([length & 127 | 128])
                length >>= 7
            content = bytes([field << 3 | 2]) + size + bytes([length]) + content
    return b"\x3a" + bytes([0x80 | len(content) & 127, len(content) >> 7]) + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be loaded as an ONNX model"),
        (b"<html>", "no wire type|beyond its message"),
        (b"\x3a\xff\xff\xff\xff\x0f", "beyond its message"),
        (b"\x38\x01", "field 7 of a Model is no message"),
        (b"\x08" + b"\x80" * 11, "a number does not end"),
        (b"\x08\x80", "a number does not end"),
        (b"\x0b", "no wire type 3"),
        (b"\x02\x00", "beyond its message"),
        (nested(DEEPEST), "nested more than"),
    ],
)
def test_what_is_no_onnx_is_refused(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        check_self_contained(path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"none\.onnx does not exist"):
        check_self_contained(tmp_path / "none.onnx")
