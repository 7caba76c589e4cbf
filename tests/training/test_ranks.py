"""Processes that train together take the step that one process would take on all their pictures."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from tests.training.test_loop import Line
from vidinvert.training import ranks
from vidinvert.training.loop import Schedule, train

SCHEDULE = Schedule(images=48, batch_size=4, warmup_images=12, ema_images=16, save_seconds=-1.0)


def join(rank: int, directory: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{directory / 'meeting'}", rank=rank, world_size=2
    )


def run_line(rank: int, directory: Path, stop_at: int | None) -> None:
    """Train as one of two, and keep the weights and what was drawn."""
    torch.set_num_threads(1)
    join(rank, directory)
    line = Line(stop_at=None if stop_at is None else stop_at + 4 * rank)
    drawn: list[int] = []
    take = line.step
    line.step = lambda seen, size, share: (drawn.append(seen), take(seen, size, share))[1]
    try:
        train(line, SCHEDULE, directory)
    except KeyboardInterrupt:
        pass
    state = {f"{k}.{name}": v for k in ("modules", "averaged")
             for name, v in getattr(line, k)["line"].state_dict().items()}  # fmt: skip
    torch.save({"state": state, "drawn": drawn}, directory / f"rank{rank}.pt")
    distributed.destroy_process_group()


def run_pair(directory: Path, *, stop_at: int | None = None) -> list[dict]:
    directory.mkdir(exist_ok=True)
    (directory / "meeting").unlink(missing_ok=True)
    multiprocessing.spawn(run_line, args=(directory, stop_at), nprocs=2)
    return [torch.load(directory / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


@pytest.mark.slow
def test_two_processes_stay_equal_share_the_pictures_and_resume_bit_for_bit(tmp_path):
    first, second = run_pair(tmp_path / "unbroken")
    assert first["drawn"] == list(range(0, 48, 8))
    assert second["drawn"] == list(range(4, 48, 8))
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    run_pair(tmp_path / "resumed", stop_at=24)
    for name, value in run_pair(tmp_path / "resumed")[0]["state"].items():
        assert torch.equal(value, first["state"][name]), name
    assert (tmp_path / "unbroken" / "metrics.csv").read_text().count("loss") == 6


def run_average(rank: int, directory: Path) -> None:
    join(rank, directory)
    weight = torch.nn.Parameter(torch.ones(3))
    spare = torch.nn.Parameter(torch.ones(2))  # has a gradient on one rank only
    optimizer = torch.optim.SGD([weight, spare], lr=1.0)
    with ranks.averaged_gradients({"sgd": optimizer}):
        loss = (weight * (1.0 + rank)).sum() + (spare.sum() if rank else 0.0)
        loss.backward()
        optimizer.step()
    assert weight.tolist() == [-0.5] * 3  # 1 - (1 + 2) / 2
    assert spare.tolist() == [0.5] * 2  # 1 - (0 + 1) / 2
    assert ranks.agree(7.0 + rank, torch.device("cpu")) == 7.0
    with ranks.first_goes_first():
        if rank == 0:
            (directory / "left").write_text("by the first")
        assert (directory / "left").read_text() == "by the first"
    weight.grad = None
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(float(rank))
    ranks.average_buffers({"norm": norm})
    assert norm.running_mean.tolist() == [0.5, 0.5]
    distributed.destroy_process_group()


@pytest.mark.slow
def test_gradients_statistics_and_the_clock_are_shared(tmp_path):
    multiprocessing.spawn(run_average, args=(tmp_path,), nprocs=2)
    assert (tmp_path / "left").is_file()


def test_alone_nothing_is_shared():
    assert (ranks.count(), ranks.number()) == (1, 0)
    assert ranks.agree(3.0, torch.device("cpu")) == 3.0
    weight = torch.nn.Parameter(torch.ones(1))
    with (
        ranks.averaged_gradients({"sgd": torch.optim.SGD([weight], lr=1.0)}),
        ranks.first_goes_first(),
    ):
        ranks.wait()
    tensors = [torch.ones(2)]
    ranks.average(tensors)
    assert tensors[0].tolist() == [1.0, 1.0]
