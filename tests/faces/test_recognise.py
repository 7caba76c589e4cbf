import numpy as np
import pytest

from tests.mini import mini
from tests.shared_data import shared_path
from vidinvert.errors import CheckpointError, MissingError
from vidinvert.faces.detect import ARCFACE_112_XY
from vidinvert.faces.recognise import FaceRecogniser


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"No recognition model at .*none\.onnx"):
        FaceRecogniser(tmp_path / "none.onnx")
    with pytest.raises(MissingError, match="holds no recognition model"):
        FaceRecogniser(tmp_path)


def test_a_detector_is_no_recognition_model():
    detector = mini().pack.files["detector"].path
    with pytest.raises(CheckpointError, match="is no recognition model that insightface knows"):
        FaceRecogniser(detector)
    with pytest.raises(MissingError, match="holds no recognition model"):
        FaceRecogniser(detector.parent)


def test_a_damaged_file_is_refused(tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match="cannot be loaded as an ONNX model"):
        FaceRecogniser(damaged)


@pytest.mark.shared
@pytest.mark.parametrize("place", ["models/identity/mobilefacenet.onnx", "models/identity"])
def test_a_turned_and_scaled_face_has_the_same_identity(place):
    recogniser = FaceRecogniser(shared_path(place))
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (240, 240, 3)).astype(np.uint8)
    points = ARCFACE_112_XY + 40
    identity = recogniser.identify(frame, points)
    turned = recogniser.identify(
        np.rot90(frame).copy(), np.stack([points[:, 1], 239 - points[:, 0]], 1)
    )
    assert np.linalg.norm(identity) == pytest.approx(1.0)
    assert identity @ turned == pytest.approx(1.0, abs=1e-3)
