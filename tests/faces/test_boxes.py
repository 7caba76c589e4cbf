import numpy as np
import pytest

from vidinvert.faces.boxes import area, overlap


def box(*edges: float) -> np.ndarray:
    return np.array(edges, dtype=np.float64)


def test_the_area_is_width_times_height():
    assert area(box(1, 2, 4, 8)) == 18
    assert area(box(4, 2, 1, 8)) == 0


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (box(0, 0, 4, 4), 1.0),
        (box(2, 0, 6, 4), 1 / 3),
        (box(1, 1, 3, 3), 0.25),
        (box(4, 0, 8, 4), 0.0),
        (box(9, 9, 10, 10), 0.0),
        (box(2, 2, 2, 2), 0.0),
    ],
)
def test_overlap_is_shared_over_total_area(other, shared):
    assert overlap(box(0, 0, 4, 4), other) == pytest.approx(shared)
    assert overlap(other, box(0, 0, 4, 4)) == pytest.approx(shared)


def test_empty_boxes_do_not_overlap():
    assert overlap(box(1, 1, 1, 1), box(1, 1, 1, 1)) == 0.0
