import json
import math

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from tests.training.faces import BOX, POINTS
from tests.training.tiny import face_set, squeeze_weights
from vidinvert.checkpoints import find_pack, load_directions, verify_pack, write_pack
from vidinvert.cli import main
from vidinvert.errors import MissingError
from vidinvert.methods import load_method
from vidinvert.networks.detector import FaceDetectorNet
from vidinvert.networks.second_look import SecondLook
from vidinvert.training import mask_calibration, points, stages
from vidinvert.training.detector_export import read_weights as read_detector_weights
from vidinvert.training.detector_export import write_detector
from vidinvert.training.encoders import ENCODERS
from vidinvert.training.face_labels import FaceLabels
from vidinvert.training.loop import Schedule
from vidinvert.training.motions import MOTIONS
from vidinvert.training.pack import (
    GAINS,
    MOTIONS_COUNTERED,
    countered,
    note_figures,
    train_detector_stage,
    unmoved,
    write_mini,
    write_motions,
)
from vidinvert.training.second_look_export import has_second_look
from vidinvert.training.stages import Helpers, load_autoencoder, parameters, shortened

FACES = 24


def write_helpers(directory):
    """Helper networks with random weights, laid out as a user would."""
    for name in ("perceptual", "taef2", "landmarks", "yunet"):
        (directory / name).mkdir(parents=True)
    np.savez(directory / "perceptual" / "squeezenet_v1.0.npz", **squeeze_weights())
    (directory / "taef2" / "taef2_encoder.pth").write_bytes(b"")
    (directory / "yunet" / "yunet_dynamic.onnx").write_bytes(b"")
    write_landmark_network(directory / "landmarks" / "pfld_68.onnx")


