from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.test_stages import write_landmark_network
from tests.training.tiny import face_set, perceptual
from vidinvert.appraisal import Editor, appraise, appraise_edits, choose_faces, edit_crops
from vidinvert.appraisal.instruments import Instruments, RatingProbe
from vidinvert.appraisal.pictures import appraise_blend, appraise_masks, psnr
from vidinvert.errors import PlanError
from vidinvert.faces.landmarks import LandmarkNetwork
from vidinvert.types import Embedding, LatentDirection, Synthesis

SIDE = 256


class Brightness:
    """A method whose one code is the mean of a picture, and whose pictures are flat."""

    crop_size = SIDE

    def __init__(self, ood=0.0):
        self._ood = ood

    def embed(self, crops):
        return Embedding(w_plus=crops.mean(dim=(1, 2, 3))[:, None, None])

    def generate(self, w_plus):
        return w_plus[:, :, :, None].expand(-1, 3, SIDE, SIDE)

    def synthesise(self, embedding, w_plus):
        del embedding
        ood = w_plus.new_full((len(w_plus), 1, SIDE, SIDE), self._ood)
        return Synthesis(image=self.generate(w_plus), ood=ood)


def lighter():
    return LatentDirection(
        name="age",
        vector=torch.tensor([[0.2]]),
        layers=(0,),
        unit="1.0 = a tenth of the range",
        source="made up",
    )


class Light:
    """Stands in for the ratings: `age` is a picture's brightness."""

    def __call__(self, crops):
        return {"age": crops.mean(axis=(1, 2, 3))}


@pytest.fixture(scope="module")
def landmarks(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "pfld_68.onnx"
    write_landmark_network(path)
    return LandmarkNetwork(path)


def test_a_flat_picture_is_as_far_from_another_as_they_differ():
    first, second = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.2)
    np.testing.assert_allclose(psnr(first, second), 20.0, atol=1e-5)  # a tenth of the range of 2


def test_what_the_mask_keeps_is_not_lost():
    crops = face_set(train=0, val=2).images
    kept = appraise_blend(crops, Brightness(ood=1.0), perceptual(), None)
    lost = appraise_blend(crops, Brightness(ood=0.0), perceptual(), None)
    assert kept["composite_psnr"] > 100.0
    assert lost["composite_psnr"] == pytest.approx(lost["reconstruction_psnr"], abs=1e-6)
    assert (kept["composite_mean_mask"], lost["composite_mean_mask"]) == (1.0, 0.0)
    assert "reconstruction_identity" not in kept


def test_a_mask_of_everything_covers_what_was_planted_and_bare_faces_too():
    crops = face_set(train=0, val=2).images
    everything, nothing = (appraise_masks(crops, Brightness(ood=o)) for o in (1.0, 0.0))
    assert everything["mask_on_bare_faces"] == pytest.approx(1.0)
    assert 0.0 < everything["planted_iou"] < 1.0
    assert (nothing["planted_iou"], nothing["mask_on_bare_faces"]) == (0.0, 0.0)


def test_an_edit_that_brightens_is_measured_by_a_probe_of_brightness(landmarks):
    levels = np.array([70, 90, 100, 120, 150], np.uint8)  # pictures that the method inverts well
    crops = np.broadcast_to(levels[:, None, None, None], (5, SIDE, SIDE, 3))
    editor = Editor(method=Brightness(), directions={"age": lighter()}, landmarks=None)
    instruments = Instruments(
        perceptual=perceptual(), landmarks=landmarks, ratings=Light(), identity=None
    )
    found = appraise_edits(crops, editor, instruments)
    assert list(found) == ["age"]
    age = found["age"]
    assert age["grows"] == 1.0
    brighter = edit_crops(crops, editor, "age", 2.0)
    rise = brighter.mean(axis=(1, 2, 3)) - crops.mean(axis=(1, 2, 3))
    assert (rise > 3).all()
    spread = crops.mean(axis=(1, 2, 3)).std()
    assert age["effect_at_2"] == pytest.approx(rise.mean() / spread)
    beside = age["side_effects_at_2"]
    assert set(beside) == {"smile", "mouth_open", "eyes_open", "yaw", "pitch"}
    assert age["leak_at_2"] == pytest.approx(max(map(abs, beside.values())) / age["effect_at_2"])
    assert "identity_at_2" not in age


def test_what_nothing_measures_is_left_out(landmarks):
    crops = face_set(train=0, val=2).images
    unknown = {"freckles": replace(lighter(), name="freckles")}
    editor = Editor(method=Brightness(), directions=unknown, landmarks=None)
    instruments = Instruments(
        perceptual=perceptual(), landmarks=landmarks, ratings=Light(), identity=None
    )
    assert appraise_edits(crops, editor, instruments) == {}


def test_an_unknown_edit_is_refused_and_no_edit_is_no_work(tmp_path):
    editor = Editor(method=Brightness(), directions={"age": lighter()}, landmarks=None)
    faces = face_set(train=0, val=2)
    with pytest.raises(PlanError, match="no edits named freckles; it has age"):
        appraise(editor, faces, tmp_path, tmp_path, names=["age", "freckles"])
    nothing = appraise(editor, faces, tmp_path, tmp_path, names=[])
    assert (nothing.figures, nothing.directions) == ({}, {})


def test_ratings_are_read_off_pictures(tmp_path):
    """Cartoons rated by their skin's brightness: faces held out get about their rating."""
    faces = face_set(train=60, val=12)
    truth = faces.images[:, 128, 128].mean(axis=1)
    lines = ["file,age", *(f"{index}.png,{value:.2f}" for index, value in enumerate(truth))]
    (tmp_path / "omi_ratings.csv").write_text("\n".join(lines))
    probe = RatingProbe(faces, tmp_path / "omi_ratings.csv", perceptual())
    assert probe.names == ("age",)
    guess = probe(faces.images[60:])["age"]
    assert np.corrcoef(guess, truth[60:])[0, 1] > 0.7
    assert probe.correlation["age"] > 0.5


def test_faces_are_chosen_evenly_and_without_masks():
    faces = face_set(train=2, val=8, size=16)
    faces = replace(faces, source=np.array(["omi"] * 9 + ["maicom"]))
    np.testing.assert_array_equal(choose_faces(faces, count=3), faces.images[[2, 4, 6]])
    with pytest.raises(PlanError, match="None of the faces is of the split `val`"):
        choose_faces(replace(faces, split=np.array(["train"] * 10)))
