"""Figures of edits whose value is known by construction."""

import json
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.mini import SAMPLE, blank_clip, mini, read_clip
from tests.networks.test_lpips import random_state
from tests.shared_data import shared_path
from vidinvert.errors import CheckpointError, MissingError, NoFaceError, OpenError, PlanError
from vidinvert.evaluation import DEFINITIONS, evaluate_video

FRAMES = 6
END = FRAMES / 25


@cache
def sample_frames() -> np.ndarray:
    return read_clip(SAMPLE)[0][:FRAMES]


def write(path: Path, frames: np.ndarray, *, ticks=None) -> Path:
    """Write frames losslessly (FFV1, RGB), 25 a second or at `ticks` of 1/25 s."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = (ticks or range(99))[number], Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("source") / "source.mkv", sample_frames())


def evaluate(source, edited, **options):
    return evaluate_video(source, edited, detector=mini().detector, **options)


def test_identical_clips_have_no_difference_at_all(source):
    evaluation = evaluate(source, source)
    report = json.loads(json.dumps(evaluation.report, allow_nan=False))
    face = report["faces"][0]
    assert (face["frames"], report["frames"]) == (FRAMES, FRAMES)
    assert face["psnr_face"] is None  # infinite
    assert face["ssim_face"] == face["ms_ssim_face"] == pytest.approx(1.0)
    assert face["warping_error"]["ratio"] == face["landmark_jitter"]["ratio"] == 1.0
    assert face["warping_error_own_flow"]["ratio"] == 1.0
    assert report["outside"]["psnr_outside_identical"] is True
    assert report["timing"]["largest_difference_seconds"] == 0.0
    assert report["timing"]["frames"] == {"source": FRAMES, "edited": FRAMES}
    assert set(evaluation.series) >= {"psnr_outside", "face0_warping_error"}


def test_a_known_flicker_shows_in_the_figures(source, tmp_path):
    flickering = sample_frames().astype(int)
    flickering[1::2] += 8
    edited = write(tmp_path / "edited.mkv", flickering.clip(0, 255).astype(np.uint8))
    report = evaluate(source, edited).report
    face = report["faces"][0]
    expected = 20 * np.log10(255 / 8) + 10 * np.log10(2)  # every second frame is 8 levels off
    assert face["psnr_face"] == pytest.approx(expected, abs=0.2)
    assert report["outside"]["psnr_outside"] == pytest.approx(expected, abs=0.2)
    added = face["warping_error"]["edited"] - face["warping_error"]["source"]
    assert added == pytest.approx((8 / 255) ** 2, rel=0.1)
    assert face["warping_error"]["ratio"] > 2
    assert face["warping_error_own_flow"]["ratio"] > 2


def test_a_known_shift_of_every_second_frame_is_jitter(source, tmp_path):
    shaken = sample_frames().copy()
    shaken[1::2] = np.roll(shaken[1::2], 6, axis=2)
    edited = write(tmp_path / "edited.mkv", shaken)
    face = evaluate(source, edited).report["faces"][0]
    jitter = face["landmark_jitter"]
    eyes = 100.0  # about the distance in the sample, in pixels
    assert jitter["edited"] == pytest.approx(2 * 6 / eyes, rel=0.35)
    assert jitter["ratio"] > 3


def test_frames_at_other_times_are_noticed(source, tmp_path):
    edited = write(tmp_path / "late.mkv", sample_frames()[:4], ticks=[0, 1, 2, 5])
    timing = evaluate(source, edited).report["timing"]
    assert timing["frames"] == {"source": FRAMES, "edited": 4}
    assert timing["largest_difference_seconds"] == pytest.approx(0.08, abs=2e-3)


def test_a_part_is_compared_with_the_part_it_was_made_from(source, tmp_path):
    edited = write(tmp_path / "part.mkv", sample_frames()[2:5])
    report = evaluate(source, edited, start_seconds=2 / 25, end_seconds=5 / 25).report
    assert report["frames"] == 3
    assert report["outside"]["psnr_outside_identical"] is True


def test_masks_that_stand_still_do_not_flicker(source, tmp_path):
    import cv2

    masks = tmp_path / "masks"
    masks.mkdir()
    still = np.full(sample_frames().shape[1:3], 255, np.uint8)
    still[150:350, 150:350] = 0
    for number in range(FRAMES):
        cv2.imwrite(str(masks / f"{number:06d}.png"), still)
    face = evaluate(source, source, masks=masks).report["faces"][0]
    assert face["mask_flicker"] < 0.02
    assert face["mask_temporal_iou"] > 0.97
    (masks / "000003.png").unlink()
    with pytest.raises(PlanError, match=r"no mask for 1 of 6 frames \(the first is 000003"):
        evaluate(source, source, masks=masks)


def test_what_is_not_measured_is_said_with_the_reason(source):
    report = evaluate(source, source).report
    reasons = " ".join(report["absent"].values())
    for option in ("--recognition", "--landmarks", "--lpips", "--masks", "--edit-report"):
        assert option in reasons
    assert "tl_id" not in report["faces"][0]


def test_every_figure_is_defined(source):
    report = evaluate(source, source).report
    told = {"id", "frames"}
    assert set(report["faces"][0]) - told <= set(DEFINITIONS)
    assert {"psnr_outside", "ssim_outside", "ms_ssim_outside"} <= set(DEFINITIONS)
    for meaning in report["definitions"].values():
        assert all(meaning[key] for key in ("formula", "source", "range", "good"))


def test_the_report_of_the_edit_says_what_was_before_encoding(source, tmp_path):
    told = tmp_path / "edit.json"
    told.write_text(json.dumps({"quality": {"psnr_outside": None}}))
    report = evaluate(source, source, edit_report=told).report
    assert report["outside"]["before_encoding"] == {"psnr_outside": None}
    told.write_text("{}")
    with pytest.raises(OpenError, match="cannot be read as a report of an edit"):
        evaluate(source, source, edit_report=told)


def test_lpips_is_measured_with_the_users_weights(source, tmp_path):
    weights = tmp_path / "alex.pth"
    torch.save(random_state("alex"), weights)
    face = evaluate(source, source, lpips=weights, end_seconds=0.08).report["faces"][0]
    assert (face["lpips_face"], face["lpips_face_backbone"]) == (0.0, "alex")
    torch.save({"conv": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match=r"does not hold LPIPS: the tensors are not those"):
        evaluate(source, source, lpips=weights)


@pytest.mark.shared
def test_identity_and_attributes_are_measured_with_the_users_networks(source):
    recognition = shared_path("models/identity/mobilefacenet.onnx")
    landmarks = shared_path("models/landmarks/pfld_68.onnx")
    report = evaluate(source, source, recognition=recognition, landmarks=landmarks).report
    face = report["faces"][0]
    assert face["tl_id"] == pytest.approx(1.0)
    assert face["tg_id"] == pytest.approx(1.0)
    assert face["identity_similarity"] == pytest.approx(1.0)
    assert face["identity_model"] == "mobilefacenet.onnx"
    assert face["landmark_jitter"]["points"] == 68
    assert face["attributes"] == {"smile": 0.0, "mouth_open": 0.0, "eyes_open": 0.0, "yaw": 0.0}
    assert not {"tl_id, tg_id, identity_similarity"} & set(report["absent"])


class Lips:
    """Stands for a network of landmarks: lips that open by turns, by a share of the eyes."""

    def __init__(self, share):
        self.share, self.calls = share, 0

    def __call__(self, crops):
        points = np.random.default_rng(0).uniform(60, 200, (68, 2))
        points[36:42], points[42:48] = (90, 120), (154, 120)
        points[36], points[42] = (89, 120), (153, 120)
        points[39], points[45] = (91, 120), (155, 120)
        points[61:64] = (128, 170)
        points[65:68] = (128, 170 + 64 * self.share * (self.calls % 2))
        self.calls += 1
        return np.stack([points] * len(crops))


@pytest.mark.parametrize(("share", "speaks"), [(0.01, False), (0.1, True)])
def test_a_mouth_that_hardly_opens_has_no_correlation(source, monkeypatch, share, speaks):
    monkeypatch.setattr("vidinvert.evaluation.report._load_landmarks", lambda path: Lips(share))
    report = evaluate(source, source, landmarks="any").report
    face = report["faces"][0]
    assert face["mouth_movement"] == pytest.approx(share / 2, rel=0.05)
    assert face["mouth_correlation"] == (pytest.approx(1.0) if speaks else None)
    reason = report["absent"].get("mouth_correlation of face 0", "")
    assert ("the source's mouth hardly opens: by 0.005" in reason) == (not speaks)


def test_clips_that_do_not_belong_together_are_refused(source, tmp_path):
    small = write(tmp_path / "small.mkv", sample_frames()[:, ::2, ::2])
    with pytest.raises(PlanError, match=r"small\.mkv is 256x256 and source\.mkv 512x512"):
        evaluate(source, small)
    with pytest.raises(PlanError, match=r"No frame of source\.mkv lies from 9 s"):
        evaluate(source, source, start_seconds=9.0)
    nobody = tmp_path / "nobody.mp4"
    blank_clip(nobody)
    with pytest.raises(NoFaceError, match="so there is nothing to evaluate"):
        evaluate(nobody, nobody)


def test_a_missing_network_of_landmarks_is_named(source, tmp_path):
    with pytest.raises(MissingError, match="expected an ONNX network of 68 landmarks"):
        evaluate(source, source, landmarks=tmp_path / "none.onnx")
