"""Without decord and without an ffmpeg program the product does all that it does."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.mini import SAMPLE, read_clip

pytestmark = pytest.mark.promise(21)

RUN = """
import sys
sys.modules["decord"] = None
from vidinvert.cli import main
status = main(sys.argv[1:])
assert not [name for name in sys.modules if name.startswith("decord.")]
sys.exit(status)
"""


def run(*arguments, tmp_path, code=RUN):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path / "nothing"), "HOME": str(tmp_path)},
    )


@pytest.mark.slow
def test_an_edit_needs_neither_decord_nor_ffmpeg(tmp_path):
    options = ("edit", SAMPLE, "--edit", "smile=2", "--end", "0.2", "--quiet", "--threads", "1")
    options = (*options, "--precision", "fp32")
    one, report = tmp_path / "one.mp4", tmp_path / "one.json"
    done = run(*options, "-o", one, "--report", report, tmp_path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(report.read_text())["reader"] == "pyav"
    usual = RUN.replace('sys.modules["decord"] = None', "").replace("assert not", "not")
    other = tmp_path / "other.mp4"
    assert run(*options, "-o", other, tmp_path=tmp_path, code=usual).returncode == 0
    np.testing.assert_array_equal(read_clip(one)[0], read_clip(other)[0])


def test_the_doctor_calls_neither_a_fault(tmp_path):
    done = run("doctor", tmp_path=tmp_path)
    assert done.returncode == 0
    assert "ffmpeg binary: none (not needed)" in done.stdout
