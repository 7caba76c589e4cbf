import numpy as np
import pytest

from stabilizers import Interval
from tests.faces.people import clip, face, person, seconds
from vidinvert.faces import bridge_gaps, track_faces
from vidinvert.types import TrackingPlan

PLAN = TrackingPlan()


def follow(detections, *, rate=25.0, plan=PLAN, shots=()):
    times = seconds(len(detections), rate)
    return track_faces(detections, seconds=times, plan=plan, shots=shots)


def centres_x(track) -> np.ndarray:
    return (track.boxes_xyxy[:, 0] + track.boxes_xyxy[:, 2]) / 2


def test_one_face_is_one_track():
    (track,) = follow(clip(30, lambda t: face(t, (200 + 2 * t, 150))))
    assert track.track_id == 0
    assert track.indices.tolist() == list(range(30))
    np.testing.assert_allclose(centres_x(track), 200 + 2 * np.arange(30))
    np.testing.assert_allclose(track.score, 0.8)


@pytest.mark.promise(6)
def test_no_face_is_no_track():
    assert follow([[], [], []]) == ()
    assert follow([]) == ()


def test_two_people_side_by_side_stay_themselves_whatever_the_order_of_detections():
    frames = clip(40, lambda t: face(t, (200, 150)), lambda t: face(t, (305, 150), size=96))
    frames = [faces[::-1] if t % 3 else faces for t, faces in enumerate(frames)]
    left, right = follow(frames)
    assert set(centres_x(left)) == {200.0}
    assert set(centres_x(right)) == {305.0}


@pytest.mark.parametrize("speed", [4.0, 12.0, 30.0])
@pytest.mark.parametrize("rate", [25.0, 60.0])
def test_two_people_who_cross_do_not_swap(speed, rate):
    step = speed * 25 / rate
    count = int(600 / step)
    frames = clip(
        count,
        lambda t: face(t, (100 + step * t, 150)),
        lambda t: face(t, (700 - step * t, 160), size=90),
    )
    tracks = follow(frames, rate=rate)
    assert len(tracks) == 2
    for track in tracks:
        assert len(track.indices) == count
        steps = np.diff(centres_x(track))
        assert (steps > 0).all() or (steps < 0).all()


def test_two_people_who_cross_do_not_swap_while_one_hides_the_other():
    def hidden(t: int):
        x = 640 - 9 * t
        return None if abs(x - (100 + 9 * t)) < 80 else face(t, (x, 155), size=88)

    frames = clip(60, lambda t: face(t, (100 + 9 * t, 150)), hidden)
    tracks = follow(frames)
    assert len(tracks) == 2
    for track in tracks:
        steps = np.diff(centres_x(track))
        assert (steps > 0).all() or (steps < 0).all()


def test_jittering_detections_of_neighbours_do_not_swap():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, (80, 2, 2))
    frames = clip(
        80,
        lambda t: face(t, (200 + noise[t, 0, 0], 150 + noise[t, 0, 1])),
        lambda t: face(t, (290 + noise[t, 1, 0], 150 + noise[t, 1, 1]), size=98),
    )
    tracks = follow(frames)
    assert [len(track.indices) for track in tracks] == [80, 80]
    means = sorted(centres_x(track).mean() for track in tracks)
    assert means == pytest.approx([200, 290], abs=3)


def test_a_short_gap_stays_one_track_and_is_bridged():
    frames = clip(40, lambda t: None if 15 <= t < 25 else face(t, (100 + 3 * t, 150)))
    (track,) = follow(frames)
    assert len(track.indices) == 30
    bridged = bridge_gaps(track, seconds=seconds(40), plan=PLAN)
    assert bridged.indices.tolist() == list(range(40))
    np.testing.assert_allclose(centres_x(bridged), 100 + 3 * np.arange(40))
    np.testing.assert_array_equal(bridged.score == 0, (np.arange(40) >= 15) & (np.arange(40) < 25))
    expected = face(20, (160, 150)).landmarks_xy
    np.testing.assert_allclose(bridged.landmarks_xy[20], expected, atol=1e-9)


def test_gaps_are_bridged_by_time_not_by_frame():
    frames = clip(4, lambda t: None if t in (1, 2) else face(t, (100 + 90 * (t == 3), 150)))
    times = np.array([0.0, 0.3, 0.4, 0.5])
    (track,) = track_faces(frames, seconds=times, plan=PLAN, shots=())
    bridged = bridge_gaps(track, seconds=times, plan=PLAN)
    np.testing.assert_allclose(centres_x(bridged), [100, 154, 172, 190])


def test_a_long_absence_starts_a_new_track():
    frames = clip(100, lambda t: None if 30 <= t < 60 else face(t, (200, 150)))
    tracks = follow(frames)
    assert [len(track.indices) for track in tracks] == [40, 30]
    assert len(follow(frames, plan=TrackingPlan(max_gap_seconds=2.0))) == 1


@pytest.mark.promise(6)
def test_long_gaps_and_cuts_are_not_bridged():
    frames = clip(40, lambda t: None if 15 <= t < 25 else face(t, (200, 150)))
    (track,) = follow(frames)
    cut = [Interval(0, 20), Interval(20, 40)]
    assert bridge_gaps(track, seconds=seconds(40), plan=PLAN, shots=cut) is track
    short = TrackingPlan(max_gap_seconds=0.2)
    assert bridge_gaps(track, seconds=seconds(40), plan=short) is track


