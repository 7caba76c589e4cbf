"""Try a batch on real clips: `python -m tests.bench.batch faults|kills|speed CLIPS -o DIR`.

`faults`: 24 inputs made of the clips, a text file, a truncated clip, and clips on which a test hook
makes the worker segfault, hang or eat memory. `kills`: a batch of real edits killed by SIGKILL at
random moments and resumed, its frames compared with an undisturbed run's. `speed`: the same clips
with one worker and with two. Each prints what the README says of it.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.batch.test_supervisor import hashes
from tests.bench.pipeline import processor
from tests.mini import read_clip
from vidinvert.batch import Limits, LocalEngine, Order, Outcome, Setup, run_batch, write_reports
from vidinvert.batch.journal import Journal
from vidinvert.checkpoints import find_pack
from vidinvert.pipeline import Span

FAULTS = ("segfault", "hang", "memory")


def main() -> None:
    """Run one of the benches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("faults", "kills", "speed", "run"))
    parser.add_argument("clips", type=Path, help="a directory of clips")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=0.4, help="edited of every clip")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--names", nargs="*", default=[], help="of the clips (all)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    {"faults": faults, "kills": kills, "speed": speed, "run": run}[options.what](options)


def edit(
    sources: list[Path], output: Path, *, seconds: float, workers: int, threads: int
) -> list[Outcome]:
    """Edit the beginning of each clip; names that ask for it break their worker."""
    return run_batch(
        [
            Order(
                source=source,
                output=Path(source.name),
                edits=("smile=2",),
                span=Span(end_seconds=seconds),
            )
            for source in sources
        ],
        output,
        setup=Setup(
            job="tests.batch.jobs:open_fragile_editor",
            pack_sha256=find_pack("mini").sha256,
            threads=threads,
        ),
        open_engine=lambda setup, state: LocalEngine(setup, directory=state),
        workers=workers,
        limits=Limits(stall_seconds=40.0, memory_bytes=4 * 2**30),
    )


def chosen(options: argparse.Namespace) -> list[Path]:
    """Return the clips to work on."""
    known = sorted(p for p in options.clips.iterdir() if p.suffix in (".mp4", ".mkv"))
    return [p for p in known if not options.names or p.name in options.names]


