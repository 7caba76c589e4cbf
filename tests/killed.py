"""Kill runs at random moments of their work, and look at what each one leaves.

    python -m tests.killed SOURCE DIRECTORY [--runs 30] [--seed 8]

The face pack is loaded once; every run is a child of this process, so the moments fall on the work
and not on starting. Runs take turns: an edit that keeps its analysis, and a preview that keeps one.
Prints one JSON object: how many runs were killed, what was found under a final name after a kill,
what of it could not be used, and what lies there after two runs that nobody disturbed.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vidinvert.analysis import read_analysis
from vidinvert.errors import VidinvertError
from vidinvert.geometry import limit_threads
from vidinvert.media import decode, probe
from vidinvert.pipeline import Models, Span, edit_faces, edit_video, load_pack, measure_video
from vidinvert.preview import PreviewPlan, PreviewTargets, write_preview
from vidinvert.types import Plans

SPAN, FRAMES = Span(end_seconds=0.24), 6
CLIP, ANALYSIS, PAGE, PAGE_ANALYSIS = "out.mp4", "kept.npz", "page.html", "seen.npz"


def edit(source: Path, place: Path, models: Models) -> None:
    edit_video(
        source,
        place / CLIP,
        edits="smile=2",
        pack=models,
        span=SPAN,
        overwrite=True,
        save_analysis=place / ANALYSIS,
    )


def look(source: Path, place: Path, models: Models) -> None:
    plans = Plans()
    seen = measure_video(
        source, pack=models, span=SPAN, save_analysis=place / PAGE_ANALYSIS, overwrite=True
    )
    write_preview(
        seen,
        edit_faces(seen, plans),
        method=models.method,
        plans=plans,
        targets=PreviewTargets(page=place / PAGE),
        preview=PreviewPlan(),
        device="cpu",
        overwrite=True,
    )


def run(work: Callable[[], None], *, kill_after: float | None) -> tuple[bool, float]:
    """Work in a child; returns whether it was killed, and the seconds that it lived."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"a run ended by itself with status {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status), time.monotonic() - started


def frames_of(path: Path) -> np.ndarray:
    return np.concatenate([batch.frames for batch in decode(probe(path))])


def unusable(place: Path, source: Path, models: Models, found: Counter[str]) -> list[str]:
    """Say which of the files under final names are not whole."""
    bad: list[str] = []
    for name in (CLIP, ANALYSIS, PAGE, PAGE_ANALYSIS):
        path = place / name
        if not path.exists():
            continue
        found[name] += 1
        try:
            if name == CLIP:
                info = probe(path)
                assert sum(len(b.indices) for b in decode(info)) == info.frame_count == FRAMES
            elif name == PAGE:
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
            else:
                options = {"pack": models.pack, "method": "samm", "plans": Plans()}
                kept = read_analysis(path, info=probe(source), **options)
                assert len(kept.frames) == FRAMES
        except (AssertionError, UnicodeDecodeError, VidinvertError) as error:
            bad.append(f"{name}: {type(error).__name__} {error}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # threads do not come along when a process forks
    models = load_pack("mini")
    works = [partial(w, asked.source, asked.directory, models) for w in (edit, look)]
    limit_threads(1)
    for work in works:
        work()  # what is imported on the way is there for every child
    expected = frames_of(asked.directory / CLIP)
    usual = [run(work, kill_after=None)[1] for work in works]
    for path in list(asked.directory.iterdir()):
        path.unlink()
    draw, found, bad, killed = random.Random(asked.seed), Counter[str](), [], 0
    for number in range(asked.runs):
        which = number % 2
        moment = draw.uniform(0.1, 1.1) * usual[which]
        killed += run(works[which], kill_after=moment)[0]
        bad += unusable(asked.directory, asked.source, models, found)
        if draw.random() < 0.5:  # else the next run has an old file to replace
            for name in (CLIP, ANALYSIS, PAGE, PAGE_ANALYSIS):
                (asked.directory / name).unlink(missing_ok=True)
    for work in works:
        run(work, kill_after=None)
    told = {"runs": asked.runs, "killed": killed, "found": dict(found), "unusable": bad}
    told["same_frames"] = bool(np.array_equal(frames_of(asked.directory / CLIP), expected))
    told["left"] = sorted(path.name for path in asked.directory.iterdir())
    told["usual_seconds"] = [round(seconds, 2) for seconds in usual]
    print(json.dumps(told))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
