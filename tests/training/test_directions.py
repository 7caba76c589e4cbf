from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.tiny import face_set
from vidinvert.training.directions import (
    LANDMARK_ATTRIBUTES,
    find_landmarks,
    fit_directions,
    follow_series,
    measure_faces,
    predict_ratings,
    read_ratings,
    series_direction,
    series_ends,
    series_length,
    shrink,
)

SHAPE = (2, 6)


def planted(count=600, seed=0):
    """Codes that move along known directions with two attributes, which go together."""
    rng = np.random.default_rng(seed)
    smile = rng.standard_normal(count)
    age = 0.7 * smile + 0.7 * rng.standard_normal(count)
    vectors = rng.standard_normal((2, 12))
    codes = np.stack([smile, age], axis=1) @ vectors + 0.1 * rng.standard_normal((count, 12))
    attributes = {"smile": 40 + 5 * smile, "age": 30 + 12 * age, "light": rng.random(count)}
    return codes, attributes, vectors * np.array([[smile.std()], [age.std()]])


def fitted(names=("smile", "age")):
    codes, attributes, vectors = planted()
    groups = np.arange(len(codes))
    found = fit_directions(codes, attributes, names, shape=SHAPE, source="made up", groups=groups)
    return found, vectors


def test_planted_directions_are_recovered_although_their_attributes_go_together():
    found, vectors = fitted()
    for name, expected in zip(("smile", "age"), vectors, strict=True):
        vector = found[name].direction.vector
        assert vector.dtype == torch.float32
        np.testing.assert_allclose(vector.numpy().reshape(-1), expected, atol=0.05)
        assert found[name].correlation > 0.95


def test_a_direction_says_what_it_is():
    found, _ = fitted(names=("smile",))
    assert list(found) == ["smile"]
    direction = found["smile"].direction
    assert (direction.name, direction.layers) == ("smile", (0, 1))
    assert direction.source == "made up"
    assert "standard deviation" in direction.unit


def test_an_attribute_that_codes_do_not_hold_is_read_out_badly():
    codes, attributes, _ = planted()
    found = fit_directions(
        codes, attributes, ["light"], shape=SHAPE, source="x", groups=np.arange(len(codes))
    )
    assert abs(found["light"].correlation) < 0.4


def rated_faces(count=60):
    """Faces and two versions of their codes; the rating is linear in the codes."""
    faces = face_set(train=count, val=0, size=16)
    rng = np.random.default_rng(2)
    codes = rng.standard_normal((2 * count, 5))
    slope = np.array([3.0, -2.0, 0.0, 1.0, 0.0])
    codes[count:, 0], codes[count:, 1:] = codes[:count, 0], codes[:count, 1:]
    values = 50 + codes[:count] @ slope
    ratings = {f"{n}.png": {"age": value} for n, value in enumerate(values.tolist())}
    return faces, codes, ratings, values


def test_a_linear_rating_is_recovered_on_faces_that_were_not_rated():
    faces, codes, ratings, values = rated_faces()
    known = {name: rating for n, (name, rating) in enumerate(ratings.items()) if n % 3}
    predicted, correlation = predict_ratings(codes, faces, faces.rows("train"), known, "age")
    assert correlation > 0.99
    assert predicted.shape == (120,)
    np.testing.assert_allclose(predicted[:60], values, atol=1.0)
    np.testing.assert_allclose(predicted[60:], predicted[:60])


def test_ratings_of_other_sets_do_not_count():
    faces, codes, ratings, _ = rated_faces()
    foreign = ("other/0.png", *faces.files[1:])
    moved = type(faces)(
        images=faces.images,
        split=faces.split,
        source=faces.source,
        files=foreign,
        yaw=faces.yaw,
    )
    wrong = {**ratings, "0.png": {"age": 1e6}}
    predicted, _ = predict_ratings(codes, moved, moved.rows("train"), wrong, "age")
    assert predicted.max() < 100


def test_ratings_are_read_by_file_and_name(tmp_path):
    table = tmp_path / "ratings.csv"
    table.write_text("file,age,gender,extra\na.png,31.5,2,x\nb.png,60,99,y\n")
    expected = {"a.png": {"age": 31.5, "gender": 2.0}, "b.png": {"age": 60.0, "gender": 99.0}}
    assert read_ratings(table, ["age", "gender"]) == expected


def test_ratings_whose_scale_runs_the_other_way_are_turned_and_absent_ones_left_out(tmp_path):
    table = tmp_path / "ratings.csv"
    table.write_text("file,hair_color\na.png,80\n")
    assert read_ratings(table, ["hair_brightness", "age"]) == {"a.png": {"hair_brightness": 20.0}}


