"""Let a producer run ahead of its consumer by a bounded number of items, or several at once."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")
MOST_WORKERS = 4  # batches in the networks at once: each has its own intermediate results
_END = object()


def read_ahead(items: Iterable[T], *, depth: int = 2) -> Generator[T, None, None]:
    """Yield `items` in order while a thread prepares up to `depth` of them in advance.

    A full queue blocks the producer; nothing is dropped. An exception in the producer is raised
    here, after the items before it. Closing the generator stops the producer and waits for it.

    Args:
        items: consumed by the thread; a generator is closed by it.
        depth: items prepared in advance.

    Example:
        >>> list(read_ahead(range(5), depth=2))
        [0, 1, 2, 3, 4]
    """
    waiting: queue.Queue[object] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def hand_over(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        failure: BaseException | None = None
        try:
            for item in items:
                if not hand_over(item):
                    break
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            failure = error
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
        hand_over((_END, failure))

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, tuple) and len(item) == 2 and item[0] is _END:
                if item[1] is not None:
                    raise item[1]
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


def map_ahead(
    function: Callable[[T], Result], items: Iterable[T], *, workers: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of `items`, up to `workers` of them computed at once.

    The results do not depend on the number of workers if the function is pure. An exception is
    raised in its place. At most `workers` results wait to be fetched.

    Args:
        function: called in threads of this function's own.
        items: consumed by the caller's thread, as results are fetched.
        workers: threads; with 1 nothing is computed ahead.

    Example:
        >>> list(map_ahead(abs, [3, -4], workers=2))
        [3, 4]
    """
    if workers == 1:
        yield from map(function, items)
        return
    due: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="map-ahead") as pool:
        try:
            for item in items:
                due.append(pool.submit(function, item))
                if len(due) > workers:
                    yield due.popleft().result()
            while due:
                yield due.popleft().result()
        finally:
            for future in due:
                future.cancel()


def divide_threads(threads: int, *, crop_size: int) -> tuple[int, int]:
    """Divide a run's threads: how many batches at once, and how many threads work on each.

    Small networks are many small steps, between which threads would wait for each other: a thread
    a batch is faster, and its last bits do not depend on the number of threads. Large networks fill
    the memory, so there one batch gets all threads.

    Example:
        >>> divide_threads(2, crop_size=256), divide_threads(8, crop_size=256)
        ((2, 1), (4, 2))
        >>> divide_threads(8, crop_size=1024)
        (1, 8)
    """
    if crop_size > 512:
        return 1, threads
    workers = min(threads, MOST_WORKERS)
    return workers, threads // workers
