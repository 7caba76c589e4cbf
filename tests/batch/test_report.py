"""The table, the page and the failures that a batch leaves."""

import csv
import json
from pathlib import Path

import pytest

from vidinvert.batch import Order, Outcome, write_reports
from vidinvert.batch.orders import clip_name


def outcome(name, **values):
    order = Order(source=Path("/in") / name, output=Path(name))
    return Outcome(order=order, **{"state": "done", "skipped": False, "attempts": 1, **values})


TRACKS = [{"frames": 10, "mean_ood": 0.1}, {"frames": 30, "mean_ood": 0.3}]
GOOD = outcome("a.mp4", report={"written": 40, "tracks": TRACKS, "seconds": {"total": 2.5}})
BAD = outcome(
    "z<b>.mp4", state="failed", attempts=2, kind="crash", reason='<i>"why"</i>', log="l&g"
)


def test_the_table_has_one_row_a_clip_failures_first(tmp_path):
    write_reports([GOOD, BAD], tmp_path)
    with (tmp_path / "report.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["output"] for row in rows] == ["z<b>.mp4", "a.mp4"]
    assert rows[1]["mean_mask"] == "0.2500"
    assert (rows[1]["frames"], rows[1]["faces"], rows[1]["seconds"]) == ("40", "2", "2.5")
    assert (rows[0]["state"], rows[0]["attempts"], rows[0]["reason"]) == (
        "failed",
        "2",
        '<i>"why"</i>',
    )


def test_metrics_get_columns_of_their_own(tmp_path):
    first = outcome("a.mp4", report={"written": 1, "metrics": {"outside.psnr": 51.25}})
    second = outcome("b.mp4", report={"written": 1, "metrics": {"timing.lost": 0.0}})
    write_reports([first, second], tmp_path)
    with (tmp_path / "report.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["outside.psnr"] for row in rows] == ["51.25", ""]
    assert [row["timing.lost"] for row in rows] == ["", "0"]


def test_failures_are_json_lines(tmp_path):
    write_reports([GOOD, BAD], tmp_path)
    (line,) = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "source": "/in/z<b>.mp4",
        "output": "z<b>.mp4",
        "kind": "crash",
        "reason": '<i>"why"</i>',
        "attempts": 2,
        "log": "l&g",
    }
    write_reports([GOOD], tmp_path)
    assert (tmp_path / "failures.jsonl").read_text() == ""


@pytest.mark.promise(15)
def test_the_page_shows_pictures_and_escapes_everything(tmp_path):
    (tmp_path / "thumbnails").mkdir()
    picture = f"thumbnails/{clip_name(Path('a.mp4'))}-before.jpg"
    (tmp_path / picture).write_bytes(b"")
    write_reports([GOOD, BAD], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.index("z&lt;b&gt;.mp4") < page.index("a.mp4")
    assert "&lt;i&gt;&quot;why&quot;&lt;/i&gt;" in page
    assert "<code>l&amp;g</code>" in page
    assert page.count("<img") == 1
    assert f'src="{picture}"' in page
    assert "http" not in page.replace("http-equiv", "")
    assert "1 clips done, 1 failed" in page
