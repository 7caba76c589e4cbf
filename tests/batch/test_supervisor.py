"""A batch ends with every good clip done and every bad one explained, whatever happens to it."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from tests.batch.jobs import light_setup, orders_below, write_source
from tests.shared_data import REPOSITORY
from vidinvert.batch import Limits, LocalEngine, Order, list_done, run_batch
from vidinvert.batch.journal import Journal
from vidinvert.errors import BatchError

QUICK = Limits(clip_seconds=20.0, stall_seconds=3.0, memory_bytes=300 * 2**20)


def run(sources, output, *, orders=None, setup=None, workers=2, limits=QUICK, **options):
    """Run a light batch; returns the outcomes by output, and the events."""
    events = []
    outcomes = run_batch(
        orders_below(sources) if orders is None else orders,
        output,
        setup=setup or light_setup(),
        open_engine=lambda setup, state: LocalEngine(setup, directory=state),
        workers=workers,
        limits=limits,
        watch=events.append,
        **options,
    )
    return {str(outcome.order.output): outcome for outcome in outcomes}, events


def hashes(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*.mp4"))
        if ".vidinvert" not in path.parts
    }


@pytest.fixture
def sources(tmp_path):
    for name in ("a", "b", "sub/c"):
        write_source(tmp_path / "in", name)
    return tmp_path / "in"


@pytest.mark.promise(8)
def test_every_clip_is_done_once_and_the_tree_is_mirrored(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("BATCH_LEDGER", str(tmp_path / "ledger"))
    output = tmp_path / "out"
    outcomes, events = run(sources, output)
    assert {name: o.state for name, o in outcomes.items()} == {
        "a.mp4": "done",
        "b.mp4": "done",
        "sub/c.mp4": "done",
    }
    assert len((output / "sub" / "c.mp4").read_text().splitlines()) == 12
    kinds = Counter(event.kind for event in events)
    assert (kinds["planned"], kinds["started"], kinds["done"]) == (1, 3, 3)
    before = hashes(output), (tmp_path / "ledger").read_text()
    again, events = run(sources, output)
    assert all(outcome.skipped and outcome.state == "done" for outcome in again.values())
    assert [event.kind for event in events] == ["planned", "skipped", "skipped", "skipped"]
    assert (hashes(output), (tmp_path / "ledger").read_text()) == before
    assert not any((output / ".vidinvert" / "work").iterdir())


@pytest.mark.promise(8)
def test_what_is_done_is_known_without_running(sources, tmp_path):
    orders = orders_below(sources)
    assert list_done(orders, tmp_path / "out", setup=light_setup()) == set()
    assert not (tmp_path / "out").exists()
    run(sources, tmp_path / "out")
    (tmp_path / "out" / "a.mp4").unlink()
    write_source(sources, "b", steps=5)
    known = list_done(orders, tmp_path / "out", setup=light_setup())
    assert {str(path) for path in known} == {"sub/c.mp4"}


@pytest.mark.promise(8)
def test_a_changed_source_setting_or_missing_output_is_done_again(sources, tmp_path):
    output = tmp_path / "out"
    run(sources, output)
    write_source(sources, "a", steps=5)
    (output / "b.mp4").unlink()
    outcomes, _ = run(sources, output)
    assert {name for name, o in outcomes.items() if not o.skipped} == {"a.mp4", "b.mp4"}
    assert len((output / "a.mp4").read_text().splitlines()) == 5
    edited = [replace(order, edits=("smile=1",)) for order in orders_below(sources)]
    outcomes, _ = run(sources, output, orders=edited)
    assert not any(outcome.skipped for outcome in outcomes.values())


@pytest.mark.promise(9)
@pytest.mark.slow
def test_bad_clips_are_explained_and_the_others_finish(tmp_path):
    names = ["segfault", "hang", "memory", "bug", "refuse", "segfault-once", "allocate-once"]
    for name in [*names, "fine1", "fine2"]:
        write_source(tmp_path / "in", name)
    output = tmp_path / "out"
    outcomes, events = run(tmp_path / "in", output)
    done = {name for name, outcome in outcomes.items() if outcome.state == "done"}
    assert done == {"fine1.mp4", "fine2.mp4", "segfault-once.mp4", "allocate-once.mp4"}
    said = {name: (o.kind, o.attempts, o.reason) for name, o in outcomes.items() if o.reason}
    assert said["segfault.mp4"][:2] == ("crash", 2)
    assert "crashed (SIGSEGV). Segmentation fault." in said["segfault.mp4"][2]
    assert said["hang.mp4"][:2] == ("hang", 2)
    assert "no progress for 3 s" in said["hang.mp4"][2]
    assert said["memory.mp4"][:2] == ("memory", 2)
    assert "more than the 300 MB that one may have" in said["memory.mp4"][2]
    assert said["bug.mp4"] == ("crash", 2, "ZeroDivisionError: a mistake in two lines")
    assert said["refuse.mp4"] == ("error", 1, "refuse is no video")
    assert outcomes["segfault-once.mp4"].attempts == 2
    log = (output / outcomes["segfault.mp4"].log).read_text()
    assert "working on 'segfault'" in log
    assert "Segmentation fault" in log
    assert "ZeroDivisionError" in (output / outcomes["bug.mp4"].log).read_text()
    assert sum(event.kind == "retry" for event in events) == 6
    again, events = run(tmp_path / "in", output)
    assert all(outcome.skipped for outcome in again.values())
    retried, _ = run(tmp_path / "in", output, retry_failed=True)
    assert {name for name, o in retried.items() if not o.skipped} == set(outcomes) - done


@pytest.mark.promise(9)
def test_a_clip_that_takes_too_long_is_given_up(tmp_path):
    write_source(tmp_path / "in", "long", steps=4000)
    limits = Limits(clip_seconds=0.4, attempts=1)
    outcomes, _ = run(tmp_path / "in", tmp_path / "out", limits=limits, workers=1)
    outcome = outcomes["long.mp4"]
    assert (outcome.state, outcome.kind, outcome.attempts) == ("failed", "time", 1)
    assert outcome.reason == "The clip took longer than 0.4 s (--time-limit)."


def test_what_is_not_ours_is_not_replaced_unless_forced(sources, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "a.mp4").write_text("precious")
    outcomes, _ = run(sources, output)
    assert outcomes["a.mp4"].kind == "error"
    assert "a.mp4 exists already" in outcomes["a.mp4"].reason
    assert (output / "a.mp4").read_text() == "precious"
    (output / "b.mp4").write_text("edited by hand")
    outcomes, _ = run(sources, output)
    assert outcomes["b.mp4"].state == "failed"
    assert (output / "b.mp4").read_text() == "edited by hand"
    outcomes, _ = run(sources, output, overwrite=True, retry_failed=True)
    assert {outcome.state for outcome in outcomes.values()} == {"done"}


def test_an_output_may_not_leave_through_a_link(tmp_path):
    source = write_source(tmp_path / "in", "a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    order = Order(source=source, output=(tmp_path / "link" / "a.mp4").relative_to(tmp_path))
    outcomes, _ = run(None, tmp_path / "out", orders=[order])
    assert "leads out of" in outcomes["link/a.mp4"].reason
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.promise(9)
def test_a_source_that_cannot_be_read_is_a_failure_of_its_own(sources, tmp_path):
    missing = Order(source=sources / "missing", output=(sources / "m.mp4").relative_to(sources))
    outcomes, _ = run(None, tmp_path / "out", orders=[missing, *orders_below(sources)])
    assert outcomes["m.mp4"].kind == "error"
    assert "cannot be read" in outcomes["m.mp4"].reason
    assert outcomes["a.mp4"].state == "done"


@pytest.mark.promise(15)
def test_names_that_are_no_text_are_done(tmp_path):
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"sm\xefle\nhere")
    write_source(tmp_path / "in", name)
    outcomes, _ = run(tmp_path / "in", tmp_path / "out")
    assert [outcome.state for outcome in outcomes.values()] == ["done"]
    assert os.listdir(os.fsencode(tmp_path / "out"))[0] is not None
    assert (tmp_path / "out" / f"{name}.mp4").is_file()


def test_two_orders_may_not_share_an_output(sources, tmp_path):
    order = orders_below(sources)[0]
    with pytest.raises(ValueError, match="two orders have the same output"):
        run(None, tmp_path / "out", orders=[order, order])


@pytest.mark.promise(8)
def test_a_second_run_in_one_directory_is_refused(sources, tmp_path):
    def meanwhile(event):
        if event.kind == "started":
            with pytest.raises(BatchError, match=rf"another run \(process {os.getpid()}\)"):
                run(sources, tmp_path / "out")

    orders = orders_below(sources)
    run_batch(
        orders,
        tmp_path / "out",
        setup=light_setup(),
        open_engine=lambda setup, state: LocalEngine(setup, directory=state),
        workers=1,
        watch=meanwhile,
    )


def test_workers_that_cannot_start_end_the_batch(sources, tmp_path):
    unfit = replace(light_setup(), job="tests.batch.jobs:open_unfit")
    with pytest.raises(BatchError, match="A worker cannot start: there is no pack"):
        run(sources, tmp_path / "out", setup=unfit)
    stillborn = replace(light_setup(), job="tests.batch.jobs:open_stillborn")
    with pytest.raises(BatchError, match=r"Three workers in a row ended .* crashed \(SIGABRT\)"):
        run(sources, tmp_path / "out", setup=stillborn, workers=1)


@pytest.mark.promise(8)
def test_an_interruption_is_no_attempt_and_the_work_is_kept(sources, tmp_path):
    def interrupt(event):
        if event.kind == "progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(
            orders_below(sources),
            tmp_path / "out",
            setup=light_setup(),
            open_engine=lambda setup, state: LocalEngine(setup, directory=state),
            workers=1,
            watch=interrupt,
        )
    with Journal(tmp_path / "out" / ".vidinvert" / "journal.sqlite") as journal:
        entry = journal.entry(orders_below(sources)[0].output)
    assert entry is not None
    assert (entry.state, entry.attempts) == ("waiting", 0)
    assert list((tmp_path / "out" / ".vidinvert" / "work").glob("*/piece-0"))
    outcomes, _ = run(sources, tmp_path / "out")
    assert {outcome.attempts for outcome in outcomes.values()} == {1}


@pytest.mark.promise(8)
def test_a_result_whose_run_ended_before_the_journal_knew_is_taken_over(sources, tmp_path):
    """As killed between the steps of putting a result in its place."""
    output = tmp_path / "out"
    run(sources, output)
    database = output / ".vidinvert" / "journal.sqlite"
    orders = orders_below(sources)
    with Journal(database) as journal:
        for order in orders[:2]:
            entry = journal.entry(order.output)
            assert entry is not None
            journal.finish(order.output, sha256=str(entry.sha256), report=entry.report or {})
    (output / "b.mp4").unlink()  # neither in its place nor to be found: done again
    outcomes, events = run(sources, output)
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    started = [str(event.order.output) for event in events if event.kind == "started"]
    assert started == ["b.mp4"]


@pytest.mark.promise(8)
@pytest.mark.slow
def test_thirty_killed_runs_end_like_an_undisturbed_one_and_do_nothing_twice(tmp_path):
    """Killed by SIGKILL at random moments; the unit of work is light (see tests/batch/jobs.py)."""
    for number in range(6):
        write_source(tmp_path / "in", f"clip{number}", steps=16)
    for name in ("refuse", "segfault-once"):
        write_source(tmp_path / "in", name)
    command = [sys.executable, "-m", "tests.batch.drive", str(tmp_path / "in")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def drive(output, ledger, *, kill_at=None):
        environment["BATCH_LEDGER"] = str(ledger)
        process = subprocess.Popen(
            [*command, str(output)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if kill_at is not None:  # a moment of the work: other load moves those of a clock
            steps, seconds = kill_at
            while process.poll() is None and steps_in(ledger) < steps:
                time.sleep(0.001)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        printed, _ = process.communicate(timeout=120)
        return process.returncode, printed

    status, printed = drive(tmp_path / "whole", tmp_path / "ledger")
    assert status == 0
    steps = steps_in(tmp_path / "ledger")
    expected = hashes(tmp_path / "whole")
    assert len(expected) == 7
    source_of_chance = random.Random(5)
    killed = 0
    for number in range(30):
        output, ledger = tmp_path / f"out{number}", tmp_path / f"ledger{number}"
        moment = source_of_chance.randrange(steps), source_of_chance.uniform(0.0, 0.1)
        status, _ = drive(output, ledger, kill_at=moment)
        killed += status == -signal.SIGKILL
        status, again = drive(output, ledger)
        assert (status, without_attempts(again)) == (0, without_attempts(printed))
        assert hashes(output) == expected
        check_nothing_twice(output, ledger)
        shutil.rmtree(output)
    assert killed >= 20


def steps_in(ledger):
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def without_attempts(printed):
    """How every clip ended. A kill may fall between a worker's crash and the note of it."""
    outcomes = json.loads(printed)
    outcomes.pop("skipped")
    return {clip: [state, kind, reason] for clip, (state, kind, _, reason) in outcomes.items()}


def check_nothing_twice(output, ledger):
    """Every piece was made once, and every clip was done once, whatever happened between.

    A piece and its line in the ledger are two steps: a kill between them loses the line.
    """
    made = Counter(ledger.read_text().splitlines())
    pieces = {line: count for line, count in made.items() if not line.endswith("result")}
    assert all(count == 1 for count in pieces.values()), pieces
    with Journal(output / ".vidinvert" / "journal.sqlite") as journal:
        done = Counter(str(path) for path, event, _ in journal.events() if event == "done")
        assert len(done) == 7
        assert set(done.values()) == {1}
    left = [p for p in output.rglob("*") if p.name.endswith((".partial", ".pending", ".new"))]
    assert left == []


def test_the_journal_is_json_where_it_says_so(sources, tmp_path):
    run(sources, tmp_path / "out")
    with Journal(tmp_path / "out" / ".vidinvert" / "journal.sqlite") as journal:
        entry = journal.entry(orders_below(sources)[0].output)
    assert entry is not None
    assert json.loads(json.dumps(entry.report))["written"] == 12
