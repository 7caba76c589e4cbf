import numpy as np
import pytest

from vidinvert.plots import COLOURS, plot_lines, plot_points


def ink(picture, colour):
    return (np.abs(picture.astype(int) - colour).max(axis=2) < 40).sum()


def test_every_curve_is_drawn_in_its_colour():
    x = np.linspace(0, 2, 50)
    picture = plot_lines(
        {"source": (x, np.sin(x)), "edited": (x, np.cos(x))},
        title="jitter",
        x_label="seconds",
        y_label="",
    )
    assert picture.shape == (360, 900, 3)
    assert picture.dtype == np.uint8
    assert ink(picture, COLOURS[0]) > 200
    assert ink(picture, COLOURS[1]) > 200
    assert ink(picture, COLOURS[2]) == 0


def test_a_rising_curve_rises_in_the_picture():
    x = np.linspace(0, 1, 20)
    picture = plot_lines({"a": (x, 0 * x), "b": (x, x)}, title="", x_label="", y_label="")
    plot = picture[45:300, 100:860]
    rows, columns = np.nonzero(np.abs(plot.astype(int) - COLOURS[1]).max(axis=2) < 40)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99


def test_what_is_not_known_leaves_a_gap():
    x, y = np.linspace(0, 1, 60), np.full(60, 2.0)
    whole = plot_lines({"a": (x, y)}, title="", x_label="", y_label="")
    y[20:40] = np.nan
    gap = plot_lines({"a": (x, y)}, title="", x_label="", y_label="")
    assert ink(gap[50:300], COLOURS[0]) < 0.8 * ink(whole[50:300], COLOURS[0])


@pytest.mark.parametrize("values", [[np.nan] * 4, [1.0] * 4, [], [1e-9, 2e-9, 3e-9, 5e-9]])
def test_unusual_curves_are_no_obstacle(values):
    y = np.array(values, dtype=float)
    picture = plot_lines({"a": (np.arange(len(y)) / 25, y)}, title="", x_label="", y_label="")
    assert picture.min() < 255


def test_points_are_joined_and_named():
    groups = {"gaussian": [(0.0, 1.0, "0.1"), (1.0, 0.5, "0.2")], "median": [(0.5, 0.9, "")]}
    picture = plot_points(groups, title="trade-off", x_label="lag", y_label="jitter")
    assert picture.shape == (520, 900, 3)
    assert ink(picture, COLOURS[0]) > 100
    assert ink(picture, COLOURS[1]) > 20
