import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.faces.models import write_mean_colour_recogniser, write_red_square_detector
from tests.mini import SAMPLE, mini, read_clip
from tests.shared_data import shared_path
from vidinvert.errors import CheckpointError, MissingError, NoFaceError, PlanError
from vidinvert.faces import FaceDetector, bridge_gaps, track_faces
from vidinvert.faces.detect import LOOKS, STICKY_FRAMES
from vidinvert.media import decode, probe
from vidinvert.types import FrameBatch, TrackingPlan

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("red")
    write_red_square_detector(path / "detector.onnx")
    return path


@pytest.fixture(scope="module")
def directory_with_identities(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("red_and_colour")
    write_red_square_detector(path / "detector.onnx")
    write_mean_colour_recogniser(path / "recogniser.onnx")
    return path


def frame(size_hw: tuple[int, int], *squares: tuple[int, int, int], colour=RED) -> np.ndarray:
    """A black frame with squares (left, top, side)."""
    picture = np.zeros((*size_hw, 3), np.uint8)
    for left, top, side in squares:
        picture[top : top + side, left : left + side] = colour
    return picture


def batch(*frames: np.ndarray, first: int = 0) -> FrameBatch:
    indices = np.arange(first, first + len(frames), dtype=np.int64)
    return FrameBatch(frames=np.stack(frames), indices=indices)


def detect_one(detector: FaceDetector, picture: np.ndarray):
    return detector.detect(batch(picture))[0]


def test_a_face_is_found_where_it_is(directory):
    (face,) = detect_one(FaceDetector(directory, device="cpu"), frame((320, 320), (160, 96, 32)))
    assert face.frame_index == 0
    assert face.score == pytest.approx(0.9, abs=0.01)
    np.testing.assert_allclose(face.box_xyxy, [160, 96, 192, 128], atol=1)
    np.testing.assert_allclose(face.landmarks_xy[0], [160 + 9.6, 96 + 11.2], atol=1)
    assert face.identity is None


def test_colour_is_rgb(directory):
    detector = FaceDetector(directory, device="cpu")
    assert detect_one(detector, frame((320, 320), (160, 96, 32), colour=BLUE)) == []


@pytest.mark.parametrize("size_hw", [(960, 640), (640, 960), (480, 960), (1920, 1080)])
def test_places_are_those_of_the_frame_at_any_size_and_shape(directory, size_hw):
    cell = 32 * max(size_hw) // 320
    (face,) = detect_one(
        FaceDetector(directory, device="cpu"), frame(size_hw, (2 * cell, cell, cell))
    )
    np.testing.assert_allclose(
        face.box_xyxy, [2 * cell, cell, 3 * cell, 2 * cell], atol=0.03 * cell + 1
    )


@pytest.mark.parametrize(
    ("size_hw", "shown"),
    [((720, 1280), (320, 256)), ((1920, 1080), (256, 320)), ((8, 8), (320, 320))],
)
def test_what_is_shown_ends_where_the_frame_does(directory, monkeypatch, size_hw, shown):
    detector, sizes = FaceDetector(directory, device="cpu", min_size=2), []
    inner = detector._detector.detect
    monkeypatch.setattr(
        detector._detector,
        "detect",
        lambda picture, **how: sizes.append(how["input_size"]) or inner(picture, **how),
    )
    detect_one(detector, frame(size_hw))
    twice = tuple(448 if side == 256 else 640 for side in shown)
    assert sizes == [shown, twice, (320, 320)]


def test_the_shipped_detector_finds_the_same_below_a_frame_as_without(monkeypatch):
    picture = read_clip(SAMPLE)[0][0][:320]  # wider than high, with a chin below its lower edge
    looks = [replace(look, square=True) for look in LOOKS]
    (cut,) = detect_one(mini().detector, picture)
    monkeypatch.setattr(mini().detector, "_looks", looks)
    (whole,) = detect_one(mini().detector, picture)
    eyes = np.linalg.norm(whole.landmarks_xy[0] - whole.landmarks_xy[1])
    np.testing.assert_allclose(cut.landmarks_xy, whole.landmarks_xy, atol=0.01 * eyes)
    assert cut.score == pytest.approx(whole.score, abs=0.02)


def test_a_face_too_small_for_the_first_look_is_found_by_the_second(directory):
    picture = frame((640, 640), (320, 192, 32))  # a quarter of a cell at 320
    (face,) = detect_one(FaceDetector(directory, device="cpu"), picture)
    np.testing.assert_allclose(face.box_xyxy, [320, 192, 352, 224], atol=1)


def test_a_face_that_only_stands_in_a_padded_frame_is_found_by_the_third(directory, monkeypatch):
    monkeypatch.setattr("vidinvert.faces.detect.LOOKS", LOOKS[2:])
    picture = frame((320, 320), (32, 96, 64))  # one cell at half the size, 80 pixels further in
    (face,) = detect_one(FaceDetector(directory, device="cpu"), picture)
    np.testing.assert_allclose(face.box_xyxy, [32, 96, 96, 160], atol=1)


def test_faces_come_best_first_and_once(directory):
    picture = frame((320, 320), (160, 96, 32))
    picture[96:128, 32:64] = (200, 0, 0)
    faces = detect_one(FaceDetector(directory, device="cpu"), picture)
    assert [round(face.box_xyxy[0]) for face in faces] == [160, 32]
    assert faces[0].score > faces[1].score


def test_weak_faces_are_looked_for_at_every_size_and_kept_once(directory):
    picture = np.zeros((320, 320, 3), np.uint8)
    picture[96:128, 160:192] = (150, 0, 0)  # score 0.53
    faces = detect_one(FaceDetector(directory, device="cpu", min_score=0.5), picture)
    boxes = np.array([face.box_xyxy for face in faces])
    assert len(faces) >= 1
    assert len(np.unique(np.round(boxes), axis=0)) == len(faces)
    assert detect_one(FaceDetector(directory, device="cpu", min_score=0.6), picture) == []


def test_faces_below_the_smallest_size_are_dropped(directory):
    picture = frame((320, 320), (160, 96, 32))
    assert detect_one(FaceDetector(directory, device="cpu", min_size=40), picture) == []


@pytest.mark.parametrize("size_hw", [(0, 0), (0, 64), (1, 1), (2, 4000), (4000, 2), (16, 16)])
def test_frames_without_room_for_a_face_have_none(directory, size_hw):
    assert detect_one(FaceDetector(directory, device="cpu"), frame(size_hw)) == []


def test_an_extreme_shape_is_no_obstacle(directory):
    assert detect_one(FaceDetector(directory, device="cpu"), frame((30, 4000))) == []


def test_the_look_that_found_the_faces_is_tried_first(directory, monkeypatch):
    detector = FaceDetector(directory, device="cpu")
    sizes: list[int] = []
    inner = detector._detector.detect
    monkeypatch.setattr(
        detector._detector,
        "detect",
        lambda picture, **how: sizes.append(how["input_size"][0]) or inner(picture, **how),
    )
    small = frame((640, 640), (320, 192, 32))
    moving = [small.copy() for _ in range(STICKY_FRAMES + 2)]
    for k, picture in enumerate(moving):
        picture[0, 0] = k  # or nothing would be looked at again
    detector.detect(batch(*moving))
    assert sizes == [320, 640] * STICKY_FRAMES + [640, 640]

    sizes.clear()  # another clip: nothing is remembered
    detector.detect(batch(small, first=0))
    assert sizes == [320, 640]


@pytest.mark.promise(18)
def test_batches_of_any_size_find_the_same(directory):
    frames = [frame((320, 320), (32 * i, 96, 32)) for i in range(6)]
    at_once = FaceDetector(directory, device="cpu").detect(batch(*frames))
    detector = FaceDetector(directory, device="cpu")
    single = [detector.detect(batch(f, first=i))[0] for i, f in enumerate(frames)]
    for a, b in zip(at_once, single, strict=True):
        np.testing.assert_array_equal([x.box_xyxy for x in a], [x.box_xyxy for x in b])
        assert [x.frame_index for x in a] == [x.frame_index for x in b]


@pytest.mark.promise(18)
def test_frames_looked_at_at_once_find_the_same(directory):
    frames = [frame((640, 640), (320, 192, 32 if i % 3 else 96)) for i in range(12)]
    alone, beside = (FaceDetector(directory, device="cpu", workers=n) for n in (1, 3))
    for first in (0, 6):  # the look that is tried first changes on the way
        part = batch(*frames[first : first + 6], first=first)
        for a, b in zip(alone.detect(part), beside.detect(part), strict=True):
            assert len(a) == 1
            np.testing.assert_array_equal([x.box_xyxy for x in a], [x.box_xyxy for x in b])
            np.testing.assert_array_equal([x.landmarks_xy for x in a], [x.landmarks_xy for x in b])


def test_a_picture_that_stands_still_is_looked_at_once(directory, monkeypatch):
    detector, looks = FaceDetector(directory, device="cpu"), []
    inner = detector._detector.detect
    monkeypatch.setattr(
        detector._detector,
        "detect",
        lambda picture, **how: looks.append(1) or inner(picture, **how),
    )
    red = frame((320, 320), (160, 96, 64))
    found = detector.detect(batch(red, red, red, frame((320, 320), (32, 96, 64)), red))
    assert len(looks) == 3
    assert [{face.frame_index for face in faces} for faces in found] == [{0}, {1}, {2}, {3}, {4}]
    boxes = [faces[0].box_xyxy for faces in found]
    np.testing.assert_array_equal(boxes[0], boxes[2])
    np.testing.assert_array_equal(boxes[0], boxes[4])
    assert boxes[3][0] < boxes[0][0]


def test_a_network_of_one_size_is_used_at_that_size(tmp_path):
    write_red_square_detector(tmp_path / "fixed.onnx", side=320)
    detector = FaceDetector(tmp_path, device="cpu")
    (face,) = detect_one(detector, frame((640, 640), (320, 192, 64)))
    np.testing.assert_allclose(face.box_xyxy, [320, 192, 384, 256], atol=1)
    assert detect_one(detector, frame((640, 640), (320, 192, 32))) == []


def test_loading_is_quiet_and_needs_no_cuda(directory, capfd):
    detector = FaceDetector(directory, device="cpu")
    assert detector.device == "cpu"
    assert not detector.identifies
    assert capfd.readouterr() == ("", "")


def test_identities_are_of_unit_length_and_say_what_the_face_looks_like(directory_with_identities):
    detector = FaceDetector(directory_with_identities, device="cpu")
    assert detector.identifies
    (face,) = detect_one(detector, frame((320, 320), (64, 64, 160)))[:1]
    assert np.linalg.norm(face.identity) == pytest.approx(1.0)
    assert face.identity[0] > face.identity[2]


def test_a_photo_gives_the_identity_of_its_largest_face(directory_with_identities, tmp_path):
    photo = tmp_path / "anna.png"
    cv2.imwrite(str(photo), frame((320, 320), (160, 96, 32))[:, :, ::-1])
    identity = FaceDetector(directory_with_identities, device="cpu").identify(photo)
    assert np.linalg.norm(identity) == pytest.approx(1.0)


def test_a_photo_without_a_face_is_refused(directory_with_identities, tmp_path):
    photo = tmp_path / "sea.png"
    cv2.imwrite(str(photo), frame((320, 320)))
    with pytest.raises(NoFaceError, match=r"No face found in .*sea\.png \(threshold 0\.50\)"):
        FaceDetector(directory_with_identities, device="cpu").identify(photo)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_what_is_no_picture_is_refused(directory_with_identities, tmp_path, content):
    photo = tmp_path / "anna.jpg"
    if content is not None:
        photo.write_bytes(content)
    with pytest.raises(PlanError, match=r"Cannot read .*anna\.jpg as a picture"):
        FaceDetector(directory_with_identities, device="cpu").identify(photo)


def test_a_photo_needs_a_recognition_model(directory, tmp_path):
    with pytest.raises(PlanError, match="no recognition model"):
        FaceDetector(directory, device="cpu").identify(tmp_path / "anna.jpg")


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(MissingError, match="nowhere: the directory does not exist"):
        FaceDetector(tmp_path / "nowhere", device="cpu")


def test_models_in_a_nested_folder_are_not_enough(tmp_path):
    (tmp_path / "buffalo_l").mkdir()
    write_red_square_detector(tmp_path / "buffalo_l" / "det.onnx")
    with pytest.raises(MissingError, match=r"it holds no \.onnx file"):
        FaceDetector(tmp_path, device="cpu")


def test_a_directory_without_a_detector_is_refused(tmp_path):
    write_mean_colour_recogniser(tmp_path / "recogniser.onnx")
    with pytest.raises(CheckpointError, match="hold no face detector that insightface knows"):
        FaceDetector(tmp_path, device="cpu")


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / "detector.onnx").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(CheckpointError, match=r"cannot be loaded .* install the pack again"):
        FaceDetector(tmp_path, device="cpu")


