"""What a batch leaves for people: a table, a page with pictures, and the failures as JSON lines."""

import csv
import html
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidinvert.batch.orders import clip_name
from vidinvert.batch.supervisor import PAGE_PICTURES, Outcome
from vidinvert.batch.work import THUMBNAILS

COLUMNS: tuple[str, ...] = (
    "source",
    "output",
    "state",
    "frames",
    "faces",
    "mean_mask",
    "seconds",
    "attempts",
    "reason",
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vidinvert batch: {done} done, {failed} failed</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }}
h1 {{ font-size: 1.3em; }}
table {{ border-collapse: collapse; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .4em .8em; text-align: left;
  vertical-align: top; }}
td.number {{ text-align: right; }}
tr.failed td {{ background: #fff1f0; }}
img {{ display: block; max-height: 180px; }}
code {{ overflow-wrap: anywhere; }}
td:first-child {{ min-width: 14em; }}
</style>
</head>
<body>
<h1>{done} clips done, {failed} failed</h1>
<table>
<thead><tr><th>clip</th><th>before</th><th>after</th><th>frames</th><th>faces</th>
<th>mean mask</th><th>seconds</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def write_reports(outcomes: Sequence[Outcome], output: Path) -> None:
    """Write `report.csv`, `index.html` and `failures.jsonl` into the batch's directory.

    Failures come first on the page. Without a failure `failures.jsonl` is empty.
    """
    ordered = sorted(outcomes, key=lambda o: (o.state != "failed", os.fsencode(o.order.output)))
    _replace(output / "report.csv", _table(ordered))
    _replace(output / "index.html", _page(ordered, output))
    failures = [json.dumps(_failure(o)) + "\n" for o in ordered if o.state == "failed"]
    _replace(output / "failures.jsonl", "".join(failures))


def _replace(path: Path, text: str) -> None:
    pending = path.with_name(f".{path.name}.pending")
    pending.write_text(text, encoding="utf-8", newline="")
    pending.replace(path)


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _failure(outcome: Outcome) -> dict[str, Any]:
    return {
        "source": _shown(outcome.order.source),
        "output": _shown(outcome.order.output),
        "kind": outcome.kind,
        "reason": outcome.reason,
        "attempts": outcome.attempts,
        "log": outcome.log,
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    """Return a clip's line by column; what is not known is empty."""
    report = outcome.report or {}
    tracks = report.get("tracks", [])
    frames = sum(track["frames"] for track in tracks)
    mask = sum(track["mean_ood"] * track["frames"] for track in tracks) / frames if frames else None
    return {
        "source": _shown(outcome.order.source),
        "output": _shown(outcome.order.output),
        "state": outcome.state,
        "frames": report.get("written", ""),
        "faces": len(tracks) if report else "",
        "mean_mask": "" if mask is None else f"{mask:.4f}",
        "seconds": report.get("seconds", {}).get("total", ""),
        "attempts": outcome.attempts,
        "reason": outcome.reason or "",
    }


def _metrics(outcome: Outcome) -> dict[str, str]:
    metrics = (outcome.report or {}).get("metrics", {})
    return {name: f"{value:.6g}" for name, value in metrics.items()}


def _table(outcomes: Sequence[Outcome]) -> str:
    lines = io.StringIO()
    rows = [_row(outcome) | _metrics(outcome) for outcome in outcomes]
    measured = dict.fromkeys(name for outcome in outcomes for name in _metrics(outcome))
    writer = csv.DictWriter(lines, [*COLUMNS, *measured], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _page(outcomes: Sequence[Outcome], output: Path) -> str:
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    rows = "\n".join(_page_row(outcome, output) for outcome in outcomes)
    return _PAGE.format(done=len(outcomes) - failed, failed=failed, rows=rows)


def _page_row(outcome: Outcome, output: Path) -> str:
    row = {name: html.escape(str(value)) for name, value in _row(outcome).items()}
    if outcome.state == "failed":
        log = f"<br>log: <code>{html.escape(outcome.log)}</code>" if outcome.log else ""
        return (
            f'<tr class="failed"><td><code>{row["output"]}</code></td>'
            f'<td colspan="6"><strong>{html.escape(outcome.kind or "")}</strong>: '
            f"{row['reason']}{log}</td></tr>"
        )
    pictures = []
    for name in THUMBNAILS:
        place = f"{PAGE_PICTURES}/{clip_name(outcome.order.output)}-{name}"
        there = (output / place).is_file()
        picture = f'<img src="{place}" alt="{name[:-4]}" loading="lazy">' if there else ""
        pictures.append(f"<td>{picture}</td>")
    numbers = "".join(
        f'<td class="number">{row[name]}</td>'
        for name in ("frames", "faces", "mean_mask", "seconds")
    )
    return f"<tr><td><code>{row['output']}</code></td>{''.join(pictures)}{numbers}</tr>"
