"""Reading ahead in a thread: order, bound, exceptions, early end."""

import threading
import time

import pytest

from vidinvert.media import divide_threads, map_ahead, read_ahead


def test_items_come_in_order():
    assert list(read_ahead(iter(range(50)), depth=3)) == list(range(50))


@pytest.mark.promise(10)
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


@pytest.mark.promise(18)
def test_results_come_in_order_whichever_is_ready_first():
    def slow_when_even(number):
        time.sleep(0.02 if number % 2 == 0 else 0.0)
        return number * 10

    for workers in (1, 2, 3):
        found = list(map_ahead(slow_when_even, range(7), workers=workers))
        assert found == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.promise(10)
def test_a_bounded_number_of_items_is_worked_on_ahead():
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), workers=2)
    assert next(results) == 0
    assert len(taken) <= 3
    results.close()
    assert len(taken) <= 3


def test_an_error_is_raised_where_its_result_was_due():
    def divide(number):
        return 6 // number

    results = map_ahead(divide, [3, 2, 0, 1], workers=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_are_divided_so_that_large_networks_get_all_of_them():
    assert divide_threads(1, crop_size=256) == (1, 1)
    assert divide_threads(2, crop_size=512) == (2, 1)
    assert divide_threads(16, crop_size=256) == (4, 4)
    assert divide_threads(16, crop_size=1024) == (1, 16)
