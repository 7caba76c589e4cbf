"""The same batches on a real Ray of this machine; skipped by name where Ray is not installed."""

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch.jobs import write_source
from tests.batch.test_supervisor import check_nothing_twice, hashes
from tests.shared_data import REPOSITORY
from vidinvert.batch import RayEngine, Setup
from vidinvert.batch.cluster import _cause
from vidinvert.errors import BatchError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: the extra `ray`"
)


def start(sources, output, *arguments, ledger=None, engine="ray"):
    """Start a batch in a process of its own: Ray changes the one it is loaded into."""
    command = [sys.executable, "-m", "tests.batch.drive", str(sources), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "BATCH_LEDGER": str(ledger or "")}
    return subprocess.Popen(
        [*command, "--engine", engine, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Returns the outcomes, without which of them were known."""
    outcomes = finish_all(process)
    outcomes.pop("skipped")
    return outcomes


def finish_all(process):
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    return json.loads(printed.splitlines()[-1])


def wait_for(condition, *, seconds=120.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def listening():
    """Addresses on which processes whose name is Ray's listen, as in /proc/net/tcp."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                sockets[fields[9]] = fields[1].rpartition(":")[0]
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if b"ray" in command.partition(b"\0")[0] or b"/ray/" in command:
            names = [re.fullmatch(r"socket:\[(\d+)\]", link) for link in links]
            found |= {sockets[m.group(1)] for m in names if m and m.group(1) in sockets}
    return found


LOOPBACKS = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, plain and as IPv6


@needs_ray
@pytest.mark.slow
def test_nobody_else_reaches_ray_and_the_results_are_those_of_local_workers(tmp_path):
    names = ["refuse", "bug-once", "fine1", "sub/fine2"]
    for name in names:
        write_source(tmp_path / "in", name)
    process = start(tmp_path / "in", tmp_path / "ray")
    wait_for((tmp_path / "ray" / ".vidinvert" / "logs").is_dir)
    assert listening() <= LOOPBACKS, "Ray listens to other machines"
    on_ray = finish(process)
    local = finish(start(tmp_path / "in", tmp_path / "local", engine="local"))
    assert {n: o[:3] for n, o in on_ray.items()} == {n: o[:3] for n, o in local.items()}
    assert on_ray["bug-once.mp4"][:3] == ["done", None, 2]
    assert len(hashes(tmp_path / "ray")) == 3
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "local")


@pytest.mark.promise(8)
@needs_ray
@pytest.mark.slow
def test_a_killed_run_on_ray_is_resumed_and_does_nothing_twice(tmp_path):
    for number in range(6):
        write_source(tmp_path / "in", f"clip{number}", steps=200)
    write_source(tmp_path / "in", "refuse")
    write_source(tmp_path / "in", "segfault-once")
    expected_of = finish(start(tmp_path / "in", tmp_path / "whole", engine="local"))
    output, ledger = tmp_path / "out", tmp_path / "ledger"
    delays = random.Random(3)
    for more in (3, 60):
        lines = len(ledger.read_text().splitlines()) if ledger.exists() else 0
        process = start(tmp_path / "in", output, ledger=ledger)
        wait_for(lambda: ledger.exists() and len(ledger.read_text().splitlines()) >= lines + more)  # noqa: B023
        time.sleep(delays.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    outcomes = finish(start(tmp_path / "in", output, ledger=ledger))
    assert {n: o[0] for n, o in outcomes.items()} == {n: o[0] for n, o in expected_of.items()}
    assert hashes(output) == hashes(tmp_path / "whole")
    check_nothing_twice(output, ledger)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_way_out_is_told(tmp_path):
    with pytest.raises(BatchError, match=r"Ray is not installed, .*vidinvert\[ray\]"):
        RayEngine(Setup(), directory=tmp_path, workers=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unreachable", r"cannot be started or reached at 127\.0\.0\.1 \(nobody answers\)"),
        ("elsewhere", r"Ray would listen on 192\.0\.2\.7, expected 127\.0\.0\.1 alone"),
    ],
)
def test_a_ray_that_cannot_be_used_is_refused(tmp_path, monkeypatch, name, message):
    """With a stand-in for Ray: neither case can be had from a real one here."""
    closed = []

    class Stand:
        class util:
            @staticmethod
            def get_node_ip_address():
                return "192.0.2.7"

        @staticmethod
        def init(**options):
            assert options["_node_ip_address"] == "127.0.0.1"
            if name == "unreachable":
                raise ConnectionError("nobody answers")

        @staticmethod
        def shutdown():
            closed.append(True)

    monkeypatch.setattr("vidinvert.batch.cluster._load_ray", lambda: Stand)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    with pytest.raises(BatchError, match=message):
        RayEngine(Setup(), directory=tmp_path, workers=1)
    assert len(closed) == (name == "elsewhere")
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_the_cause_of_a_death_is_one_sentence():
    page = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: _Actor\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
        "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
    )
    assert _cause(page) == (
        "The Ray actor died. Worker unexpectedly exits with a connection error code 2."
    )
    assert _cause("It is gone.") == "The Ray actor died. It is gone."