def faults(options: argparse.Namespace) -> None:
    """Good and bad clips in one batch of 24."""
    folder = options.output / "in"
    folder.mkdir(exist_ok=True)
    clips = chosen(options)
    for clip in clips:
        shutil.copyfile(clip, folder / clip.name)
    for fault in FAULTS:
        shutil.copyfile(clips[-1], folder / f"{fault}{clips[-1].suffix}")
    (folder / "text.mp4").write_text("this is a text file")
    content = clips[-1].read_bytes()
    (folder / f"truncated{clips[-1].suffix}").write_bytes(content[: len(content) // 2])
    number = 0
    while len(list(folder.iterdir())) < 24:
        shutil.copyfile(clips[number], folder / f"copy_of_{clips[number].name}")
        number += 1
    started = time.monotonic()
    sources = sorted(folder.iterdir())
    output = options.output / "out"
    outcomes = edit(sources, output, seconds=options.seconds, workers=options.workers, threads=1)
    write_reports(outcomes, output)
    counts = Counter(outcome.state for outcome in outcomes)
    print(f"{len(outcomes)} clips in {time.monotonic() - started:.0f} s: {dict(counts)}")
    for outcome in outcomes:
        if outcome.state == "failed":
            print(
                f"  {outcome.order.output} [{outcome.kind}, {outcome.attempts}]: {outcome.reason}"
            )


def run(options: argparse.Namespace) -> None:
    """Edit the clips once: what `kills` kills."""
    outcomes = edit(
        chosen(options),
        options.output,
        seconds=options.seconds,
        workers=options.workers,
        threads=options.threads,
    )
    print(json.dumps(Counter(outcome.state for outcome in outcomes)))


def start(options: argparse.Namespace, output: Path, ledger: Path) -> subprocess.Popen[bytes]:
    """Start `run` in a process of its own; its edits are cut into segments of 8 frames."""
    command = [sys.executable, "-m", "tests.bench.batch", "run", str(options.clips)]
    command += ["-o", str(output), "--seconds", str(options.seconds)]
    command += ["--workers", str(options.workers), "--names", *options.names]
    environment = {**os.environ, "BATCH_LEDGER": str(ledger), "BATCH_SEGMENT_FRAMES": "8"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def kills(options: argparse.Namespace) -> None:
    """Kill and resume real edits."""
    ledger = options.output / "ledger"
    if start(options, options.output / "whole", ledger).wait():
        raise RuntimeError("the undisturbed run failed")
    steps = len(ledger.read_text().splitlines())
    expected = frame_hashes(options.output / "whole")
    chance = random.Random(1)
    counts = Counter[str]()
    for number in range(options.kills):
        output = options.output / f"out{number}"
        ledger.unlink(missing_ok=True)
        process = start(options, output, ledger)
        await_steps(ledger, chance.randrange(steps), process)
        time.sleep(chance.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        counts["killed"] += process.wait() == -signal.SIGKILL
        found = finished_work(output)
        ledger.unlink(missing_ok=True)
        start(options, output, ledger).wait()
        counts["identical"] += frame_hashes(output) == expected and hashes(output) == hashes(
            options.output / "whole"
        )
        with Journal(output / ".vidinvert" / "journal.sqlite") as journal:
            done = Counter(str(path) for path, event, _ in journal.events() if event == "done")
        again = any(count != 1 for count in done.values()) or len(done) != len(expected)
        notes = ledger.read_text().splitlines() if ledger.is_file() else []
        counts["with work done twice"] += again or bool(done_again(found, notes))
        counts["that found a clip done"] += "done" in found.values()
        counts["that found an analysis"] += 0 in found.values()
        counts["that found segments"] += any(isinstance(n, int) and n > 0 for n in found.values())
        shutil.rmtree(output)
        print(f"{number + 1}:", ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)


def await_steps(ledger: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until so many steps are noted: a moment that no other load of the machine moves."""
    while process.poll() is None:
        if count == 0 or (ledger.is_file() and len(ledger.read_text().splitlines()) >= count):
            return
        time.sleep(0.01)


def finished_work(output: Path) -> dict[str, int | str]:
    """Return what a killed run had finished of each clip: `done`, or frames rendered.

    0 frames: its analysis is kept. Clips of which nothing is finished are absent.
    """
    found: dict[str, int | str] = {path.name: "done" for path in output.glob("*.m??")}
    state = output / ".vidinvert"
    if not (state / "journal.sqlite").is_file():
        return found
    for kept in state.glob("work/*/analysis.npz"):
        segments = sorted(kept.parent.glob("segments/[0-9]*"))
        last = segments[-1].stem.partition("-")[2] if segments else "0"
        with np.load(kept) as arrays:
            clip = json.loads(str(arrays["header"]))["source"]["name"]
        found.setdefault(clip, int(last))
    return found


def done_again(found: dict[str, int | str], notes: list[str]) -> list[str]:
    """Return what a resumed run noted that it did although it was finished."""
    again: list[str] = []
    for note in notes:
        clip, stage, frames = note.rsplit(" ", 2)
        before = found.get(clip)
        measured = before is not None and stage in ("detect", "invert")
        rendered = isinstance(before, int) and stage == "render" and int(frames) <= before
        if before == "done" or measured or rendered:
            again.append(note)
    return again


def frame_hashes(directory: Path) -> dict[str, str]:
    """Return a hash of all decoded frames of every output."""
    return {
        path.name: hashlib.sha256(read_clip(path)[0].tobytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.suffix in (".mp4", ".mkv")
    }


def speed(options: argparse.Namespace) -> None:
    """Compare one worker with two on the same cores."""
    clips = chosen(options)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    rows: dict[tuple[int, int], list[float]] = {}
    for repeat in range(2):
        for workers, threads in ((1, 1), (1, 2), (2, 1)):
            output = options.output / f"out-{workers}-{threads}-{repeat}"
            started = time.monotonic()
            edit(clips, output, seconds=options.seconds, workers=workers, threads=threads)
            rows.setdefault((workers, threads), []).append(time.monotonic() - started)
            shutil.rmtree(output)
            print({key: [round(v) for v in values] for key, values in rows.items()}, flush=True)
    for (workers, threads), seconds in rows.items():
        middle = statistics.median(seconds)
        print(f"{workers} workers x {threads} threads: {middle:.0f} s ({len(clips)} clips)")


if __name__ == "__main__":
    main()
