"""The picture that compares the methods: drawn from the sample, and short to read."""

import numpy as np
import pytest

from samples import compare_methods
from tests.shared_data import REPOSITORY
from vidinvert.images import read_picture

COLUMNS = 5


def differs(first, second):
    """Mean difference of two cells in grey levels."""
    return np.abs(first.astype(np.float64) - second).mean()


def test_every_cell_of_a_row_shows_something_of_its_own(tmp_path):
    target = tmp_path / "methods.png"
    rows = compare_methods.main(target, methods=("diffcam",))
    source, inverted, mask, smile, age = rows["diffcam"]
    assert read_picture(target).shape == (
        compare_methods.SIZE + 2 * compare_methods.LABEL,
        COLUMNS * compare_methods.SIZE,
        3,
    )
    assert 2.0 < differs(source, inverted) < 30.0
    assert mask.min() == 0
    assert mask.max() == 255
    for edited in (smile, age):
        assert 1.0 < differs(source, edited) < 30.0
    assert differs(smile, age) > 1.0
    kept = mask.min(axis=2) == 255
    assert np.abs(source[kept].astype(np.float64) - smile[kept]).mean() < 2.0  # coding alone


@pytest.mark.slow
def test_all_methods_edit_the_sample(tmp_path):
    rows = compare_methods.main(tmp_path / "methods.png")
    assert tuple(rows) == compare_methods.METHODS
    for source, _, _, *edited in rows.values():
        assert min(differs(source, cell) for cell in edited) > 1.0


def test_the_committed_picture_is_of_all_methods_and_small():
    path = REPOSITORY / "samples" / "compare_methods.png"
    picture = read_picture(path)
    rows = compare_methods.SIZE + compare_methods.LABEL
    assert picture.shape[0] == compare_methods.LABEL + rows * len(compare_methods.METHODS)
    assert picture.shape[1] == COLUMNS * compare_methods.SIZE
    assert picture.std() > 40.0
    assert path.stat().st_size < 1_000_000


def test_the_script_stays_short():
    text = (REPOSITORY / "samples" / "compare_methods.py").read_text()
    assert len(text.splitlines()) < 60
