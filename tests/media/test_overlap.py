"""Reading ahead in a thread: order, bound, exceptions, early end."""

import threading
import time

import pytest

from vidinvert.media import read_ahead


def test_items_come_in_order():
    assert list(read_ahead(iter(range(50)), depth=3)) == list(range(50))


def test_the_producer_waits_for_a_slow_consumer():
    made = []

    def produce():
        for number in range(20):
            made.append(number)
            yield number

    ahead = []
    for number in read_ahead(produce(), depth=2):
        time.sleep(0.005)
        ahead.append(len(made) - number)
    assert max(ahead) <= 2 + 2  # in the queue, in the producer's hand, in the consumer's


def test_an_exception_arrives_after_the_items_before_it():
    def produce():
        yield 1
        raise KeyError("lost")

    items = read_ahead(produce())
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


def test_ending_early_closes_the_producer_and_its_thread():
    closed = threading.Event()

    def produce():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = read_ahead(produce(), depth=1)
    next(items)
    items.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