def write_landmark_network(path):
    """A network whose 68 points are a random linear function of a coarse picture."""
    rng = np.random.default_rng(0)
    arrays = {
        "weight": rng.normal(0, 0.1, (147, 136)).astype(np.float32),
        "bias": rng.uniform(0.2, 0.8, 136).astype(np.float32),
    }
    nodes = [
        helper.make_node(
            "AveragePool", ["input"], ["small"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["points"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["n", 136])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


def test_helpers_are_found_in_their_folders(tmp_path):
    write_helpers(tmp_path)
    found = Helpers.in_directory(tmp_path)
    assert found.perceptual.name == "squeezenet_v1.0.npz"
    assert found.teacher.name == "taef2_encoder.pth"
    assert found.landmarks.name == "pfld_68.onnx"
    assert found.labeller.name == "yunet_dynamic.onnx"


def test_a_helper_that_is_not_there_is_named(tmp_path):
    write_helpers(tmp_path)
    (tmp_path / "taef2" / "taef2_encoder.pth").unlink()
    with pytest.raises(MissingError, match=r"holds no taef2/\*encoder.pth.* --helpers"):
        Helpers.in_directory(tmp_path)


def test_a_stage_that_needs_another_says_which(tmp_path):
    with pytest.raises(MissingError, match=r"stage 'autoencoder' to be done; run `vidinvert train"):
        load_autoencoder(tmp_path)


def test_a_pack_of_stages_that_are_not_done_is_refused(tmp_path):
    with pytest.raises(MissingError, match=r"every stage to be done; run `vidinvert train auto"):
        write_mini(tmp_path, face_set(train=1, val=1, size=16))


def test_a_schedule_is_shortened_unless_the_limit_is_zero():
    schedule = Schedule(images=100, batch_size=4)
    assert shortened(schedule, 0) is schedule
    assert shortened(schedule, 90.0).max_seconds == 90.0


def test_the_numbers_of_a_network_are_counted():
    assert parameters(torch.nn.Linear(3, 5)) == 20


def test_the_detectors_stage_passes_its_limits_on(tmp_path, monkeypatch):
    seen = {}

    def train_detector(data, directory, *, labeller, landmarker, plan, **given):
        seen.update(given, networks=(labeller, landmarker), schedule=plan.schedule)
        return directory / "detector.onnx"

    monkeypatch.setattr("vidinvert.training.pack.train_detector", train_detector)
    monkeypatch.setattr("vidinvert.training.pack.load_photographs", lambda directory: ["a"])
    write_helpers(tmp_path / "helpers")
    helpers = Helpers.in_directory(tmp_path / "helpers")
    result = train_detector_stage(
        tmp_path, tmp_path / "data", helpers, minutes=2.0, seed=3, progress=lambda *_: None
    )
    assert result == {"written": str(tmp_path / "detector" / "detector.onnx")}
    assert seen["networks"] == (helpers.labeller, helpers.landmarks)
    assert seen["photographs"] == ["a"]
    assert (seen["schedule"].max_seconds, seen["schedule"].seed) == (120.0, 3)


def write_data(directory):
    """Cartoon faces with a manifest and ratings of the training set."""
    faces = face_set(train=FACES, val=4)
    (directory / "omi").mkdir(parents=True)
    manifest, ratings = ["split,set,file,yaw"], ["file,age,gender,weight,long_haired"]
    rng = np.random.default_rng(0)
    for index, image in enumerate(faces.images):
        cv2.imwrite(str(directory / "omi" / f"{index}.png"), image[..., ::-1])
        manifest.append(f"{faces.split[index]},omi,{index}.png,")
        ratings.append(",".join([f"{index}.png", *(f"{v:.1f}" for v in rng.uniform(0, 100, 4))]))
    (directory / "manifest.csv").write_text("\n".join(manifest) + "\n")
    (directory / "omi_ratings.csv").write_text("\n".join(ratings) + "\n")


@pytest.mark.slow
def test_the_stages_make_a_pack_that_loads(tmp_path, monkeypatch, capsys):
    """One step of everything; the teacher's latents, a detector and key points are given."""
    monkeypatch.setattr(stages, "COMPONENTS", (8, 8, 8, 8))
    monkeypatch.setattr(stages, "MIN_CORRELATION", -1.0)
    monkeypatch.setattr(stages, "CRITIC_STEPS", 2)
    data, helpers, work = tmp_path / "data", tmp_path / "helpers", tmp_path / "work"
    write_data(data)
    write_helpers(helpers)
    monkeypatch.setattr(mask_calibration, "MOST_TRIES", 0)
    labels = FaceLabels(
        boxes_xyxy=np.array([BOX], np.float32), points_xy=np.array([POINTS], np.float32)
    )
    monkeypatch.setattr(points, "label_faces", lambda crops, **models: [labels] * len(crops))
    write_detector(
        FaceDetectorNet(widths=(4, 4, 6, 8, 8), neck_width=8), work / "detector/detector"
    )
    latents = np.random.default_rng(0).standard_normal((FACES + 4, 32, 32, 32))
    np.save(work / "teacher.npy", latents.astype(np.float16))
    common = ["--data", data, "--helpers", helpers, "-o", work, "--quiet", "--images", 2]
    printed = {}
    for stage in ("encoder", "pack"):  # `pack` does what `encoder` left, and that once
        command = ["train", stage, *common, "--batch-size", 2, "--threads", 1]
        assert main([str(word) for word in command]) == 0
        for line in capsys.readouterr().out.splitlines():
            figures = json.loads(line)
            printed.setdefault(figures["stage"], figures)
            skipped = stage == "pack" and figures["stage"] in ("autoencoder", "codes", "detector")
            assert figures.get("done", False) == skipped
    assert printed["codes"]["components"] == [8, 8, 8, 8]
    assert all(math.isfinite(printed[s]["psnr"]) for s in ("autoencoder", "generator", "samm"))
    stored = load_file(work / "pack" / "generator.safetensors")
    assert stored["basis.basis_3"].dtype == torch.int8
    assert stored["first.0.conv.weight"].dtype == torch.float16
    pack = find_pack(str(work / "pack"))
    verify_pack(pack)
    assert pack.sha256 == printed["appraise"]["sha256"]
    assert pack.figures["val_faces"] == 4
    assert pack.figures["composite_psnr"] == pytest.approx(
        printed["appraise"]["composite_psnr"], abs=1e-3
    )
    assert {"effect_at_2", "grows", "leak_at_2", "correlation"} <= set(
        pack.directions["age"].figures
    )
    assert pack.provenance["samm_images_seen"] == 2
    assert pack.provenance["pictures"] == {"omi": FACES}
    assert set(load_directions(pack)) == set(printed["directions"]) - {"stage"}
    fitted = load_file(work / "directions" / "directions.safetensors")
    for name, direction in load_directions(pack).items():
        gain = GAINS.get(name, 1.0)
        torch.testing.assert_close(direction.vector, gain * countered(name, fitted))
        assert f"1.0 = {gain:g} standard" in direction.unit or gain == 1.0
    assert load_method(pack, method="samm").crop_size == 256
    for name in ENCODERS:
        assert load_method(pack, method=name).crop_size == 256
        assert pack.provenance[f"{name}_images_seen"] == 2
    assert pack.settings["diffcam_classes"] == list(
        load_file(work / "pack" / "directions.safetensors")
    )
    assert {"diffcam", "deghost"} < set(pack.files)
    assert has_second_look(onnx.load(str(work / "pack" / "detector" / "detector.onnx")))
    assert pack.provenance["points_images_seen"] == 2
    assert json.loads((work / "samm" / "calibration.json").read_text())["gains"] == [1.0, 1.0, 1.0]
    again = ["train", "autoencoder", *common, "-o", tmp_path / "again", "--batch-size", 2]
    assert main([str(word) for word in [*again, "--from", work / "pack"]]) == 0
    assert json.loads(capsys.readouterr().out)["psnr"] == pytest.approx(
        printed["autoencoder"]["psnr"], abs=1.0
    )  # one step from the same networks
    earlier = json.loads((tmp_path / "again" / "autoencoder" / "earlier.json").read_text())
    assert (earlier["sha256"], earlier["images_seen"]) == (pack.sha256, 2)
    again = [*common, "-o", tmp_path / "third", "--from", work / "pack"]
    for stage in ("directions", "assemble"):
        assert main(["train", stage, *(str(word) for word in again), "--edits", "age"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]).keys() == {"stage", "sha256"}
    update = find_pack(str(tmp_path / "third" / "pack"))
    verify_pack(update)
    assert update.settings == pack.settings
    assert "effect_at_2" in update.directions["age"].figures
    for part in ("autoencoder", "generator", "samm", "diffcam", "deghost", "detector"):
        assert update.files[part].sha256 == pack.files[part].sha256
    assert set(load_directions(update)) == set(load_directions(pack))
    assert update.provenance["samm_images_seen"] == 2
    assert set(update.figures) == set(pack.figures)
    assert update.figures["samm_psnr"] == pack.figures["samm_psnr"]
    again = ["train", "samm", *common, "-o", tmp_path / "fourth", "--from", work / "pack"]
    assert main([str(word) for word in [*again, "--batch-size", 2]]) == 0
    earlier = json.loads((tmp_path / "fourth" / "samm" / "earlier.json").read_text())
    assert (earlier["sha256"], earlier["images_seen"]) == (pack.sha256, 2)


def described_pack(directory):
    """A pack of a detector and a SAMM, written by a training that is over."""
    (directory / "detector").mkdir(parents=True)
    net = FaceDetectorNet(widths=(4, 4, 6, 8, 8), neck_width=8)
    write_detector(net, directory / "detector")
    save_file({"a": torch.ones(2).half()}, directory / "samm.safetensors")
    return write_pack(
        directory,
        name="p",
        version="1",
        license="MIT",
        summary="s",
        generator={"kind": "eigen", "crop_size": 8, "style_count": 1, "style_width": 2},
        files={"samm": "samm.safetensors", "detector": "detector/detector.onnx"},
        provenance={"samm_images_seen": 5, "points_images_seen": 3, "detector_images_seen": 9},
    )


def trained_look(work, *, bias):
    """Leave a second look in a work folder as its stage does."""
    look = SecondLook()
    torch.nn.init.constant_(look.head.bias, bias)
    (work / "points").mkdir(parents=True)
    stages.write_weights(look.state_dict(), work / "points")
    torch.save({"images": 64, "seconds": 1.0}, work / "points" / "checkpoint.pt")


def test_a_second_look_is_put_into_a_packs_detector_and_stays_there(tmp_path):
    faces = face_set(train=1, val=1, size=16)
    trained_look(tmp_path / "a", bias=0.01)
    pack = described_pack(tmp_path / "pack")
    looking = write_mini(tmp_path / "a", faces, start=pack)
    verify_pack(looking)
    model = onnx.load(str(looking.directory / "detector" / "detector.onnx"))
    assert has_second_look(model)
    said = json.loads((looking.directory / "detector" / "manifest.json").read_text())
    assert said["tasks"]["detection"]["sha256"] == looking.files["detector"].sha256
    assert looking.provenance["points_images_seen"] == 64
    assert looking.provenance["detector_images_seen"] == 9

    torch.manual_seed(8)
    net = FaceDetectorNet(widths=(4, 4, 6, 8, 8), neck_width=8)
    write_detector(net, tmp_path / "b" / "detector" / "detector")  # another detector
    again = write_mini(tmp_path / "b", faces, start=looking)
    verify_pack(again)
    carried = onnx.load(str(again.directory / "detector" / "detector.onnx"))
    assert has_second_look(carried)
    weights = [read_detector_weights(m) for m in (model, carried)]
    for name in (name for name in weights[0] if name.startswith("look.")):
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
    assert not np.array_equal(weights[0]["w0"], weights[1]["w0"])


def test_a_pack_keeps_the_curves_of_what_was_trained(tmp_path):
    trained_look(tmp_path / "work", bias=0.0)
    rows = [f"{32 * k},{k}.0,{name},{1 / (k + 1):.4f}" for k in range(150) for name in ("b", "a")]
    text = "\n".join(["images,seconds,metric,mean", *rows]) + "\n"
    (tmp_path / "work" / "points" / "metrics.csv").write_text(text)
    pack = described_pack(tmp_path / "pack")
    made = write_mini(tmp_path / "work", face_set(train=1, val=1, size=16), start=pack)
    kept = (made.directory / "curves" / "points.csv").read_text().splitlines()
    assert kept[0] == "images,seconds,metric,mean"
    assert kept[75] == "4768,149.0,a,0.0067"  # the last of 75 rows
    assert kept[-1] == "4768,149.0,b,0.0067"
    assert len(kept) == 151
    assert not (pack.directory / "curves").exists()


def test_calibrated_masks_keep_the_history_of_their_training(tmp_path):
    pack = described_pack(tmp_path / "pack")
    (tmp_path / "work" / "samm").mkdir(parents=True)
    stages.write_weights({"a": torch.full((2,), 3.0)}, tmp_path / "work" / "samm")
    (tmp_path / "work" / "samm" / "calibration.json").write_text("{}")
    made = write_mini(tmp_path / "work", face_set(train=1, val=1, size=16), start=pack)
    assert load_file(made.directory / "samm.safetensors")["a"].tolist() == [3.0, 3.0]
    assert made.provenance["samm_images_seen"] == 5
    assert made.files["detector"].sha256 == pack.files["detector"].sha256


def test_what_is_measured_of_a_pack_is_written_into_its_description(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    direction = {"unit": "u", "source": "s", "layers": [0], "figures": {"correlation": 0.5}}
    pack = write_pack(
        tmp_path,
        name="p",
        version="1",
        license="MIT",
        summary="s",
        generator={"kind": "eigen", "crop_size": 8, "style_count": 1, "style_width": 2},
        files={"detector": "a.bin"},
        directions={"smile": direction, "age": direction},
        figures={"samm_psnr": 29.5, "val_faces": 3.0},
    )
    measured = {"effect_at_2": 1.23456, "side_effects_at_2": {"yaw": 0.00049}}
    noted = note_figures(tmp_path, {"val_faces": 48.0}, {"smile": measured})
    assert noted.figures == {"samm_psnr": 29.5, "val_faces": 48.0}
    assert noted.directions["smile"].figures == {"correlation": 0.5, "effect_at_2": 1.235}
    assert noted.directions["age"] == pack.directions["age"]
    assert noted.files == pack.files
    text = (tmp_path / "pack.toml").read_text()
    assert "[directions.smile.figures.side_effects_at_2]\nyaw = 0.0\n" in text


def test_an_edit_that_is_no_motion_is_countered_by_motions_and_drawn_in_full(tmp_path):
    for folder in ("motions", "pack"):
        (tmp_path / folder).mkdir()
    moves = {f"moves.{name}": torch.full((68, 2), float(k)) for k, name in enumerate(MOTIONS, 1)}
    readout = {"readout.weight": torch.ones(136, 4)}
    save_file({**moves, **readout}, tmp_path / "motions" / "motions.safetensors")
    known = {name: torch.ones(1, 4) for name in ("smile", "eyes_open", "age")}
    save_file(known, tmp_path / "pack" / "directions.safetensors")
    assert write_motions(tmp_path, tmp_path / "pack") == {"motions": "motions.safetensors"}
    written = load_file(tmp_path / "pack" / "motions.safetensors")
    assert {name for name in written if name.startswith("moves.")} == {
        f"moves.{name}"
        for name in known  # yaw's, which the pack has no direction for, is left out
    }
    age = sum(share * moves[f"moves.{other}"] for other, share in MOTIONS_COUNTERED["age"].items())
    torch.testing.assert_close(written["moves.age"], age)
    assert written["share.age"].tolist() == [1.0]
    assert written["share.smile"].tolist() == [pytest.approx(1.0 / GAINS["smile"])]


def test_a_smile_opens_the_eyes_that_it_would_close():
    fitted = {"smile": torch.ones(1, 2), "eyes_open": torch.tensor([[0.0, 1.0]])}
    assert countered("smile", fitted).tolist() == [[1.0, pytest.approx(1.36)]]
    assert countered("eyes_open", fitted).tolist() == [[0.0, 1.0]]
    assert countered("smile", {"smile": torch.ones(1, 2)}).tolist() == [[1.0, 1.0]]


def test_a_stage_that_goes_on_counts_all_that_was_trained_before(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    pack = write_pack(
        tmp_path,
        name="p",
        version="1",
        license="MIT",
        summary="s",
        generator={"kind": "eigen", "crop_size": 8, "style_count": 1, "style_width": 2},
        files={"detector": "a.bin"},
        provenance={"detector_images_seen": 5, "detector_earlier_images_seen": 7},
    )
    stages.write_earlier(pack, "detector", tmp_path / "detector")
    earlier = json.loads((tmp_path / "detector" / "earlier.json").read_text())
    assert earlier == {"pack": "p 1", "sha256": pack.sha256, "images_seen": 12}


def test_a_stages_figures_are_rounded_in_the_file_alone(tmp_path):
    figures = stages.write_figures({"psnr": 12.345678}, tmp_path)
    assert figures == {"psnr": 12.345678}
    assert json.loads((tmp_path / "figures.json").read_text()) == {"psnr": 12.3457}
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert stages.read_weights(tmp_path)["a"].tolist() == [1.0, 1.0]


def test_a_direction_that_only_rounding_moved_is_the_same(tmp_path):
    """Of six: same, rounded, moved, with another motion, with a new motion, gone."""
    vectors = {name: torch.full((2, 3), 0.5) for name in "abcdef"}
    motions = {"moves.a": torch.ones(68, 2), "share.a": torch.ones(1), "moves.d": torch.ones(68, 2)}
    for folder in ("earlier", "target"):
        (tmp_path / folder).mkdir()
    save_file(vectors, tmp_path / "earlier" / "directions.safetensors")
    save_file(motions, tmp_path / "earlier" / "motions.safetensors")
    vectors |= {"b": vectors["b"] * 1.0001, "c": vectors["c"] * 1.01}
    del vectors["f"]
    motions |= {"moves.d": torch.full((68, 2), 1.1), "moves.e": torch.ones(68, 2)}
    save_file(vectors, tmp_path / "target" / "directions.safetensors")
    save_file(motions, tmp_path / "target" / "motions.safetensors")
    assert sorted(unmoved(tmp_path / "earlier", tmp_path / "target")) == ["a", "b"]
