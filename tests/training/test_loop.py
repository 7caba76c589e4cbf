import csv
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from tests.training.tiny import snapshot
from vidinvert.errors import PlanError
from vidinvert.training.data import generator_at
from vidinvert.training.loop import Schedule, channels_last, tile, train

SCHEDULE = Schedule(images=40, batch_size=4, warmup_images=12, ema_images=16, save_seconds=1e9)
ALWAYS_SAVED = Schedule(images=40, batch_size=4, warmup_images=12, ema_images=16, save_seconds=-1.0)


class Line:
    """Fit a noisy line; every draw depends on the seed and the pictures seen alone."""

    def __init__(self, *, stop_at=None, broken_at=None):
        torch.manual_seed(0)
        self.modules = {"line": nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))}
        self.averaged = {"line": nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))}
        self.averaged["line"].load_state_dict(self.modules["line"].state_dict())
        parameters = self.modules["line"].parameters()
        self.optimizers = {"adam": torch.optim.Adam(parameters, lr=0.02)}
        self.stop_at, self.broken_at, self.rates = stop_at, broken_at, []

    def step(self, images_seen, batch_size, share):
        if images_seen == self.stop_at:
            raise KeyboardInterrupt
        self.rates.append(self.optimizers["adam"].param_groups[0]["lr"])
        rng = generator_at(7, images_seen)
        x = torch.from_numpy(rng.standard_normal((batch_size, 3)).astype(np.float32))
        target = x.sum(dim=1, keepdim=True) + float(rng.normal())
        loss = (self.modules["line"](x) - target).square().mean()
        self.optimizers["adam"].zero_grad()
        loss.backward()
        self.optimizers["adam"].step()
        values = {"loss": loss.item(), "seen": float(images_seen)}
        return {**values, "loss": float("nan")} if images_seen == self.broken_at else values

    def sheet(self):
        picture = np.zeros((6, 8, 3), np.uint8)
        picture[..., 0] = 200  # red
        return picture


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken = Line()
    assert train(unbroken, SCHEDULE, tmp_path / "unbroken") == 40
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=20), ALWAYS_SAVED, tmp_path / "resumed")
    resumed = Line()
    assert train(resumed, SCHEDULE, tmp_path / "resumed") == 40
    assert len(resumed.rates) == 5
    assert resumed.rates == unbroken.rates[5:]
    for kind in ("modules", "averaged"):
        expected = snapshot(getattr(unbroken, kind)["line"])
        for name, value in getattr(resumed, kind)["line"].state_dict().items():
            assert torch.equal(value, expected[name]), name


def test_a_finished_run_is_not_trained_further(tmp_path):
    train(Line(), SCHEDULE, tmp_path)
    again = Line()
    assert train(again, SCHEDULE, tmp_path) == 40
    assert again.rates == []


def test_the_rate_warms_up_stays_and_falls_to_a_hundredth():
    schedule = Schedule(images=1000, batch_size=10, warmup_images=100, decay_from=0.5)
    assert schedule.rate_at(0, 0.0) == pytest.approx(0.1)
    assert schedule.rate_at(40, 0.04) == pytest.approx(0.5)
    assert schedule.rate_at(90, 0.09) == schedule.rate_at(490, 0.49) == 1.0
    assert schedule.rate_at(750, 0.75) == pytest.approx(0.01 + 0.99 / 2)
    assert schedule.rate_at(1000, 1.0) == schedule.rate_at(2000, 2.0) == pytest.approx(0.01)
    rates = [schedule.rate_at(500 + n, 0.5 + n / 1000) for n in range(500)]
    assert all(a > b for a, b in pairwise(rates[1:]))


def test_the_steps_use_the_scheduled_rate(tmp_path):
    recipe = Line()
    train(recipe, SCHEDULE, tmp_path)
    expected = [0.02 * SCHEDULE.rate_at(seen, seen / 40) for seen in range(0, 40, 4)]
    assert recipe.rates == pytest.approx(expected)


