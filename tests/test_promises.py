"""Promises that only whole runs can keep, and that each of the README's list has its cases."""

import os
import re
import subprocess
import sys

import av
import numpy as np
import pytest

import vidinvert
from tests.bench.promises import PROMISES
from tests.mini import SAMPLE, mini, read_clip
from tests.shared_data import REPOSITORY
from vidinvert.types import EncodeSettings, Plans

LOSSLESS = Plans(encode=EncodeSettings(codec="ffv1"))
STEP = 8  # frames of a batch: a network's last bits depend on what else is in its batch


def test_every_promise_has_cases():
    texts = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py")]
    marked = {
        int(number) for text in texts for number in re.findall(r"mark\.promise\((\d+)\)", text)
    }
    assert marked == set(PROMISES) == set(range(1, 22))


def write_lossless(path, frames):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return path


def edit(source, target):
    report = vidinvert.edit_video(
        source, target, edits="smile=3", pack=mini(), face="all", plans=LOSSLESS
    )
    return read_clip(target)[0], report


@pytest.mark.slow
@pytest.mark.promise(6)
def test_frames_without_a_face_pass_through_and_a_cut_changes_nothing_before_it(tmp_path):
    faces = read_clip(SAMPLE)[0][:STEP]
    nobody = np.random.default_rng(6).integers(0, 256, (STEP, *faces.shape[1:]), dtype=np.uint8)
    other = faces[:, :, ::-1, ::-1] // 2  # another picture of a face, dark and the other way round
    alone, _ = edit(write_lossless(tmp_path / "alone.mkv", faces), tmp_path / "a.mkv")
    whole = write_lossless(tmp_path / "whole.mkv", np.concatenate([faces, other, nobody]))
    edited, report = edit(whole, tmp_path / "w.mkv")
    assert [shot[0] for shot in report["shots"]][:2] == [0, STEP]
    assert len(edited) == 3 * STEP
    np.testing.assert_array_equal(edited[2 * STEP :], read_clip(whole)[0][2 * STEP :])
    # Nothing else came near; a product of 16 rows rounds its last bits otherwise than one of 8.
    assert np.mean(edited[:STEP] != alone) < 1e-3
    assert np.abs(edited[:STEP].astype(int) - alone).max() <= 4
    assert np.abs(alone.astype(int) - faces).max() > 20  # there was an edit


@pytest.mark.slow
@pytest.mark.promise(18)
def test_one_and_two_threads_give_the_same_frames(tmp_path):
    frames = []
    for threads in ("1", "2"):
        target = tmp_path / f"{threads}.mkv"
        command = [sys.executable, "-m", "vidinvert", "edit", str(SAMPLE), "-o", str(target)]
        command += ["--edit", "smile=2", "--end", "0.4", "--codec", "ffv1", "--quiet"]
        subprocess.run(
            [*command, "--threads", threads],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        frames.append(read_clip(target)[0])
    np.testing.assert_array_equal(*frames)
