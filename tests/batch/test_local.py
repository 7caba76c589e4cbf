"""Worker processes: what they are started with, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch.jobs import light_setup, orders_below, write_source
from tests.shared_data import REPOSITORY
from vidinvert.batch import Setup
from vidinvert.batch.local import LocalEngine, LocalWorker
from vidinvert.batch.work import THREAD_VARIABLES, Assignment


def open_environment(setup, device):
    """A job whose result is the number of threads that its process was given."""

    def carry_out(order, *, work, result, tell):
        result.write_text(" ".join(os.environ[name] for name in THREAD_VARIABLES) + f" {device}")
        return {"written": 1, "tracks": []}

    return carry_out


def heard(worker, kind, *, seconds=60.0):
    """Wait for a message of a kind."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for message in worker.messages():
            if message.kind == kind:
                return message
        time.sleep(0.02)
    raise AssertionError(f"no message {kind!r}")


@pytest.fixture
def worker(tmp_path):
    started = LocalWorker(light_setup(), slot=0, directory=tmp_path)
    yield started
    started.stop()


def test_a_worker_is_told_its_threads_and_device(tmp_path):
    setup = Setup(
        job="tests.batch.test_local:open_environment", threads=3, devices=("cpu", "cuda:1")
    )
    before = dict(os.environ)
    worker = LocalEngine(setup, directory=tmp_path).start(3)
    assert dict(os.environ) == before
    write_source(tmp_path / "in", "a")
    (order,) = orders_below(tmp_path / "in")
    assignment = Assignment(order=order, work=tmp_path / "work", log=tmp_path / "log")
    worker.submit(assignment)
    message = heard(worker, "done")
    worker.stop()
    assert assignment.result.read_text() == "3 3 3 3 cuda:1"
    assert message.values["report"] == {"written": 1, "tracks": []}


def test_a_worker_beats_and_tells_its_memory(worker):
    heard(worker, "ready")
    heard(worker, "beat")
    assert worker.death() is None
    assert worker.memory_bytes() > 1e6


@pytest.mark.promise(9)
@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "killed"), (signal.SIGTERM, r"crashed (SIGTERM)")]
)
def test_how_a_worker_died_is_told(worker, number, words):
    heard(worker, "ready")
    os.kill(worker._process.pid, number)
    worker._process.join()
    assert words in worker.death()
    assert worker.messages() == []
    worker.submit(None)  # to nobody: seen by its death, not by an error
    assert worker.memory_bytes() == 0


def test_a_worker_ends_when_the_supervisor_hangs_up(worker):
    heard(worker, "ready")
    worker.connection.close()
    worker._process.join(timeout=30)
    assert worker.death() is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is of Linux")
def test_workers_die_with_a_supervisor_that_is_killed(tmp_path):
    write_source(tmp_path / "in", "hang")
    command = [sys.executable, "-m", "tests.batch.drive", str(tmp_path / "in")]
    process = subprocess.Popen([*command, str(tmp_path / "out"), "--workers", "1"], cwd=REPOSITORY)
    logs = tmp_path / "out" / ".vidinvert" / "logs"
    until = time.monotonic() + 60
    while not logs.is_dir() and time.monotonic() < until:
        time.sleep(0.02)
    (worker,) = children(process.pid)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < until:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{worker}")


def children(parent):
    """The processes that work, without multiprocessing's own."""
    found = []
    for name in os.listdir("/proc"):
        try:
            status = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{name}/cmdline").read_text()
        except (OSError, IndexError):
            continue
        if int(status[1]) == parent and "spawn_main" in command:
            found.append(int(name))
    return found