def test_the_average_forgets_half_of_itself_in_a_half_life():
    schedule = Schedule(images=100_000, batch_size=10, ema_images=1_000)
    assert schedule.ema_decay_at(50_000) ** 100 == pytest.approx(0.5)
    assert schedule.ema_decay_at(2_000) ** 10 == pytest.approx(0.5)  # a twentieth of those seen
    assert schedule.ema_decay_at(10) < 1e-2  # and the very first steps are forgotten at once


def test_averages_lie_between_the_old_and_the_new_weights_and_buffers_are_copied(tmp_path):
    recipe = Line()
    start = snapshot(recipe.modules["line"])
    once = Schedule(images=4, batch_size=4, ema_images=8, warmup_images=1)
    train(recipe, once, tmp_path)
    end, average = recipe.modules["line"].state_dict(), recipe.averaged["line"].state_dict()
    decay = once.ema_decay_at(4)
    torch.testing.assert_close(
        average["0.weight"], decay * start["0.weight"] + (1 - decay) * end["0.weight"]
    )
    assert torch.equal(average["1.running_mean"], end["1.running_mean"])
    assert average["1.num_batches_tracked"] == 1


def test_metrics_are_averaged_and_the_sheet_is_drawn(tmp_path):
    told = []
    train(Line(), SCHEDULE, tmp_path, progress=lambda seen, total, values: told.append(seen))
    assert told == list(range(4, 44, 4))
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["metric"] for row in rows] == ["loss", "seen"]
    assert float(rows[1]["mean"]) == 18.0
    assert {row["images"] for row in rows} == {"40"}
    sheet = cv2.imread(str(tmp_path / "sheet_00000040.png"))
    assert sheet[0, 0].tolist() == [0, 0, 200]  # OpenCV reads BGR
    assert not list(tmp_path.glob("*.partial"))


def test_metrics_of_every_save_are_kept_under_one_header(tmp_path):
    train(Line(), ALWAYS_SAVED, tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 10
    assert sum(line.startswith("images") for line in lines) == 1
    assert len(list(tmp_path.glob("sheet_*.png"))) == 10


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(PlanError, match=r"loss became nan after 8 images.* lower learning rate"):
        train(Line(broken_at=8), ALWAYS_SAVED, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["images"] == 8


def test_the_clock_ends_a_run_early_and_time_spent_before_counts(tmp_path, monkeypatch):
    ticks = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr("vidinvert.training.loop.time", clock)
    schedule = Schedule(
        images=4000, batch_size=4, warmup_images=1, max_seconds=20.0, save_seconds=1e9
    )
    recipe = Line()
    seen = train(recipe, schedule, tmp_path)
    assert 28 <= seen < 80
    assert recipe.rates[-1] < 0.3 * recipe.rates[0]  # the decay follows the clock
    assert train(Line(), schedule, tmp_path) == seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 3, "batch_size": 4}, r"images is 3, expected at least batch_size \(4\)"),
        ({"images": 9, "batch_size": 1, "decay_from": 1.0}, "decay_from is 1.0, expected a share"),
        ({"images": 9, "batch_size": 1, "decay_from": -0.1}, "decay_from is -0.1, expected a"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


def test_pictures_are_tiled_row_by_row():
    black, white = torch.full((3, 2, 4), -1.0), torch.full((3, 2, 4), 3.0)
    grid = tile([[black, white], [white, black]])
    assert grid.shape == (4, 8, 3)
    assert grid[:2, :4].max() == grid[2:, 4:].max() == 0
    assert grid[:2, 4:].min() == grid[2:, :4].min() == 255


def test_channels_last_changes_the_layout_and_no_value():
    network = nn.Conv2d(4, 6, 3)
    before = snapshot(network)
    assert channels_last(network) is network
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.weight, before["weight"])