def test_a_detector_without_key_points_is_refused(tmp_path):
    write_red_square_detector(tmp_path / "boxes.onnx", points=False)
    with pytest.raises(CheckpointError, match="finds boxes only"):
        FaceDetector(tmp_path, device="cpu")


@pytest.mark.promise(14)
def test_a_manifest_is_followed_and_its_sha256_checked(tmp_path):
    model = tmp_path / "detector.onnx"
    write_red_square_detector(model)
    task = {
        "file": "detector.onnx",
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "preprocessing": {"mean": 127.5, "std": 128.0},
    }
    (tmp_path / "MODEL.LICENSE").write_text("made for a test")
    manifest = {
        "manifest_version": 2,
        "model_id": "red-square",
        "license": "MODEL.LICENSE",
        "tasks": {"detection": task},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert detect_one(FaceDetector(tmp_path, device="cpu"), frame((320, 320), (160, 96, 32)))

    task["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="SHA-256 mismatch"):
        FaceDetector(tmp_path, device="cpu")


@pytest.mark.parametrize("score", [0.0, 1.0, -0.5, float("nan")])
def test_the_smallest_score_is_a_probability(directory, score):
    with pytest.raises(ValueError, match="expected a score between 0 and 1"):
        FaceDetector(directory, device="cpu", min_score=score)


@pytest.mark.parametrize("size", [-1.0, float("nan")])
def test_the_smallest_size_is_a_size(directory, size):
    with pytest.raises(ValueError, match="expected a number of pixels >= 0"):
        FaceDetector(directory, device="cpu", min_size=size)


def scrfd() -> FaceDetector:
    return FaceDetector(shared_path("models/insightface/models/scrfd_500m"), device="cpu")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("expressions_closeup_512.mp4", 1),
        ("two_faces_1030x516.mp4", 2),
        ("hands_640_sister.mkv", 1),
        ("no_face_320.mp4", 0),
    ],
)
def test_real_faces_are_found(name, count):
    info = probe(shared_path(f"data/clips/{name}"))
    (frames,) = decode(info, batch_size=4, stop=4)
    found = scrfd().detect(frames)
    assert [len(faces) for faces in found] == [count] * 4
    for face in (face for faces in found for face in faces):
        left, right, nose, mouth_left, mouth_right = face.landmarks_xy
        assert left[0] < nose[0] < right[0]
        assert mouth_left[0] < mouth_right[0]
        assert left[1] < nose[1] < mouth_left[1]