def test_coefficients_that_chance_explains_vanish_and_large_ones_stay():
    errors = np.full((1, 4), 0.1)
    shrunk = shrink(np.array([[0.1, -0.2, 10.0, 0.0]]), errors)
    np.testing.assert_allclose(shrunk, [[0.0, 0.0, 9.996, 0.0]], atol=1e-9)


class CentreNetwork:
    """Finds every landmark at the brightest place of a picture, spread a little."""

    spread = np.random.default_rng(0).normal(0, 3, (68, 2))

    def __call__(self, crops):
        brightness = crops.sum(axis=-1).reshape(len(crops), -1).argmax(axis=1)
        y, x = np.divmod(brightness, crops.shape[2])
        return np.stack([x, y], axis=1)[:, None].astype(float) + self.spread


def test_landmarks_are_found_in_the_order_of_the_rows():
    faces = face_set(train=20, val=0, size=16)
    rows = np.arange(19, 1, -1)
    found = find_landmarks(faces, rows, CentreNetwork())
    np.testing.assert_array_equal(found, CentreNetwork()(faces.images[rows]))


@pytest.fixture(scope="module")
def measured():
    faces = face_set(train=5, val=0, size=64)
    landmarks = 32 + 10 * np.random.default_rng(1).standard_normal((5, 68, 2))
    return measure_faces(faces, faces.rows("train"), landmarks)


def test_pictures_are_measured_and_then_their_mirror_images(measured):
    assert set(LANDMARK_ATTRIBUTES) < set(measured)
    assert {values.shape for values in measured.values()} == {(10,)}
    for name in ("smile", "mouth_open", "eyes_open", "eye_distance", "eye_y", "pitch"):
        np.testing.assert_allclose(measured[name][5:], measured[name][:5], err_msg=name)
    for name in ("yaw", "side_light", "roll"):
        np.testing.assert_allclose(measured[name][5:], -measured[name][:5], atol=1e-12)
    np.testing.assert_allclose(measured["eye_x"][5:], 63 - measured["eye_x"][:5])


def test_light_of_the_face_and_the_background_is_in_zero_to_one(measured):
    for name in ("face_light", "back_light"):
        assert measured[name].min() >= 0.0
        assert measured[name].max() <= 1.0
        np.testing.assert_allclose(measured[name][5:], measured[name][:5])


def test_series_say_how_one_person_changes():
    """Twelve people at three ages: codes follow age in one column, and are noise elsewhere."""
    rng = np.random.default_rng(0)
    people, levels = 12, 3
    count = people * levels
    age = np.tile(np.arange(levels) - 1.0, people) + np.repeat(rng.normal(0, 0.5, people), levels)
    codes = rng.normal(0, 0.3, (2 * count, 6))
    codes[:, 2] += 0.8 * np.tile(age, 2)
    faces = replace(
        face_set(train=1, val=0, size=8),
        series=tuple(f"{p}:age:{level}" for p in range(people) for level in range(levels)),
    )
    standard = np.tile(age, 2)
    found = series_direction(codes, faces, np.arange(count), "age", standard)
    assert found is not None
    assert found[2] == pytest.approx(0.8, abs=0.15)
    assert np.abs(np.delete(found, 2)).max() < 0.2
    assert series_direction(codes, faces, np.arange(count), "weight", standard) is None
    few = replace(faces, series=faces.series[:6])
    assert series_direction(codes[:12], few, np.arange(6), "age", standard[:12]) is None


def test_series_alone_make_a_direction_where_ratings_found_none():
    """Ten people twice, `weight` growing along a column of codes; ratings told nothing of it."""
    rng = np.random.default_rng(1)
    people = 10
    weight = np.tile([0.0, 2.0], people)
    codes = rng.normal(0, 0.1, (2 * people, 6))
    codes[:, 4] += 0.5 * weight
    faces = replace(
        face_set(train=1, val=0, size=8),
        series=tuple(f"{p}:weight:{level}" for p in range(people) for level in range(2)),
    )
    rows = np.arange(2 * people)
    assert series_ends(faces, rows, "weight").tolist() == [[2 * p, 2 * p + 1] for p in range(10)]
    assert series_length(faces, rows, "weight", weight / weight.std()) == pytest.approx(2.0)
    assert series_length(faces, rows, "age", weight) == 0.0
    found = follow_series(
        {},
        codes,
        faces,
        rows,
        {"weight": weight, "age": weight},
        shape=(2, 3),
        correlations={"weight": 0.4, "age": 0.9},
    )
    assert list(found) == ["weight"]
    assert found["weight"].correlation == 0.4
    direction = found["weight"].direction
    assert direction.source.startswith("series of one person")
    assert float(direction.vector[1, 1]) == pytest.approx(0.5, abs=0.1)  # a deviation is 1
    assert (
        follow_series({}, codes, faces, rows, {"weight": weight}, shape=(2, 3), correlations={})
        == {}
    )
