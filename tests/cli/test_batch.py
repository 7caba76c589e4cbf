"""The command line of a batch: what it plans, refuses and prints."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.mini import SAMPLE, blank_clip, read_clip
from vidinvert.batch.journal import Journal
from vidinvert.cli import batch as command
from vidinvert.cli import build_parser, main
from vidinvert.cli.batch import choose_workers, plan_limits, plan_orders, plan_setup
from vidinvert.errors import PlanError


@pytest.fixture
def clips(tmp_path):
    """A text file, a clip without a face and one with."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "text.mp4").write_text("no video")
    blank_clip(folder / "sub" / "bars.mp4")
    os.link(SAMPLE, folder / "talk.mp4")
    return folder


def options(*arguments):
    return build_parser().parse_args(["batch", *[str(a) for a in arguments]])


def run(capsys, *arguments):
    status = main(["batch", *[str(a) for a in arguments]])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_dry_run_lists_what_would_be_done_and_writes_nothing(clips, tmp_path, capsys):
    arguments = (clips, "-o", tmp_path / "out", "--edit", "smile=1", "--dry-run")
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert out.splitlines()[-1] == "3 clips, 3 to do"
    assert f"to do: {clips}/sub/bars.mp4 -> sub/bars.mp4 (smile=1)" in out
    assert not (tmp_path / "out").exists()
    lines = [json.loads(line) for line in run(capsys, *arguments, "--json")[1].splitlines()]
    assert [line["output"] for line in lines] == ["talk.mp4", "text.mp4", "sub/bars.mp4"]
    assert {line["state"] for line in lines} == {"to do"}


def test_a_clips_own_options_override_the_common_ones(clips, tmp_path):
    manifest = clips / "list.csv"
    manifest.write_text(
        "source,edits,crf,no_mark,end,face\ntalk.mp4,age=1,21,true,0.5,all\ntext.mp4,,,,,\n"
    )
    common = ("--edit", "smile=1", "--crf", "18", "--composite", "residual")
    first, second = plan_orders(options(manifest, "-o", tmp_path / "out", *common))
    assert (first.edits, second.edits) == (("age=1",), ("smile=1",))
    assert first.plans is not None
    assert second.plans is not None
    assert (first.plans.encode.crf, first.plans.encode.mark) == (21.0, False)
    assert (second.plans.encode.crf, second.plans.encode.mark) == (18.0, True)
    assert first.plans.render.composite == second.plans.render.composite == "residual"
    assert first.span is not None
    assert (first.span.end_seconds, first.face) == (0.5, "all")


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("colour", "red", "'colour' is no option of one clip"),
        ("min-score", "0.4", "'min-score' is no option of one clip"),
        ("crf", "best", "line 2: argument --crf"),
        ("no_mark", "maybe", "no-mark is 'maybe', expected true or false"),
        ("mask_min", "1", "--mask-max 1 must lie above --mask-min"),
        ("end", "0", "--end 0 must lie after --start"),
        ("edits", "smle=1", "talk.mp4: The face pack has no edit named 'smle'"),
        ("output", "../x.mp4", "leads out of the batch's directory"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_before_any_work(
    clips, tmp_path, capsys, header, row, message
):
    (clips / "list.csv").write_text(f"source,{header}\ntalk.mp4,{row}\n")
    status, out, err = run(capsys, clips / "list.csv", "-o", tmp_path / "out")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_refused(clips, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ((tmp_path / "missing", "-o", tmp_path / "out"), "does not exist"),
        ((clips, "-o", tmp_path / "file"), "is a file, expected a directory"),
        ((clips, "-o", tmp_path / "out", "--suffix", ".avi"), "suffix '.avi' cannot be written"),
        ((clips, "-o", tmp_path / "out", "--workers", "4096"), "need 4096 cores, this machine"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert message in err
    assert not (tmp_path / "out").exists()


def test_workers_share_the_cores_and_the_memory(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: set(range(8)), raising=False)
    monkeypatch.setattr(command, "memory_bytes", lambda: 100 * 2**30)
    given = options(clips, "-o", tmp_path)
    setup = plan_setup(given)
    workers, shared = choose_workers(given, setup, clips=100)
    assert (workers, shared.threads) == (8, 1)
    assert choose_workers(given, setup, clips=3)[0] == 3
    assert choose_workers(given, setup, clips=3)[1].threads == 2
    assert plan_limits(given, 8).memory_bytes == int(0.9 * 100 * 2**30) // 8
    monkeypatch.setattr(command, "memory_bytes", lambda: 5 * 2**30)
    assert choose_workers(given, setup, clips=100)[0] == 2
    given = options(clips, "-o", tmp_path, "--workers", 3, "--threads", 3, "--memory-limit", 700)
    with pytest.raises(PlanError, match="3 workers with 3 threads each need 9 cores"):
        choose_workers(given, setup, clips=9)
    limits = plan_limits(given, 3)
    assert (limits.memory_bytes, limits.clip_seconds, limits.stall_seconds) == (
        700 * 2**20,
        None,
        600.0,
    )
    assert command.memory_bytes() == 5 * 2**30
    monkeypatch.undo()
    assert command.memory_bytes() > 2**28


@pytest.mark.slow
def test_a_batch_ends_with_good_clips_done_and_bad_ones_explained(clips, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = (clips, "-o", output, "--edit", "smile=2", "--end", "0.2", "--workers", "1")
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert "done    1 (0 of them before), 5 frames" in out
    assert "failed  2" in out
    assert "sub/bars.mp4 [error]: No face found in bars.mp4" in out
    assert "3/3 clips, 2 failed, 5 frames" in err
    assert len(read_clip(output / "talk.mp4")[0]) == 5
    failures = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert {failure["output"] for failure in failures} == {"sub/bars.mp4", "text.mp4"}
    assert (output / "index.html").read_text().count("<img") == 2
    before = (output / "talk.mp4").stat()
    status, out, err = run(capsys, *arguments, "--quiet")
    assert (status, err) == (1, "")
    assert "1 of them before" in out
    assert "--retry-failed tries them again" in out
    assert (output / "talk.mp4").stat() == before
    status, out, _ = run(capsys, *arguments, "--retry-failed", "--allow-no-face", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert events[-1] == {"event": "summary", "clips": 3, "failed": 1, "skipped": 0}
    assert Counter(e["event"] for e in events)["failed"] == 1
    assert run(capsys, *arguments, "--allow-no-face", "--dry-run")[1].count("done already") == 2


@pytest.mark.slow
def test_an_interrupted_batch_says_how_to_go_on(clips, tmp_path):
    output = tmp_path / "out"
    (clips / "text.mp4").unlink()
    typed = [sys.executable, "-m", "vidinvert", "batch", str(clips), "-o", str(output), "--json"]
    process = subprocess.Popen(
        [*typed, "--edit", "smile=2", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 10
    assert err == "vidinvert: interrupted; run the same command again to go on where it was\n"
    assert not list(output.rglob("*.partial"))
    with Journal(output / ".vidinvert" / "journal.sqlite") as journal:
        states = [event for _, event, _ in journal.events()]
    assert states.count("running") == 1
    assert set(states) == {"waiting", "running"}
    assert states[-1] == "waiting"  # nothing is left that looks as if it still ran
