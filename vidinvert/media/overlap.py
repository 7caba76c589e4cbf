"""Let a producer run ahead of its consumer by a bounded number of items."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
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
