import numpy as np
import pytest

from tests.training.faces import drawn_crop
from vidinvert.training.occluders import DRAWINGS, plant

SIZE = 128


@pytest.mark.parametrize("draw", sorted(set(DRAWINGS), key=lambda draw: draw.__name__))
def test_every_drawing_draws_something_and_leaves_something(draw):
    for seed in range(12):
        colours, opacity = draw(SIZE, np.random.default_rng(seed))
        assert colours.shape == (SIZE, SIZE, 3)
        assert opacity.shape == (SIZE, SIZE)
        assert colours.dtype == opacity.dtype == np.float32
        assert np.isfinite(colours).all()
        assert opacity.min() == 0.0
        assert 0.5 < opacity.max() <= 1.0
        assert 0.001 < opacity.mean() < 0.9


def test_the_picture_is_unchanged_where_the_mask_is_zero():
    picture = drawn_crop(0)
    before = picture.copy()
    for seed in range(10):
        covered, mask = plant(picture, np.random.default_rng(seed))
        assert covered.shape == picture.shape
        assert covered.dtype == np.uint8
        assert mask.shape == picture.shape[:2]
        assert mask.dtype == np.float32
        assert mask.min() == 0.0
        assert 0.0 < mask.max() <= 1.0 + 1e-6
        np.testing.assert_array_equal(covered[mask == 0], picture[mask == 0])
        assert np.any(covered != picture)
    np.testing.assert_array_equal(picture, before)


def test_what_is_planted_depends_on_the_random_numbers_alone():
    first, again = (plant(drawn_crop(0), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
