"""The folder that masks are written to."""

import pytest

from vidinvert.errors import EncodeError
from vidinvert.rendering import make_mask_directory


def test_a_folder_for_masks_is_made_and_an_empty_one_is_taken(tmp_path):
    target = tmp_path / "masks"
    make_mask_directory(target, overwrite=False)
    make_mask_directory(target, overwrite=False)
    assert list(target.iterdir()) == []


def test_a_folder_with_files_is_kept_unless_forced(tmp_path):
    (tmp_path / "precious.png").write_bytes(b"x")
    with pytest.raises(EncodeError, match=r"is not an empty folder, expected a new one.*--force"):
        make_mask_directory(tmp_path, overwrite=False)
    make_mask_directory(tmp_path, overwrite=True)
    assert (tmp_path / "precious.png").read_bytes() == b"x"


def test_a_file_is_never_taken_for_a_folder(tmp_path):
    file = tmp_path / "masks"
    file.write_bytes(b"x")
    with pytest.raises(EncodeError, match="is not an empty folder"):
        make_mask_directory(file, overwrite=False)
    with pytest.raises(EncodeError, match="cannot be made a folder for masks"):
        make_mask_directory(file, overwrite=True)
    assert file.read_bytes() == b"x"


def test_a_folder_in_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EncodeError, match="cannot be made a folder for masks; choose another"):
        make_mask_directory(tmp_path / "a" / "b", overwrite=False)
