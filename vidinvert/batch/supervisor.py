"""Run a batch: hand orders to workers, watch them, replace what dies, and keep the journal."""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vidinvert.batch.journal import Entry, Journal, is_unchanged
from vidinvert.batch.locks import lock_run
from vidinvert.batch.orders import Order, Setup, clip_name, hash_file, result_key, work_name
from vidinvert.batch.work import THUMBNAILS, Assignment, Message
from vidinvert.errors import BatchError

STATE = ".vidinvert"
"""Name of the directory inside a batch's output that holds journal, locks, logs and work."""
PAGE_PICTURES = "thumbnails"

_IDLE_SECONDS = 0.2  # how often the limits are looked at
_BEAT_SECONDS = 60.0  # a process that does not beat for so long is stuck, stopped or swapped out


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a clip may use up before its worker is replaced.

    Attributes:
        clip_seconds: for one attempt at a clip; None = no limit.
        stall_seconds: without a frame done or a stage begun.
        memory_bytes: resident memory of one worker; None = no limit.
        attempts: at a clip whose worker died; a clip that is refused gets one.
        start_seconds: for a worker to load the pack.
    """

    clip_seconds: float | None = None
    stall_seconds: float = 600.0
    memory_bytes: int | None = None
    attempts: int = 2
    start_seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happens in a batch, for whoever shows it.

    `kind`: `planned` (values: clips, bytes), then per clip `skipped` (it was done before),
    `started` (attempt), `progress` (stage, done, total), `retry` (reason), `done` (frames,
    seconds), `failed` (kind, reason, log).
    """

    kind: str
    order: Order | None = None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a clip: `state` is `done` or `failed`; `skipped`: not in this run."""

    order: Order
    state: str
    skipped: bool
    attempts: int
    kind: str | None = None
    reason: str | None = None
    log: str | None = None
    report: dict[str, Any] | None = None


Watch = Callable[[Event], None]


class Worker(Protocol):
    """A process somewhere that carries out one order at a time."""

    def submit(self, assignment: Assignment) -> None:
        """Hand over an order."""
        ...

    def messages(self) -> list[Message]:
        """Return what was said since the last call."""
        ...

    def death(self) -> str | None:
        """Return how it ended, None while it lives."""
        ...

    def memory_bytes(self) -> int:
        """Return its resident memory, 0 if unknown."""
        ...

    def stop(self) -> None:
        """End it at once."""
        ...


class Engine(Protocol):
    """Starts workers."""

    def start(self, slot: int) -> Any:
        """Start a worker for a slot."""
        ...

    def wait(self, workers: Sequence[Any], *, seconds: float) -> None:
        """Return when there may be something new, or the time is over."""
        ...

    def close(self) -> None:
        """Let go of what the workers ran on."""
        ...


@dataclass(slots=True)
class _Slot:
    """A place for a worker, and what it is at."""

    number: int
    worker: Worker | None = None
    ready: bool = False
    assignment: Assignment | None = None
    began: float = 0.0
    moved: float = 0.0
    beat: float = 0.0


def run_batch(
    orders: Sequence[Order],
    output: Path,
    *,
    setup: Setup,
    open_engine: Callable[[Setup, Path], Engine],
    workers: int,
    limits: Limits | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Carry out every order that is not done yet; a clip that fails does not end the others.

    Killed at any moment, the next call with the same arguments continues where it was.

    Args:
        orders: what to do; no two with the same output.
        output: the batch's directory, made if it is not there; nothing is written elsewhere.
        setup: what every worker loads.
        open_engine: called with the setup and the directory of state.
        workers: how many at once.
        limits: when a worker is replaced.
        overwrite: replace outputs that are there and not from this batch.
        retry_failed: try clips again that an earlier run gave up.
        watch: called with every event.

    Returns:
        One outcome per order, in their order.

    Raises:
        BatchError: another run works in `output`, its journal is of another kind, or workers die
            before they take up a clip.
        ValueError: two orders have the same output.
    """
    outputs = [order.output for order in orders]
    if len(set(outputs)) != len(outputs):
        raise ValueError("two orders have the same output, expected one each")
    state = output / STATE
    state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = lock_run(state)
        stack.callback(lock.release)
        journal = stack.enter_context(Journal(state / "journal.sqlite"))
        run = _Run(
            orders,
            output,
            setup,
            journal,
            limits=limits or Limits(),
            overwrite=overwrite,
            retry_failed=retry_failed,
            watch=watch or (lambda event: None),
        )
        run.watch(Event(kind="planned", values={"clips": len(orders)}))
        run.go(stack, open_engine, workers)
        return [run.outcomes[order.output] for order in orders]


