"""The detector's recipe learns, its targets are right, and its file loads in insightface."""

import csv
import hashlib
import json

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from insightface.app import FaceAnalysis

from tests.training.faces import BOX, POINTS, drawn_crop, drawn_source
from vidinvert.errors import CheckpointError, PlanError
from vidinvert.networks.detector import STRIDES, FaceDetectorNet, cell_points, row_scales
from vidinvert.training import detector as recipe_module
from vidinvert.training.detector import (
    DetectorPlan,
    DetectorRecipe,
    favour_rare_faces,
    find,
    fit_detector,
    to_input,
    train_detector,
)
from vidinvert.training.detector_export import _Graph, read_detector, write_detector
from vidinvert.training.detector_losses import assign, detector_loss, overlap_and_distance
from vidinvert.training.face_labels import FaceLabels
from vidinvert.training.loop import Schedule
from vidinvert.training.scenes import Scene

TINY = DetectorPlan(
    schedule=Schedule(images=4, batch_size=2, warmup_images=2), sizes=(64,), size_chances=(1.0,)
)


def one_face(size: float, centre: tuple[float, float], *, canvas: int = 320) -> Scene:
    box = np.array([[*(np.array(centre) - size / 2), *(np.array(centre) + size / 2)]], np.float32)
    points = np.repeat(np.array(centre, np.float32)[None, None], 5, axis=1)
    image = np.zeros((canvas, canvas, 3), np.uint8)
    return Scene(image=image, boxes_xyxy=box, points_xy=points)


