import numpy as np
import pytest

from tests.faces.people import face, person
from vidinvert.errors import NoFaceError, PlanError
from vidinvert.faces import select_tracks
from vidinvert.types import FaceTrack


def track(number: int, *, size: float, count: int, identity: np.ndarray | None = None) -> FaceTrack:
    faces = [face(t, (200, 200), size=size) for t in range(count)]
    return FaceTrack(
        track_id=number,
        indices=np.arange(count, dtype=np.int64),
        landmarks_xy=np.stack([seen.landmarks_xy for seen in faces]),
        boxes_xyxy=np.stack([seen.box_xyxy for seen in faces]),
        score=np.full(count, 0.9),
        identity=identity,
    )


TRACKS = (
    track(0, size=100, count=9, identity=person(0)),
    track(1, size=200, count=2, identity=person(1)),
    track(2, size=50, count=9),
)


def ids(tracks) -> list[int]:
    return [chosen.track_id for chosen in tracks]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [("all", [0, 1, 2]), ("largest", [0]), ("1", [1]), ("2,0", [0, 2]), ("1, 1", [1])],
)
def test_tracks_are_chosen_by_word_and_number(selector, chosen):
    assert ids(select_tracks(TRACKS, selector)) == chosen


@pytest.mark.parametrize("selector", ["all", "largest"])
def test_a_clip_without_faces_has_none_to_choose(selector):
    assert select_tracks((), selector) == ()


def test_a_number_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(PlanError, match=r"no face 7 in the clip; its faces are: 0, 1, 2\. Choose"):
        select_tracks(TRACKS, "0,7")
    with pytest.raises(PlanError, match="its faces are: none"):
        select_tracks((), "0")


def test_a_photo_needs_a_recognition_model():
    with pytest.raises(PlanError, match="needs a recognition model"):
        select_tracks(TRACKS, "anna.jpg")


def test_a_photo_chooses_the_person_it_shows():
    assert ids(select_tracks(TRACKS, "anna.jpg", reference=person(1))) == [1]


def test_a_photo_of_somebody_else_chooses_nobody():
    with pytest.raises(NoFaceError, match=r"Nobody in the clip looks like .* similarity 0\.00"):
        select_tracks(TRACKS, "anna.jpg", reference=person(9))
