import cv2
import numpy as np
import pytest

from tests.training.faces import drawn_crop
from tests.training.tiny import face_set
from vidinvert.errors import MissingError
from vidinvert.training.data import generator_at, jitter, load_faces, sampling_weights


def write_faces(directory, size=256):
    """Two pictures and their manifest; returns the pictures."""
    (directory / "omi").mkdir()
    pictures = [drawn_crop(seed) for seed in range(2)]
    for index, picture in enumerate(pictures):
        small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(directory / "omi" / f"{index}.png"), small[..., ::-1])
    lines = ["split,set,file,yaw", "train,omi,0.png,0.25", "val,omi,1.png,"]
    (directory / "manifest.csv").write_text("\n".join(lines) + "\n")
    return pictures


def test_faces_are_read_as_the_manifest_lists_them(tmp_path):
    pictures = write_faces(tmp_path)
    faces = load_faces(tmp_path)
    np.testing.assert_array_equal(faces.images, np.stack(pictures))  # RGB
    assert faces.files == ("omi/0.png", "omi/1.png")
    assert faces.rows("train").tolist() == [0]
    assert faces.rows("val").tolist() == [1]
    assert faces.yaw[0] == 0.25
    assert np.isnan(faces.yaw[1])


def test_pictures_of_another_size_are_resized(tmp_path):
    write_faces(tmp_path, size=64)
    assert load_faces(tmp_path, size=32).images.shape == (2, 32, 32, 3)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(MissingError, match=r"has no manifest.csv, expected columns split, set"):
        load_faces(tmp_path)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content):
    write_faces(tmp_path)
    broken = tmp_path / "omi" / "1.png"
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(MissingError, match=r"omi/1.png cannot be read as a picture"):
        load_faces(tmp_path)


def test_the_random_numbers_of_a_batch_depend_on_seed_and_position_alone():
    first = generator_at(3, 160).random(5)
    np.testing.assert_array_equal(generator_at(3, 160).random(5), first)
    assert not np.array_equal(generator_at(3, 176).random(5), first)
    assert not np.array_equal(generator_at(4, 160).random(5), first)


def test_sets_weigh_as_the_square_root_of_their_size():
    faces = face_set(train=10, val=0, size=16)
    faces.source[:] = np.array(["omi"] * 8 + ["few"] * 2)
    weights = sampling_weights(faces, faces.rows("train"))
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:8].sum() / weights[8:].sum() == pytest.approx((8 / 2) ** 0.5)


def test_jitter_is_a_function_of_its_random_numbers_and_leaves_the_picture_alone():
    picture = drawn_crop(0)
    before = picture.copy()
    first = jitter(picture, generator_at(0, 5))
    np.testing.assert_array_equal(jitter(picture, generator_at(0, 5)), first)
    np.testing.assert_array_equal(picture, before)
    assert not np.array_equal(jitter(picture, generator_at(0, 6)), first)
    assert first.shape == picture.shape
    assert first.dtype == np.uint8


def test_jitter_of_no_strength_mirrors_at_most():
    picture = drawn_crop(1)
    seen = [jitter(picture, generator_at(0, n), strength=0.0) for n in range(8)]
    same = [np.array_equal(one, picture) for one in seen]
    mirrored = [np.array_equal(one, picture[:, ::-1]) for one in seen]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)