def list_done(orders: Sequence[Order], output: Path, *, setup: Setup) -> set[Path]:
    """Return the outputs that `run_batch` would skip, as far as known without reading the clips."""
    path = output / STATE / "journal.sqlite"
    if not path.is_file():
        return set()
    done: set[Path] = set()
    with Journal(path) as journal:
        for order in orders:
            entry = journal.entry(order.output)
            content = journal.known_hash(order.source) if order.source.is_file() else None
            if entry is None or content is None or entry.state != "done":
                continue
            same = entry.key == result_key(order, setup, content_sha256=content)
            if same and is_unchanged(output / order.output, entry):
                done.add(order.output)
    return done


class _Run:
    """The state of one call of `run_batch`."""

    def __init__(
        self,
        orders: Sequence[Order],
        output: Path,
        setup: Setup,
        journal: Journal,
        *,
        limits: Limits,
        overwrite: bool,
        retry_failed: bool,
        watch: Watch,
    ) -> None:
        self.orders = orders
        self.output = output
        self.state = output / STATE
        self.setup = setup
        self.journal = journal
        self.limits = limits
        self.overwrite = overwrite
        self.retry_failed = retry_failed
        self.watch = watch
        self.outcomes: dict[Path, Outcome] = {}
        self.waiting: deque[Assignment] = deque()
        self.keys: dict[Path, str] = {}
        self.ours: set[Path] = set()  # outputs that an earlier run of this batch wrote
        self.stillborn = 0

    def go(
        self, stack: ExitStack, open_engine: Callable[[Setup, Path], Engine], workers: int
    ) -> None:
        """Plan while working: clips are hashed ahead of the workers."""
        planned = stack.enter_context(closing(self._plan()))
        more = self._take_up(planned, enough=1)
        if not self.waiting:
            self._tidy()
            return
        engine = open_engine(self.setup, self.state)
        stack.callback(engine.close)
        slots = [_Slot(number) for number in range(max(1, workers))]
        stack.callback(_stop_all, slots, self.journal)
        while more or self.waiting or any(slot.assignment for slot in slots):
            if more:
                more = self._take_up(planned, enough=len(slots))
            for slot in slots:
                self._keep_busy(slot, engine)
            engine.wait([slot.worker for slot in slots if slot.worker], seconds=_IDLE_SECONDS)
            for slot in slots:
                self._look_after(slot)
        self._tidy()

    def _plan(self) -> Generator[None, None, None]:
        """Hash the clips in order, a few ahead; put those that are to be done among the waiting."""
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="hash") as pool:
            ahead: deque[tuple[Order, Future[str] | str]] = deque()
            rest = iter(self.orders)
            while True:
                while len(ahead) < 16 and (order := next(rest, None)) is not None:
                    try:
                        known = self.journal.known_hash(order.source)
                    except OSError:
                        known = None
                    ahead.append((order, known or pool.submit(hash_file, order.source)))
                if not ahead:
                    return
                order, content = ahead.popleft()
                try:
                    if not isinstance(content, str):
                        content = content.result()
                        self.journal.remember_hash(order.source, content)
                except OSError as error:
                    self.journal.begin(order.output, order.source, "")
                    self._fail(order, "error", f"{order.source} cannot be read ({error}).", None)
                else:
                    self._consider(order, content)
                yield

    def _take_up(self, planned: Iterator[None], *, enough: int) -> bool:
        """Plan until enough clips wait; returns whether there are more to plan."""
        while len(self.waiting) < enough:
            if next(planned, self) is self:
                return False
        return True

    def _consider(self, order: Order, content: str) -> None:
        """Decide from the journal and the disc what is to be done for an order."""
        key = result_key(order, self.setup, content_sha256=content)
        self.keys[order.output] = key
        target = self.output / order.output
        entry = self.journal.entry(order.output)
        if entry is not None and entry.key == key and entry.state == "finished":
            if self._publish(order, entry):
                self._conclude(order, skipped=False)
                return
            entry = None
        ours = entry is not None and entry.state == "done" and is_unchanged(target, entry)
        if ours:
            self.ours.add(order.output)
        if entry is not None and ours and entry.key == key:
            self._conclude(order, skipped=True)
            return
        if entry is not None and entry.key == key and entry.state == "failed":
            if not self.retry_failed:
                self._conclude(order, skipped=True)
                return
            entry = None
        if entry is None or entry.key != key or entry.state == "done":
            self.journal.begin(order.output, order.source, key)
        elif entry.state == "running":  # the run ended under it
            self.journal.interrupt(order.output)
        if self._is_foreign(order):
            self._fail(order, "error", self._foreign(target), None)
            return
        self.waiting.append(self._assignment(order, key))

    def _is_foreign(self, order: Order) -> bool:
        """Say whether something lies at an output's place that must not be replaced."""
        there = os.path.lexists(self.output / order.output)
        return there and not self.overwrite and order.output not in self.ours

    @staticmethod
    def _foreign(target: Path) -> str:
        return (
            f"{target} exists already and is not, or no longer, what this batch wrote there; "
            "move it away, or allow it to be replaced with --force."
        )

    def _assignment(self, order: Order, key: str) -> Assignment:
        return Assignment(
            order=order,
            work=self.state / "work" / work_name(order, self.setup, key=key),
            log=self.state / "logs" / f"{clip_name(order.output)}.log",
        )

    def _keep_busy(self, slot: _Slot, engine: Engine) -> None:
        """Start a worker where one is missing, and give it the next clip."""
        if slot.assignment is not None or not self.waiting:
            return
        now = time.monotonic()
        if slot.worker is None:
            slot.worker, slot.ready = engine.start(slot.number), False
            slot.began = slot.moved = slot.beat = now
        worker = slot.worker
        if worker is None or not slot.ready:
            return
        slot.assignment = self.waiting.popleft()
        slot.began = slot.moved = slot.beat = now
        order = slot.assignment.order
        self.journal.start(order.output)
        attempt = self._entry(order).attempts
        self.watch(Event(kind="started", order=order, values={"attempt": attempt}))
        worker.submit(slot.assignment)

    def _look_after(self, slot: _Slot) -> None:
        """Hear a worker out, and replace it when it died, is stuck or takes too much."""
        worker = slot.worker
        if worker is None:
            return
        death = worker.death()  # before the messages: what it said last is still heard
        for message in worker.messages():
            self._hear(slot, message)
        if death is not None:
            self._replace(slot, "crash", death)
            return
        trouble = self._trouble(slot)
        if trouble is not None:
            self._replace(slot, *trouble)

    def _hear(self, slot: _Slot, message: Message) -> None:
        now = time.monotonic()
        slot.beat = now
        if message.kind == "ready":
            slot.ready = True
            self.stillborn = 0
        elif message.kind == "unfit":
            raise BatchError(f"A worker cannot start: {message.values['reason']}")
        elif slot.assignment is None:
            return
        elif message.kind == "progress":
            slot.moved = now
            order = slot.assignment.order
            self.watch(Event(kind="progress", order=order, values=dict(message.values)))
        elif message.kind == "done":
            assignment, slot.assignment = slot.assignment, None
            self._accept(assignment, message)
        elif message.kind == "failed":
            values = message.values
            if values["kind"] == "error":
                assignment, slot.assignment = slot.assignment, None
                shutil.rmtree(assignment.work, ignore_errors=True)
                self._fail(assignment.order, "error", values["reason"], assignment.log)
            else:
                self._replace(slot, values["kind"], values["reason"])

    def _trouble(self, slot: _Slot) -> tuple[str, str] | None:
        """Say what a living worker does wrong: kind and reason."""
        now, limits = time.monotonic(), self.limits
        if slot.worker is None:
            return None
        limit = limits.memory_bytes
        used = slot.worker.memory_bytes() if limit is not None else 0
        if limit is not None and used > limit:
            return "memory", (
                f"The worker took {used / 2**20:.0f} MB of memory, more than the "
                f"{limit / 2**20:.0f} MB that one may have (--memory-limit)."
            )
        if slot.assignment is None:
            if not slot.ready and now - slot.began > limits.start_seconds:
                return "hang", f"The worker was not ready after {limits.start_seconds:g} s."
            return None
        if limits.clip_seconds is not None and now - slot.began > limits.clip_seconds:
            return "time", f"The clip took longer than {limits.clip_seconds:g} s (--time-limit)."
        if now - slot.moved > limits.stall_seconds:
            return "hang", (
                f"The worker made no progress for {limits.stall_seconds:g} s (--stall-limit)."
            )
        if now - slot.beat > max(_BEAT_SECONDS, limits.stall_seconds / 2):
            return "hang", "The worker process stopped responding."
        return None

    def _replace(self, slot: _Slot, kind: str, reason: str) -> None:
        """End a worker; its clip is tried once more, or given up."""
        if slot.worker is not None:
            slot.worker.stop()
        assignment, slot.worker, slot.assignment = slot.assignment, None, None
        was_ready, slot.ready = slot.ready, False
        if assignment is None:
            if not was_ready:
                self.stillborn += 1
            if self.stillborn > 2:
                raise BatchError(
                    f"Three workers in a row ended before they took up a clip: {reason} Expected "
                    "them to load the face pack; try `vidinvert edit` on one clip, or fewer workers"
                )
            return
        order = assignment.order
        attempts = self._entry(order).attempts
        log = assignment.log
        if log.is_file():
            reason = _with_fatal_error(reason, log)
            kept = log.with_name(f"{log.stem}-{attempts}.log")
            log = log.replace(kept)
        if attempts < self.limits.attempts:
            self.journal.retry(order.output, reason)
            self.watch(Event(kind="retry", order=order, values={"kind": kind, "reason": reason}))
            self.waiting.append(assignment)
            return
        self._fail(order, kind, reason, log)

    def _accept(self, assignment: Assignment, message: Message) -> None:
        """Record a result as whole, put it in its place, and record that it is there."""
        order = assignment.order
        if self._is_foreign(order):  # it came while the clip was edited
            self._fail(order, "error", self._foreign(self.output / order.output), None)
            return
        self.journal.finish(
            order.output, sha256=message.values["sha256"], report=message.values["report"]
        )
        if self._publish(order, self._entry(order)):
            self._conclude(order, skipped=False)

    def _publish(self, order: Order, entry: Entry) -> bool:
        """Move a finished result to its name; False if there is none any more."""
        assignment = self._assignment(order, entry.key)
        target = self.output / order.output
        if assignment.result.is_file():
            try:
                self._put(assignment, target)
            except OSError as error:
                reason = f"{target} could not be put in its place ({error})."
                self._fail(order, "error", reason, None)
                return True
        elif not target.is_file() or hash_file(target) != entry.sha256:
            return False
        stat = target.stat()
        self.journal.done(order.output, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
        shutil.rmtree(assignment.work, ignore_errors=True)
        return True

    def _put(self, assignment: Assignment, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(self.output.resolve()):
            raise OSError(f"{target.parent} leads out of {self.output}")
        pictures = self.output / PAGE_PICTURES
        for name in THUMBNAILS:
            picture = assignment.work / name
            if picture.is_file():
                pictures.mkdir(exist_ok=True)
                picture.replace(pictures / f"{clip_name(assignment.order.output)}-{name}")
        assignment.result.replace(target)
        _sync_directory(target.parent)

    def _fail(self, order: Order, kind: str, reason: str, log: Path | None) -> None:
        place = None if log is None else str(log.relative_to(self.output))
        self.journal.fail(order.output, kind=kind, reason=reason, log=place)
        self._conclude(order, skipped=False)

    def _conclude(self, order: Order, *, skipped: bool) -> None:
        """Note what became of a clip, and tell."""
        entry = self._entry(order)
        outcome = Outcome(
            order=order,
            state=entry.state,
            skipped=skipped,
            attempts=entry.attempts,
            kind=entry.kind,
            reason=entry.reason,
            log=entry.log,
            report=entry.report,
        )
        self.outcomes[order.output] = outcome
        report = entry.report or {}
        values: dict[str, Any] = {"state": entry.state, "attempts": entry.attempts}
        if entry.state == "failed":
            values |= {"kind": entry.kind, "reason": entry.reason, "log": entry.log}
        else:
            seconds = report.get("seconds", {}).get("total")
            values |= {"frames": report.get("written"), "seconds": seconds}
        self.watch(Event(kind="skipped" if skipped else entry.state, order=order, values=values))

    def _entry(self, order: Order) -> Entry:
        entry = self.journal.entry(order.output)
        if entry is None:
            raise BatchError(
                f"The journal lost {order.output}, expected it there; was it changed by another "
                "program? Run again"
            )
        return entry

    def _tidy(self) -> None:
        """Remove unfinished work that no order of this run can use: its settings are gone."""
        root = self.state / "work"
        known = {work_name(o, self.setup, key=self.keys.get(o.output, "")) for o in self.orders}
        for directory in root.iterdir() if root.is_dir() else ():
            if directory.name not in known:
                shutil.rmtree(directory, ignore_errors=True)


def _stop_all(slots: Sequence[_Slot], journal: Journal) -> None:
    """End every worker; a clip that one was at does not count it as an attempt."""
    for slot in slots:
        if slot.worker is not None:
            slot.worker.stop()
        if slot.assignment is not None:
            journal.interrupt(slot.assignment.order.output)


def _with_fatal_error(reason: str, log: Path) -> str:
    """Add to a reason what a crash wrote to the log last of all."""
    text = log.read_text(encoding="utf-8", errors="replace")
    _, found, rest = text.partition("Fatal Python error: ")
    return f"{reason} {rest.splitlines()[0]}." if found else reason


def _sync_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return  # Windows does not open directories
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # nor do some network discs; the file itself is whole
    finally:
        os.close(descriptor)