@pytest.mark.shared
@pytest.mark.parametrize("size_hw", [(720, 1280), (1080, 1920)])
def test_a_face_of_six_percent_of_the_height_is_found(size_hw):
    info = probe(shared_path("data/clips/talk_512_25fps.mp4"))
    (first,) = decode(info, batch_size=1, stop=1)
    detector = scrfd()
    (face,) = detect_one(detector, first.frames[0])
    shrink = 0.06 * size_hw[0] / (face.box_xyxy[3] - face.box_xyxy[1])
    small = cv2.resize(first.frames[0], None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    picture = np.full((*size_hw, 3), 90, np.uint8)
    picture[200 : 200 + len(small), 700 : 700 + small.shape[1]] = small
    (found,) = detect_one(detector, picture)
    expected = (face.landmarks_xy + 0.5) * shrink - 0.5 + [700, 200]
    np.testing.assert_allclose(found.landmarks_xy, expected, atol=4)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "people"),
    [
        ("expressions_closeup_512.mp4", 1),
        ("glasses_524_25fps.mp4", 1),
        ("halfbody_480x908.mp4", 1),
        ("hands_640_help.mkv", 1),
        ("hands_640_sister.mkv", 1),
        ("hevc_1080x1920_hands.mp4", 1),
        ("talk_720p_30fps.mp4", 1),
        ("two_faces_1030x516.mp4", 2),
        ("vfr_700.mp4", 1),
    ],
)
def test_people_are_followed_through_the_whole_clip(name, people):
    info = probe(shared_path(f"data/clips/{name}"))
    detector = scrfd()
    detections = [faces for frames in decode(info) for faces in detector.detect(frames)]
    plan = TrackingPlan()
    tracks = track_faces(detections, seconds=info.seconds, plan=plan, shots=())
    assert len(tracks) == people
    for track in tracks:
        bridged = bridge_gaps(track, seconds=info.seconds, plan=plan)
        assert len(bridged.indices) >= 0.98 * info.frame_count
