"""The same faults, on both engines, each batch in a process of its own."""

import signal

import pytest

from tests.batch.jobs import orders_below, write_source
from tests.batch.test_cluster import finish_all, needs_ray, start, wait_for
from tests.batch.test_supervisor import hashes
from vidinvert.batch.journal import Journal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=needs_ray)]),
]


@pytest.mark.promise(9)
def test_every_bad_clip_is_explained_and_the_others_finish(tmp_path, engine):
    names = ["segfault", "hang", "memory", "bug", "refuse", "segfault-once", "allocate-once"]
    for name in [*names, "fine1", "sub/fine2"]:
        write_source(tmp_path / "in", name)
    output, ledger = tmp_path / "out", tmp_path / "ledger"
    outcomes = finish_all(start(tmp_path / "in", output, engine=engine, ledger=ledger))
    assert outcomes.pop("skipped") == []
    done = {name for name, outcome in outcomes.items() if outcome[0] == "done"}
    assert done == {"fine1.mp4", "sub/fine2.mp4", "segfault-once.mp4", "allocate-once.mp4"}
    assert set(hashes(output)) == done
    said = {name: outcome[1:] for name, outcome in outcomes.items() if name not in done}
    assert said["segfault.mp4"][:2] == ["crash", 2]
    assert said["segfault.mp4"][2].endswith("Segmentation fault.")
    assert said["hang.mp4"][:2] == ["hang", 2]
    assert "no progress for 8 s" in said["hang.mp4"][2]
    assert said["memory.mp4"][:2] == ["memory", 2]
    assert "more than the 300 MB that one may have" in said["memory.mp4"][2]
    assert said["bug.mp4"] == ["crash", 2, "ZeroDivisionError: a mistake in two lines"]
    assert said["refuse.mp4"] == ["error", 1, "refuse is no video"]
    assert outcomes["segfault-once.mp4"][2] == outcomes["allocate-once.mp4"][2] == 2
    logs = [path.read_text() for path in (output / ".vidinvert" / "logs").iterdir()]
    assert any("working on 'segfault'" in log and "Segmentation fault" in log for log in logs)
    check_what_is_done_again(tmp_path, engine, {*outcomes} - done, done)


def check_what_is_done_again(folder, engine, failed, done):
    """Nothing, unless failures are to be tried again: then these, and no more often."""
    output, ledger = folder / "out", folder / "ledger"
    before = hashes(output), ledger.read_text()
    again = finish_all(start(folder / "in", output, engine=engine, ledger=ledger))
    assert set(again["skipped"]) == failed | done
    for name in ("segfault", "hang", "memory"):
        (folder / "in" / name).unlink()
    arguments = ("--retry-failed", "--attempts", "1")
    retried = finish_all(start(folder / "in", output, *arguments, engine=engine, ledger=ledger))
    assert set(retried.pop("skipped")) == done
    assert retried["bug.mp4"][:3] == ["failed", "crash", 1]
    assert retried["refuse.mp4"][:3] == ["failed", "error", 1]
    assert (hashes(output), ledger.read_text()) == before


@pytest.mark.promise(9)
def test_a_clip_that_takes_too_long_is_given_up(tmp_path, engine):
    write_source(tmp_path / "in", "long", steps=40_000)
    limits = ("--clip-seconds", "1", "--attempts", "1")
    outcomes = finish_all(start(tmp_path / "in", tmp_path / "out", *limits, engine=engine))
    reason = "The clip took longer than 1 s (--time-limit)."
    assert outcomes["long.mp4"] == ["failed", "time", 1, reason]


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("open_unfit", "A worker cannot start: there is no pack"),
        ("open_stillborn", "Three workers in a row ended before they took up a clip"),
    ],
)
def test_workers_that_cannot_start_end_the_batch(tmp_path, engine, job, message):
    write_source(tmp_path / "in", "fine")
    arguments = ("--job", job, "--workers", "1")
    told = finish_all(start(tmp_path / "in", tmp_path / "out", *arguments, engine=engine))
    assert message in told["error"]


@pytest.mark.promise(17)
def test_an_interrupted_batch_holds_its_lock_and_counts_no_attempt(tmp_path, engine):
    write_source(tmp_path / "in", "a", steps=20_000)
    output, ledger = tmp_path / "out", tmp_path / "ledger"
    process = start(tmp_path / "in", output, engine=engine, ledger=ledger)
    wait_for(lambda: ledger.exists() and len(ledger.read_text().splitlines()) > 2)
    second = finish_all(start(tmp_path / "in", output, engine=engine))
    assert f"another run (process {process.pid})" in second["error"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    with Journal(output / ".vidinvert" / "journal.sqlite") as journal:
        entry = journal.entry(orders_below(tmp_path / "in")[0].output)
    assert entry is not None
    assert (entry.state, entry.attempts) == ("waiting", 0)
    assert list((output / ".vidinvert" / "work").glob("*/piece-0"))