def test_a_lost_track_does_not_take_the_face_of_a_neighbour():
    frames = clip(
        50,
        lambda t: face(t, (200, 150)) if t < 20 else None,
        lambda t: face(t, (310, 150)) if t >= 22 else None,
    )
    tracks = follow(frames)
    assert sorted(len(track.indices) for track in tracks) == [20, 28]


def test_a_face_that_stays_in_place_survives_a_false_cut():
    frames = clip(50, lambda t: face(t, (200 + t, 150)))
    (track,) = follow(frames, shots=[Interval(0, 25), Interval(25, 50)])
    assert len(track.indices) == 50


@pytest.mark.promise(6)
def test_a_face_that_is_elsewhere_after_a_cut_is_a_new_track():
    frames = clip(50, lambda t: face(t, (200 if t < 25 else 240, 150)))
    assert len(follow(frames)) == 1
    tracks = follow(frames, shots=[Interval(0, 25), Interval(25, 50)])
    assert [len(track.indices) for track in tracks] == [25, 25]


def test_another_person_in_the_same_place_after_a_cut_is_a_new_track_when_identities_are_known():
    frames = clip(50, lambda t: face(t, (200, 150), identity=person(0 if t < 25 else 1)))
    assert len(follow(frames, shots=[Interval(0, 25), Interval(25, 50)])) == 2


def test_a_person_who_comes_back_is_the_same_track_when_identities_are_known():
    def host(t: int):
        return face(t, (200, 150), identity=person(0)) if not 30 <= t < 70 else None

    def guest(t: int):
        return face(t, (420, 150), identity=person(1)) if 30 <= t < 70 else None

    shots = [Interval(0, 30), Interval(30, 70), Interval(70, 100)]
    tracks = follow(clip(100, host, guest), shots=shots)
    assert [len(track.indices) for track in tracks] == [60, 40]
    np.testing.assert_allclose(tracks[0].identity, person(0), atol=1e-6)


def test_identities_keep_people_apart_who_meet_and_turn_back():
    def bounce(t: int, start: float, direction: int) -> float:
        return start + direction * 6 * (t if t < 25 else 50 - t)

    frames = clip(
        50,
        lambda t: face(t, (bounce(t, 100, 1), 150), identity=person(3)),
        lambda t: face(t, (bounce(t, 404, -1), 150), identity=person(4)),
    )
    tracks = follow(frames)
    assert sorted(centres_x(track)[-1] for track in tracks) == pytest.approx([106, 398])
    assert [len(track.indices) for track in tracks] == [50, 50]


def test_flickering_false_alarms_are_dropped():
    frames = clip(
        80,
        lambda t: face(t, (300, 200)),
        lambda t: face(t, (600, 80), size=40, score=0.53) if t % 5 == 0 else None,
        lambda t: face(t, (80, 400), size=150, score=0.55) if t in (40, 41) else None,
    )
    (track,) = follow(frames)
    assert centres_x(track)[0] == 300


def test_a_face_that_is_briefly_seen_but_clearly_is_kept():
    frames = clip(
        80,
        lambda t: face(t, (300, 200)),
        lambda t: face(t, (600, 200), score=0.8) if 30 <= t < 38 else None,
    )
    assert len(follow(frames)) == 2


def test_a_weak_face_that_is_always_there_is_kept():
    (track,) = follow(clip(40, lambda t: face(t, (300, 200), score=0.52)))
    assert len(track.indices) == 40


def test_short_tracks_are_dropped_unless_the_clip_is_short():
    frames = clip(50, lambda t: face(t, (300, 200)) if t < 3 else None)
    assert follow(frames) == ()
    (track,) = follow(frames[:3])
    assert len(track.indices) == 3
    (still,) = follow(frames[:1])
    assert len(still.indices) == 1


def test_track_0_is_the_most_prominent():
    frames = clip(
        60,
        lambda t: face(t, (150, 200), size=60),
        lambda t: face(t, (400, 200), size=120),
        lambda t: face(t, (650, 200), size=150) if t < 10 else None,
    )
    assert [round(centres_x(track)[0]) for track in follow(frames)] == [400, 650, 150]


def test_a_clip_that_does_not_start_at_frame_0_keeps_its_indices():
    frames = clip(40, lambda t: face(t, (200, 150)) if t >= 12 else None)[10:]
    (track,) = track_faces(frames, seconds=seconds(40), plan=PLAN, shots=())
    assert track.indices.tolist() == list(range(12, 40))


def test_the_frame_rate_does_not_matter():
    """The same second at 12 and at 60 frames a second: one track each."""
    for rate in (12.0, 60.0):
        count = int(rate)
        frames = clip(count, lambda t, rate=rate: face(t, (100 + 300 * t / rate, 150)))
        assert len(follow(frames, rate=rate)) == 1


def test_detections_must_lie_in_their_frames():
    frames = clip(4, lambda t: face(t, (200, 150)))
    with pytest.raises(ValueError, match="one sequence per frame"):
        follow([frames[0], frames[2], frames[1]])


def test_every_frame_needs_its_time():
    frames = clip(4, lambda t: face(t, (200, 150)))
    with pytest.raises(ValueError, match="one time per frame"):
        track_faces(frames, seconds=seconds(3), plan=PLAN, shots=())
