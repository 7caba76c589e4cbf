import threading
import time

import pytest
import torch

from tests.measured import ShadeMethod
from vidinvert.cli.edit import profile_table
from vidinvert.clock import Clock
from vidinvert.methods import Refiner, time_method
from vidinvert.types import Embedding


def test_time_is_added_by_stage_from_any_thread():
    clock = Clock()

    def work():
        with clock.measure("rest"):
            time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds["rest"] >= 0.06
    assert clock.cpu_seconds["rest"] < 0.03  # sleeping is no work


def test_following_items_gives_them_all_counts_their_making_and_closes_their_maker():
    clock, closed = Clock(), []

    def items():
        try:
            for number in range(5):
                time.sleep(0.01)
                yield number
        finally:
            closed.append(True)

    assert list(clock.follow("make", items())) == [0, 1, 2, 3, 4]
    assert clock.seconds["make"] >= 0.05
    some = clock.follow("make", items())
    assert next(some) == 0
    some.close()
    assert closed == [True, True]


def test_time_counts_for_a_stage_that_fails():
    clock = Clock()
    with pytest.raises(ValueError, match="no"), clock.measure("try"):
        raise ValueError("no")
    assert "try" in clock.seconds


def test_an_event_is_marked_the_first_time():
    clock = Clock()
    clock.mark("first_frame")
    first = clock.seconds["first_frame"]
    time.sleep(0.01)
    clock.mark("first_frame")
    assert clock.seconds["first_frame"] == first


def test_a_timed_method_does_the_same_and_one_that_refines_stays_as_it_is():
    clock, method = Clock(), ShadeMethod()
    timed = time_method(method, clock)
    codes = torch.rand(2, 2, 4)
    assert torch.equal(timed.generate(codes), method.generate(codes))
    found = timed.embed(torch.zeros(2, 3, 32, 32))
    assert torch.equal(timed.synthesise(found, codes).image, method.generate(codes))
    assert (timed.crop_size, timed.style_count, timed.style_width) == (32, 2, 4)
    assert set(clock.seconds) == {"networks: embed", "networks: draw"}
    assert not isinstance(timed, Refiner)

    class Refining(ShadeMethod):
        def refine(self, crops, embedding, previous):
            return Embedding(w_plus=embedding.w_plus + 1)

    refining = Refining()
    assert time_method(refining, clock) is refining


def test_the_table_has_a_line_a_stage_and_the_passes_apart():
    clock = Clock()
    for stage in ("detect", "decode", "encode"):
        with clock.measure(stage):
            pass
    clock.mark("first_frame")
    lines = profile_table(clock.describe(), frames=10).splitlines()
    names = ["pass: detect", "decode", "encode", "all", "first frames written"]
    assert all(line.startswith(name) for line, name in zip(lines[1:], names, strict=True)), lines
