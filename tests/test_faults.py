"""Whatever fails, whenever: no broken file under a final name, nothing half that is trusted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.clips import B_FRAMES, Clip, Sound, read_numbers, write_clip
from tests.faults import FAULTS, fused
from tests.measured import small_analysis
from tests.mini import SAMPLE
from tests.shared_data import REPOSITORY
from vidinvert.analysis import write_analysis
from vidinvert.checkpoints import find_pack
from vidinvert.errors import EncodeError
from vidinvert.media import (
    GreyWriter,
    ManifestSigner,
    SegmentedWriter,
    VideoWriter,
    copy_clip,
    decode,
    probe,
)
from vidinvert.types import EncodeSettings, Plans

pytestmark = pytest.mark.promise(7)
FAST = EncodeSettings(preset="ultrafast", threads=1)
CLIP = Clip(frame_count=6, options=B_FRAMES, sounds=(Sound(),))


def write_frames(writer, info):
    with writer:
        for batch in decode(info, start=writer.due):
            writer.write(batch)


def outcome_of(write, source, target):
    """Write, and return the message of its failure, or ''."""
    try:
        write(source, target)
    except (EncodeError, OSError) as error:
        return str(error)
    return ""


def replaced(target):
    return target.read_bytes() != b"old"


def by_writer(source, target):
    info = probe(source)
    write_frames(VideoWriter(target, like=info, settings=FAST, overwrite=True), info)


def by_segments(source, target):
    info = probe(source)
    writer = SegmentedWriter(
        target,
        like=info,
        settings=FAST,
        directory=target.parent / "segments",
        overwrite=True,
        segment_frames=3,
    )
    write_frames(writer, info)


def by_signing(source, target):
    certificates = pytest.importorskip("tests.certificates", reason="needs vidinvert[c2pa]")
    pytest.importorskip("c2pa", reason="needs vidinvert[c2pa]")
    pair = certificates.write_credentials(source.parent, certificates.new_authority())
    info = probe(source)
    signer = ManifestSigner(pair, source=info)
    write_frames(VideoWriter(target, like=info, settings=FAST, overwrite=True, signer=signer), info)


def by_copy(source, target):
    copy_clip(probe(source), target, overwrite=True)


def by_grey(source, target):
    with GreyWriter(target, like=probe(source), overwrite=True) as writer:
        for _ in range(6):
            writer.write(np.zeros((48, 64), np.uint8))


def by_analysis(source, target):
    analysis = small_analysis(source.with_name("faces.mp4"))
    write_analysis(target, analysis, pack=find_pack("mini"), plans=Plans(), overwrite=True)


WAYS = {
    "edit": (by_writer, ".mp4"),
    "segments": (by_segments, ".mkv"),
    "signed": (by_signing, ".mp4"),
    "copy": (by_copy, ".mp4"),
    "masks": (by_grey, ".mkv"),
    "analysis": (by_analysis, ".npz"),
}


@pytest.mark.parametrize("number", FAULTS, ids=lambda n: os.strerror(n).replace(" ", "_"))
@pytest.mark.parametrize("way", WAYS)
def test_the_old_file_stays_whichever_operation_fails(tmp_path, way, number):
    write, suffix = WAYS[way]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = write_clip(tmp_path / "in", CLIP)
    target = tmp_path / "out" / f"out{suffix}"
    target.write_bytes(b"old")
    failed: list[str] = []
    for at in range(1, 200):
        with fused(at=at, number=number) as fuse:
            message = outcome_of(write, source, target)
        assert fuse.burnt is None or os.strerror(number) in message or replaced(target)
        if fuse.burnt is None:
            break
        failed.append(fuse.burnt)
        if replaced(target):  # only the sync of the folder comes after the renaming
            assert failed[-1] in ("fsync", "open")
            break
        left = [p for p in (tmp_path / "out").rglob("*") if p.name.endswith(".partial")]
        assert left == []
    write(source, target)
    assert target.read_bytes() != b"old"
    if suffix != ".npz" and way != "masks":
        assert [n for b in decode(probe(target)) for n in read_numbers(b.frames)] == [*range(6)]
    wanted = {"savez"} if way == "analysis" else {"open", "mux", "close"}
    assert wanted | {"fsync", "replace"} <= set(failed) | {"open"}
    assert len(failed) >= (4 if way == "analysis" else 8)


def test_what_a_killed_run_left_of_a_target_goes_with_the_next_and_nothing_else(tmp_path):
    source = write_clip(tmp_path, CLIP)
    target, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = VideoWriter(target, like=probe(source), settings=FAST)._file.path
    theirs = VideoWriter(other, like=probe(source), settings=FAST)._file.path
    left = [
        path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{process}-"))
        for path in (mine, theirs)
        for process in (dead.pid, os.getppid())
    ]
    for path in left:
        path.write_bytes(b"half")
    copy_clip(probe(source), target)
    assert [path.exists() for path in left] == [False, True, True, True]


def run_edit(target, *more, **options):
    command = [sys.executable, "-m", "vidinvert", "edit", str(SAMPLE), "-o", str(target)]
    command += ["--edit", "smile=2", "--end", "0.4", "--threads", "1", "--precision", "fp32", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, and what they start, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def ended(process):
    """Wait for a run and return its exit status."""
    process.communicate(timeout=300)
    return process.returncode


@pytest.mark.slow
@pytest.mark.promise(7)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_thirty_killed_runs_leave_nothing_broken_and_the_next_ones_clean_up(tmp_path):
    command = [sys.executable, "-m", "tests.killed", str(SAMPLE), str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=900
    )
    told = json.loads(done.stdout)
    assert told["unusable"] == []  # under a final name after a kill: whole clips and analyses alone
    assert told["killed"] >= 20
    assert told["found"]  # or nothing was looked at
    assert told["left"] == ["kept.npz", "out.mp4", "page.html", "seen.npz"]
    assert told["same_frames"]


@pytest.mark.slow
@pytest.mark.promise(17)
@pytest.mark.parametrize("stage", ["detect", "invert", "render"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_within_two_seconds_and_leaves_nothing(tmp_path, number, status, stage):
    process = run_edit(tmp_path / "out.mp4", "--end", "3")
    assert process.stderr is not None
    seen = ""
    while stage not in seen:
        seen += process.stderr.read(1)
    process.send_signal(number)
    started = time.monotonic()
    _, rest = process.communicate(timeout=60)
    assert time.monotonic() - started < 2.0
    assert (process.returncode, "Traceback" in rest) == (status, False)
    assert "nothing was written" in rest
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disc(tmp_path):
    """A disc of 160 kB, or a skip by name where none can be mounted."""
    place = tmp_path / "disc"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip("a disc can only be mounted by root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.promise(7)
def test_a_full_disc_ends_in_one_sentence_and_is_left_as_it_was(tmp_path, small_disc, capsys):
    clip = Clip(frame_count=40, size_hw=(240, 320), options={"preset": "ultrafast", "qp": "0"})
    source = write_clip(tmp_path, clip)
    (small_disc / "mine.txt").write_text("precious")
    info = probe(source)
    with pytest.raises(EncodeError, match=r"could not be written \(.*[Nn]o space left"):
        write_frames(VideoWriter(small_disc / "out.mp4", like=info, settings=FAST), info)
    with pytest.raises(EncodeError, match="could not be written"):
        copy_clip(info, small_disc / "out.mp4")
    assert [p.name for p in small_disc.iterdir()] == ["mine.txt"]


@pytest.mark.promise(7)
def test_a_disc_that_may_only_be_read_is_refused_before_any_work(tmp_path, small_disc):
    source = write_clip(tmp_path, CLIP)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disc)], check=True)
    with pytest.raises(EncodeError, match=r"(could not|may not) be written"):
        VideoWriter(small_disc / "out.mp4", like=probe(source), settings=FAST)
    assert list(small_disc.iterdir()) == []


@pytest.mark.promise(16)
def test_a_report_is_written_whole(tmp_path, monkeypatch):
    from vidinvert.cli import main

    report = tmp_path / "report.json"
    report.write_text("{}")

    def fail(self, target):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    status = main(
        [
            "edit", str(SAMPLE), "-o", str(tmp_path / "out.mp4"), "--end", "0.1", "--quiet",
            "--report", str(report), "--force",
        ]
    )  # fmt: skip
    assert status == 1
    assert json.loads(report.read_text()) == {}
