"""Memory: a slow consumer of a long clip holds no more than of a short one."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.clips import Clip, write_clip
from tests.shared_data import REPOSITORY

MEASURE = """
import dataclasses, json, sys, time
from vidinvert.media import decode, probe

info = dataclasses.replace(probe(sys.argv[1]), reader=sys.argv[2])
frames = 0
for batch in decode(info, batch_size=4):
    frames += len(batch.indices)
    time.sleep(0.012)
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps({"frames": frames, "peak_kb": peak}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status"),
]


def measure(path, reader):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), reader],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.promise(10)
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_ten_times_the_frames_take_the_same_memory(tmp_path, reader):
    pytest.importorskip("decord")
    clip = Clip(size_hw=(480, 640), options={"preset": "ultrafast", "crf": "30", "g": "50"})
    short = write_clip(tmp_path, replace(clip, frame_count=150), name="short")
    long = write_clip(tmp_path, replace(clip, frame_count=1500), name="long")
    few, many = measure(short, reader), measure(long, reader)
    assert (few["frames"], many["frames"]) == (150, 1500)
    assert many["peak_kb"] < 1.1 * few["peak_kb"], (few, many)