def perfect_outputs(targets, size_hw):
    """Return the nine outputs that say exactly what the targets ask."""
    cells, strides = cell_points(size_hw), row_scales(size_hw)[0]
    boxes = torch.cat(
        [cells - targets.boxes_xyxy[..., :2], targets.boxes_xyxy[..., 2:] - cells], dim=-1
    )
    points = targets.points_xy - cells.repeat(1, 5)
    logits = torch.where(targets.positive, 20.0, -20.0)[..., None]
    rows = [(size_hw[0] // s) * (size_hw[1] // s) * 2 for s in STRIDES]
    parts = (logits, boxes / strides[:, None], points / strides[:, None])
    return [piece for part in parts for piece in part.split(rows, dim=1)]


@pytest.mark.parametrize("size", [12.0, 20.0, 45.0, 90.0, 180.0, 360.0])
def test_a_face_of_any_size_and_place_is_some_anchors_task(size):
    for centre in ((160.0, 160.0), (101.3, 77.7), (163.9, 12.1)):
        targets = assign([one_face(size, centre)], (320, 320))
        cells, anchors = cell_points((320, 320)), row_scales((320, 320))[1]
        mine = targets.positive[0]
        assert 1 <= int(mine.sum()) <= 60
        assert (cells[mine] - torch.tensor(centre)).norm(dim=1).max() <= max(0.2 * size, 24)
        assert (anchors[mine] / size).log2().abs().max() <= 0.75
        assert not (targets.ignored & targets.positive).any()


def test_an_empty_scene_asks_for_nothing():
    blank = Scene(
        image=np.zeros((64, 64, 3), np.uint8),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        points_xy=np.zeros((0, 5, 2), np.float32),
    )
    targets = assign([blank], (64, 64))
    assert not targets.positive.any()
    assert not targets.ignored.any()


def test_perfect_outputs_have_no_loss():
    targets = assign([one_face(80.0, (150.0, 170.0))], (320, 320))
    parts = detector_loss(perfect_outputs(targets, (320, 320)), targets, (320, 320))
    assert all(float(part) < 1e-3 for part in parts.values())


def test_overlap_and_distance_of_shifted_boxes():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    wanted = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]])
    overlap, distance = overlap_and_distance(boxes, wanted)
    np.testing.assert_allclose(overlap, [1.0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(distance, [0.0, 25 / 325], rtol=1e-6)


def test_two_steps_train_and_two_runs_agree(tmp_path):
    first = fit_detector(drawn_source(), tmp_path / "a", plan=TINY)
    second = fit_detector(drawn_source(), tmp_path / "b", plan=TINY)
    fresh = DetectorRecipe(drawn_source(), TINY).net.state_dict()
    for name, value in first.average.state_dict().items():
        torch.testing.assert_close(value, second.average.state_dict()[name], rtol=0, atol=0)
    assert any(not torch.equal(v, fresh[k]) for k, v in first.net.state_dict().items())
    assert (tmp_path / "a" / "checkpoint.pt").is_file()


def test_repeating_a_batch_lowers_its_loss():
    recipe = DetectorRecipe(drawn_source(), TINY)
    losses = [sum(recipe.step(0, 2, 0.0).values()) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_recipe_runs_from_a_folder_to_files(tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    (folder / "drawn").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["split", "set", "file", "yaw"])
        for number in range(4):
            cv2.imwrite(str(folder / "drawn" / f"{number}.png"), drawn_crop(number))
            writer.writerow(["train" if number < 3 else "val", "drawn", f"{number}.png", "0"])
    seen = []
    known = FaceLabels(
        boxes_xyxy=np.array([BOX], np.float32), points_xy=np.array([POINTS], np.float32)
    )

    def label(crops, *, labeller, landmarker):
        seen.append(len(crops))
        return [known] * len(crops)

    monkeypatch.setattr(recipe_module, "label_faces", label)
    made = train_detector(folder, tmp_path / "out", labeller=tmp_path / "yunet.onnx", plan=TINY)
    assert seen == [3]
    assert sorted(path.name for path in made.iterdir()) == ["detector.onnx", "manifest.json"]

    nobody = FaceLabels(boxes_xyxy=known.boxes_xyxy[:0], points_xy=known.points_xy[:0])
    monkeypatch.setattr(recipe_module, "label_faces", lambda crops, **models: [nobody] * 3)
    with pytest.raises(PlanError, match="none of the 3 training crops"):
        train_detector(folder, tmp_path / "out", labeller=tmp_path / "yunet.onnx", plan=TINY)


def test_turned_heads_and_narrow_mouths_are_drawn_more_often():
    def labels(mouth_width: float) -> FaceLabels:
        points = np.array(POINTS, np.float32)
        points[3, 0], points[4, 0] = 128 - mouth_width / 2, 128 + mouth_width / 2
        return FaceLabels(boxes_xyxy=np.array([BOX], np.float32), points_xy=points[None])

    widths = [48.0, 48.0, 48.0, 48.0, 36.0]
    weights = favour_rare_faces(
        np.ones(5), [labels(w) for w in widths], yaw=np.array([0.0, np.nan, 0.25, -0.25, 0.0])
    )
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] == weights[1]
    np.testing.assert_allclose(weights[[2, 3]] / weights[0], 3.5)
    assert weights[4] > 3 * weights[0]


def test_plans_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="expected as many of both"):
        DetectorPlan(sizes=(64,), size_chances=(0.5, 0.5))
    with pytest.raises(ValueError, match="expected multiples of 32"):
        DetectorPlan(sizes=(100,), size_chances=(1.0,))


def make_net(**widths) -> FaceDetectorNet:
    """Return a network, a small one unless told, whose batch norms are no identities."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        net = FaceDetectorNet(**(widths or {"widths": (4, 4, 6, 8, 8), "neck_width": 8}))
        net.train()
        net(torch.randn(4, 3, 64, 64))
    return net.eval()


def test_the_onnx_file_computes_what_the_network_computes(tmp_path):
    net = make_net()
    path = write_detector(net, tmp_path / "detector") / "detector.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 64, 96), np.float32))
    with torch.no_grad():
        expected = net(images)
    expected = [o.sigmoid() for o in expected[:3]] + expected[3:]
    names = [f"{kind}_{stride}" for kind in ("score", "box", "points") for stride in STRIDES]
    assert [output.name for output in session.get_outputs()] == names
    for got, want in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_written_detector_goes_on_as_it_was(tmp_path):
    """Also in training, where norms divide by what they see: it is what they were set up on."""
    net = make_net(neck_width=40)
    write_detector(net, tmp_path)
    images = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    again = read_detector(tmp_path / "detector.onnx", images)
    assert again.training
    with torch.no_grad():
        for found, expected in zip(again(images), net(images), strict=True):
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_a_detector_from_before_its_points_had_layers_is_read(tmp_path):
    """The shipped format once had no `refine`, and wrote shared layers once a stride."""
    net = make_net(neck_width=40)
    net.refine = torch.nn.Sequential()
    write_detector(net, tmp_path)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    again = read_detector(tmp_path / "detector.onnx", images)
    assert len(again.refine) == 2
    with torch.no_grad():
        torch.testing.assert_close(again(images)[-1], net(images)[-1], atol=2e-3, rtol=1e-3)


def test_another_network_is_not_read_as_a_detector(tmp_path):
    net = make_net(neck_width=40)
    net.stem = torch.nn.Sequential()
    write_detector(net, tmp_path)
    with pytest.raises(CheckpointError, match="convolutions that are not those of the detector"):
        read_detector(tmp_path / "detector.onnx", torch.zeros(1, 3, 64, 64))


def test_a_recipe_that_goes_on_starts_with_the_given_weights(tmp_path):
    write_detector(make_net(neck_width=40), tmp_path)
    recipe = DetectorRecipe(drawn_source(), TINY, start=tmp_path / "detector.onnx")
    fresh = DetectorRecipe(drawn_source(), TINY)
    known = make_net(neck_width=40).score.weight
    assert recipe.net.score.weight.allclose(known)
    assert not fresh.net.score.weight.allclose(known)


def test_the_manifest_holds_the_files_sha256(tmp_path):
    folder = write_detector(make_net(), tmp_path / "detector")
    manifest = json.loads((folder / "manifest.json").read_text())
    task = manifest["tasks"]["detection"]
    assert manifest["manifest_version"] == 2
    assert task["file"] == "detector.onnx"
    digest = hashlib.sha256((folder / "detector.onnx").read_bytes()).hexdigest()
    assert task["sha256"] == digest


def test_an_unknown_layer_is_not_written_silently():
    with pytest.raises(TypeError, match="cannot write a Dropout"):
        _Graph().sequence("images", torch.nn.Dropout())


def test_insightface_decodes_the_file_as_we_decode_the_network(tmp_path):
    net = make_net()
    folder = write_detector(net, tmp_path / "detector")
    image = np.random.default_rng(4).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    scene = Scene(image=image, boxes_xyxy=np.zeros((0, 4)), points_xy=np.zeros((0, 5, 2)))
    with torch.no_grad():
        logits = torch.cat(net(to_input([scene]))[:3], dim=1).flatten()
    threshold = float(logits.sigmoid().sort(descending=True).values[14:16].mean())
    scores, boxes, points = find(net, image, min_score=threshold)
    assert 1 <= len(scores) <= 15
    app = FaceAnalysis(
        name=str(folder), allowed_modules=["detection"], providers=["CPUExecutionProvider"]
    )
    app.prepare(ctx_id=-1, det_size=(128, 128), det_thresh=threshold)
    found, found_points = app.det_model.detect(np.ascontiguousarray(image[..., ::-1]))
    order = np.argsort(-found[:, 4], kind="stable")
    np.testing.assert_allclose(found[order, 4], scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(found[order, :4], boxes.numpy(), atol=0.05)
    np.testing.assert_allclose(found_points[order], points.numpy(), atol=0.05)


def test_the_sheet_shows_12_scenes():
    assert DetectorRecipe(drawn_source(), TINY).sheet().shape == (2 * 64, 6 * 64, 3)


def test_input_is_normalised_as_insightface_does():
    scene = one_face(20.0, (30.0, 30.0), canvas=64)
    assert to_input([scene]).shape == (1, 3, 64, 64)
    assert float(to_input([scene]).max()) == pytest.approx(-127.5 / 128)
