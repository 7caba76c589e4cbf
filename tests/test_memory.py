"""Memory does not grow with the clip."""

import json
import subprocess
import sys

import av
import pytest

from tests.mini import SAMPLE

EDIT = """
import json, sys, vidinvert
from vidinvert.cli.device import keep_memory
keep_memory()
pack = vidinvert.load_pack("mini")
report = vidinvert.edit_video(sys.argv[1], sys.argv[2], edits="smile=1", pack=pack)
print(json.dumps({"frames": report["frames"], "peak": report["peak_memory_bytes"]}))
"""


def looped(target, frames):
    """Write the sample's first second again and again, small, as a clip of `frames` frames."""
    with av.open(str(SAMPLE)) as source:
        pictures = [f.reformat(256, 256, "yuv420p").to_ndarray() for f in source.decode(video=0)]
    with av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for index in range(frames):
            picture = pictures[index % 50]
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        output.mux(stream.encode())


KEPT_A_FRAME = 150_000  # bytes: codes, masks and grey pictures, measured and steadied; no picture


@pytest.mark.promise(10)
@pytest.mark.slow
def test_a_clip_of_1500_frames_peaks_above_one_of_150_by_what_is_kept_alone(tmp_path):
    """A frame of 256 x 256 in float32 would be 786 kB: five times what may be kept of each."""
    peaks = {}
    for frames in (150, 1500):
        source = tmp_path / f"{frames}.mp4"
        looped(source, frames)
        command = [sys.executable, "-c", EDIT, str(source), str(tmp_path / f"out{frames}.mp4")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        assert result["frames"] == frames
        peaks[frames] = result["peak"]
    assert peaks[1500] - peaks[150] <= (1500 - 150) * KEPT_A_FRAME, peaks
