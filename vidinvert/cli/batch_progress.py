"""How a batch is shown: one bar on stderr, JSON lines for machines, and a table at the end."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from vidinvert.batch import Event, Order, Outcome

# How much of a clip's time a stage takes, for the bar: measured on the shipped sample.
STAGES = {"detect": (0.0, 0.07), "invert": (0.07, 0.4), "render": (0.4, 1.0)}
RATE_SECONDS = 30.0  # the rate that is shown is over so long


def shown(path: str | Path) -> str:
    """Spell a path for the screen, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "replace")


class BatchBar:
    """One bar over all clips, weighted by their size, with clips, frames and the current rate."""

    def __init__(self, orders: Sequence["Order"], *, quiet: bool) -> None:
        self._bytes = {order.output: _size(order.source) for order in orders}
        self._share: dict[Path, float] = {}
        self._rendered: dict[Path, int] = {}
        self._clips, self._done, self._failed = len(orders), 0, 0
        self._recent: deque[tuple[float, int]] = deque()
        self._frames = 0
        self._bar = tqdm(
            total=max(1, sum(self._bytes.values())),
            file=sys.stderr,
            disable=quiet,
            bar_format="batch: {percentage:3.0f}%|{bar}| {desc}[{elapsed}<{remaining}]",
        )

    def __call__(self, event: "Event") -> None:
        """Show an event."""
        order, values = event.order, event.values
        if order is None:
            return
        output = order.output
        if event.kind == "progress":
            low, high = STAGES.get(values["stage"], (0.0, 0.0))
            part = low + (high - low) * values["done"] / max(1, values["total"])
            self._share[output] = part
            if values["stage"] == "render":
                self._count(values["done"] - self._rendered.get(output, 0))
                self._rendered[output] = values["done"]
        elif event.kind in ("retry", "started"):
            self._share[output] = 0.0
            self._rendered.pop(output, None)
        elif event.kind in ("done", "failed", "skipped"):
            self._share[output] = 1.0
            self._done += 1
            self._failed += values["state"] == "failed"
        if event.kind == "retry":
            self._bar.write(f"{shown(output)}: {values['reason']} Trying again.", file=sys.stderr)
        if event.kind == "failed":
            self._bar.write(f"{shown(output)}: {values['reason']}", file=sys.stderr)
        self._show()

    def _count(self, frames: int) -> None:
        self._frames += max(0, frames)
        now = time.monotonic()
        self._recent.append((now, self._frames))
        while self._recent and now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()

    def _show(self) -> None:
        done = sum(self._bytes[output] * share for output, share in self._share.items())
        (begin, before), (end, after) = (
            (self._recent[0], self._recent[-1]) if self._recent else ((0.0, 0), (0.0, 0))
        )
        rate = (after - before) / (end - begin) if end > begin else 0.0
        failed = f", {self._failed} failed" if self._failed else ""
        clips = f"{self._done}/{self._clips} clips{failed}"
        text = f"{clips}, {self._frames} frames, {rate:.1f} frames/s "
        self._bar.set_description_str(text, refresh=False)
        self._bar.n = int(done)
        self._bar.refresh()

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class JsonLines:
    """One JSON object a line on stdout for every event."""

    def __call__(self, event: "Event") -> None:
        """Print an event."""
        line: dict[str, Any] = {"event": event.kind, "time": round(time.time(), 3)}
        if event.order is not None:
            line["source"] = shown(event.order.source)
            line["output"] = shown(event.order.output)
        print(json.dumps({**line, **event.values}), flush=True)

    def summary(self, outcomes: Sequence["Outcome"]) -> None:
        """Print how many clips ended how."""
        failed = sum(outcome.state == "failed" for outcome in outcomes)
        skipped = sum(outcome.skipped for outcome in outcomes)
        counts = {"clips": len(outcomes), "failed": failed, "skipped": skipped}
        print(json.dumps({"event": "summary", **counts}), flush=True)

    def close(self) -> None:
        """Nothing is open."""


def summarise(outcomes: Sequence["Outcome"], output: Path) -> str:
    """Return the table for the end: how many clips ended how, then every failure and why."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    before = sum(outcome.skipped and outcome.state == "done" for outcome in outcomes)
    frames = sum((outcome.report or {}).get("written", 0) for outcome in outcomes)
    lines = [
        f"clips   {len(outcomes)}",
        f"done    {len(outcomes) - len(failed)} ({before} of them before), {frames} frames",
        f"failed  {len(failed)}",
    ]
    for outcome in failed:
        log = f" Log: {outcome.log}" if outcome.log else ""
        tries = f"{outcome.attempts} attempts" if outcome.attempts > 1 else outcome.kind
        lines.append(f"  {shown(outcome.order.output)} [{tries}]: {outcome.reason}{log}")
    if any(outcome.skipped for outcome in failed):
        lines.append("Clips that failed before were left alone; --retry-failed tries them again.")
    lines.append(f"report  {shown(output / 'index.html')}, report.csv, failures.jsonl beside it")
    return "\n".join(lines)
