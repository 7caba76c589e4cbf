"""Where the time of a run goes: wall and CPU seconds of its stages, which run beside each other."""

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Clock:
    """Seconds spent in each stage; stages that run at once share the wall clock.

    Attributes:
        seconds: by stage, the time between its beginnings and ends; two threads count twice.
        cpu_seconds: by stage, what its own threads computed. What libraries compute in threads of
            theirs (an encoder's, a second thread of a matrix product) is not in it.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    cpu_started: float = field(default_factory=time.process_time)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self._add(stage, time.perf_counter() - wall, time.thread_time() - cpu)

    def follow(self, stage: str, items: Iterable[T]) -> Generator[T, None, None]:
        """Yield `items`, and add the time that each takes to come to a stage."""
        iterator = iter(items)
        try:
            while True:
                with self.measure(stage):
                    item = next(iterator, _END)
                if item is _END:
                    return
                yield item  # type: ignore[misc]
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def describe(self) -> dict[str, dict[str, float]]:
        """Return `seconds` and `cpu_seconds` of every stage by name, as first used; for JSON.

        `all` is the run so far; its CPU seconds are the whole process's, all threads together.
        """
        with self._lock:
            rows = {
                stage: {
                    "seconds": round(seconds, 3),
                    "cpu_seconds": round(self.cpu_seconds.get(stage, 0.0), 3),
                }
                for stage, seconds in self.seconds.items()
            }
        rows["all"] = {
            "seconds": round(time.perf_counter() - self.started, 3),
            "cpu_seconds": round(time.process_time() - self.cpu_started, 3),
        }
        return rows

    def mark(self, event: str) -> None:
        """Note when something happens for the first time, in seconds since the clock was made."""
        self.seconds.setdefault(event, time.perf_counter() - self.started)

    def _add(self, stage: str, wall: float, cpu: float) -> None:
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + wall
            self.cpu_seconds[stage] = self.cpu_seconds.get(stage, 0.0) + cpu


_END = object()
