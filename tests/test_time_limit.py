"""CI's time limit skips tests by name; a machine that is too slow fails none."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ONE_TEST = "tests/test_time_limit.py::test_it_can_be_run"


def test_it_can_be_run():
    assert (ROOT / ".ci" / "run").is_file()


@pytest.mark.parametrize(("limit", "outcome"), [("0", "1 skipped"), ("600", "1 passed")])
def test_what_would_begin_later_is_skipped_by_name(limit, outcome):
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--time-limit", limit, ONE_TEST]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stdout + said.stderr
    assert outcome in said.stdout
    assert ("the time limit of 0 s is over (--time-limit)" in said.stdout) == (limit == "0")
