"""What a batch shows while it runs and at its end."""

import io
import json
from pathlib import Path

import pytest

from vidinvert.batch import Event, Order, Outcome
from vidinvert.cli.batch_progress import BatchBar, JsonLines, summarise


@pytest.fixture
def orders(tmp_path):
    made = []
    for name, size in (("a.mp4", 300), ("b.mp4", 100)):
        (tmp_path / name).write_bytes(b"x" * size)
        made.append(Order(source=tmp_path / name, output=Path(name)))
    return made


def test_one_bar_shows_clips_frames_rate_and_time(orders, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    clock = iter([10.0, 12.0, 14.0])
    monkeypatch.setattr("vidinvert.cli.batch_progress.time.monotonic", lambda: next(clock))
    bar = BatchBar(orders, quiet=False)
    bar(Event(kind="planned"))
    for done in (0, 8, 16):
        values = {"stage": "render", "done": done, "total": 16}
        bar(Event(kind="progress", order=orders[0], values=values))
    bar(Event(kind="done", order=orders[0], values={"state": "done"}))
    bar(Event(kind="retry", order=orders[1], values={"reason": "It crashed."}))
    bar(Event(kind="failed", order=orders[1], values={"state": "failed", "reason": "Twice."}))
    bar.close()
    shown = screen.getvalue()
    assert "batch:  75%" in shown
    assert "1/2 clips, 16 frames, 4.0 frames/s" in shown
    assert "2/2 clips, 1 failed, 16 frames" in shown
    assert "b.mp4: It crashed. Trying again." in shown
    assert "b.mp4: Twice." in shown


def test_quiet_shows_nothing(orders, capsys):
    bar = BatchBar(orders, quiet=True)
    bar(Event(kind="done", order=orders[0], values={"state": "done"}))
    bar.close()
    assert capsys.readouterr().err == ""


def test_machines_get_a_json_object_a_line(orders, capsys):
    lines = JsonLines()
    lines(Event(kind="planned", values={"clips": 2}))
    lines(Event(kind="started", order=orders[0], values={"attempt": 1}))
    lines.summary([])
    lines.close()
    planned, started, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (planned["event"], planned["clips"]) == ("planned", 2)
    assert (started["output"], started["attempt"]) == ("a.mp4", 1)
    assert summary == {"event": "summary", "clips": 0, "failed": 0, "skipped": 0}


def test_the_table_says_which_clips_failed_and_why(orders):
    good = Outcome(order=orders[0], state="done", skipped=True, attempts=1, report={"written": 7})
    bad = Outcome(
        order=orders[1],
        state="failed",
        skipped=False,
        attempts=2,
        kind="crash",
        reason="It crashed.",
        log="logs/b.log",
    )
    table = summarise([good, bad], Path("out"))
    assert "done    1 (1 of them before), 7 frames" in table
    assert "  b.mp4 [2 attempts]: It crashed. Log: logs/b.log" in table
    assert "--retry-failed" not in table
