from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabilizers import Interval, intervals_from_indices, measured_positions
from vidinvert.inversion import APART


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 2), (-1, 5)])
def test_an_interval_holds_at_least_one_position(start, stop):
    with pytest.raises(ValueError, match="expected 0 <= start < stop"):
        Interval(start, stop)


def test_length_and_membership_are_half_open():
    assert len(Interval(2, 5)) == 3
    assert [i for i in range(8) if i in Interval(2, 5)] == [2, 3, 4]


def test_no_indices_have_no_intervals():
    assert intervals_from_indices(np.array([], dtype=np.int64)) == ()


@pytest.mark.parametrize("indices", [[3, 3, 4], [5, 4], [[1, 2], [3, 4]]])
def test_indices_must_increase(indices):
    with pytest.raises(ValueError, match="strictly increasing"):
        intervals_from_indices(np.array(indices))


def test_a_shot_that_starts_inside_a_gap_does_not_split_twice():
    indices = np.array([0, 1, 7, 8])
    assert intervals_from_indices(indices, cuts=[Interval(0, 4), Interval(4, 9)]) == (
        Interval(0, 2),
        Interval(2, 4),
    )


@pytest.mark.promise(6)
@given(st.sets(st.integers(0, 60), min_size=1), st.sets(st.integers(1, 60)))
def test_runs_are_unbroken_cover_everything_and_cross_no_cut(frames, edges):
    indices = np.array(sorted(frames))
    bounds = [0, *sorted(edges), 61]
    shots = [Interval(a, b) for a, b in pairwise(bounds) if a < b]

    runs = intervals_from_indices(indices, cuts=shots)

    assert [p for run in runs for p in range(run.start, run.stop)] == list(range(len(indices)))
    for run in runs:
        frames_of_run = indices[run.start : run.stop]
        assert np.all(np.diff(frames_of_run) == 1)
        assert sum(any(f in shot for f in frames_of_run) for shot in shots) == 1
    for before, after in pairwise(runs):
        last, first = indices[before.stop - 1], indices[after.start]
        same_shot = any(last in shot and first in shot for shot in shots)
        assert first - last > 1 or not same_shot


@given(
    steps=st.lists(st.floats(0.01, 0.2), min_size=1, max_size=30),
    apart=st.floats(0.0, 0.3),
    cut=st.integers(0, 30),
)
def test_what_is_not_measured_lies_between_measured_ones_that_are_near(steps, apart, cut):
    seconds = np.cumsum(steps)
    count = len(seconds)
    cut = min(cut, count - 1)
    runs = [Interval(0, cut), Interval(cut, count)] if cut else [Interval(0, count)]
    chosen = measured_positions(seconds, runs, apart_seconds=apart)
    for run in runs:
        known = run.start + np.flatnonzero(chosen[run.start : run.stop])
        assert (known[0], known[-1]) == (run.start, run.stop - 1)
        for before, after in pairwise(known):
            assert after == before + 1 or seconds[after] - seconds[before] <= apart + 1e-5
            if after < known[-1]:  # no farther one would do
                assert seconds[after + 1] - seconds[before] > apart


@pytest.mark.parametrize(
    ("rate", "every"), [(24000 / 1001, 3), (24, 3), (25, 3), (30000 / 1001, 3), (30, 3), (60, 7)]
)
def test_an_eighth_of_a_second_is_as_many_frames_as_the_rate_makes_it(rate, every):
    seconds = 7.0 + np.arange(43) / rate
    chosen = measured_positions(seconds, [Interval(0, 43)], apart_seconds=APART)
    assert np.flatnonzero(chosen)[:6].tolist() == [every * k for k in range(6)]
