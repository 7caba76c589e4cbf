"""What a worker makes of an order: a result, a report, thumbnails, or a reason."""

import json
import os

import av
import numpy as np
import pytest

from tests.batch.jobs import light_setup, open_light, orders_below, write_source
from tests.mini import SAMPLE, read_clip
from vidinvert.batch import Order, Setup
from vidinvert.batch.work import Assignment, Heart, carry_out, load_job, memory_bytes
from vidinvert.pipeline import Span


def work_on(tmp_path, order, job):
    said = []
    assignment = Assignment(order=order, work=tmp_path / "work", log=tmp_path / "logs" / "log")
    carry_out(job, assignment, said.append)
    return assignment, said


@pytest.fixture
def order(tmp_path):
    write_source(tmp_path / "in", "a", steps=9)
    return orders_below(tmp_path / "in")[0]


def test_a_result_is_reported_with_its_hash_and_not_made_again(tmp_path, order):
    assignment, said = work_on(tmp_path, order, open_light(light_setup(), "cpu"))
    assert [message.kind for message in said][-1] == "done"
    assert said[-1].values["report"]["written"] == 9
    assert len(assignment.result.read_text().splitlines()) == 9
    _, again = work_on(tmp_path, order, None)  # no job: the report of the first run is taken
    assert [message.kind for message in again] == ["done"]
    assert again[0].values == said[-1].values


@pytest.mark.promise(8)
def test_what_a_killed_run_left_half_written_is_removed(tmp_path, order):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".vidinvert-0123.partial").write_bytes(b"half")
    work_on(tmp_path, order, open_light(light_setup(), "cpu"))
    assert not list((tmp_path / "work").glob(".*"))


@pytest.mark.promise(9)
@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (MemoryError(), "memory", "It ran out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory", "can't allocate"),
        (RuntimeError("CUDA out of memory. Tried"), "memory", "CUDA out of memory"),
        (OSError(28, "No space left"), "crash", "No space left"),
        (KeyError("x"), "crash", "KeyError: 'x'"),
    ],
)
def test_whatever_a_job_raises_becomes_a_reason(tmp_path, order, error, kind, reason):
    def fail(order, *, work, result, tell):
        print("before it failed")
        raise error

    assignment, (message,) = work_on(tmp_path, order, fail)
    assert (message.kind, message.values["kind"]) == ("failed", kind)
    assert reason in message.values["reason"]
    log = assignment.log.read_text()
    assert "before it failed" in log
    assert "Traceback" in log


def test_a_heart_beats_until_it_is_stopped():
    beats = []
    heart = Heart(beats.append, every_seconds=0.01)
    while len(beats) < 3:
        pass
    heart.stop()
    assert {message.kind for message in beats} == {"beat"}


def test_memory_is_that_of_the_process():
    assert memory_bytes(os.getpid()) > 1e6
    assert memory_bytes(2**22 + 1) == 0


@pytest.mark.promise(8)
@pytest.mark.slow
def test_the_editor_resumes_and_leaves_thumbnails(tmp_path, monkeypatch):
    monkeypatch.setattr("vidinvert.pipeline.SEGMENT_FRAMES", 8)
    order = Order(
        source=SAMPLE,
        output=SAMPLE.relative_to(SAMPLE.parent),
        edits=("smile=2",),
        span=Span(end_seconds=0.8),
    )
    job = load_job(Setup(metrics=True), "cpu")
    assignment, said = work_on(tmp_path / "whole", order, job)
    assert said[-1].kind == "done", said[-1]
    assert said[-1].values["report"]["written"] == 20
    metrics = said[-1].values["report"]["metrics"]
    assert metrics, "no figures"
    assert all(isinstance(value, float) for value in metrics.values())
    assert {name.partition(".")[0] for name in metrics} >= {"outside", "face 0"}
    stages = {message.values["stage"] for message in said if message.kind == "progress"}
    assert stages == {"detect", "invert", "render", "measure"}
    for name in ("before.jpg", "after.jpg"):
        with av.open(str(assignment.work / name)) as picture:
            (frame,) = picture.decode(video=0)
        assert (frame.height, frame.width) == (180, 180)
    whole = assignment.result
    broken = tmp_path / "broken" / "work"
    (broken / "segments").mkdir(parents=True)
    for segment in sorted((assignment.work / "segments").iterdir())[:2]:
        os.link(segment, broken / "segments" / segment.name)
    os.link(assignment.work / "analysis.npz", broken / "analysis.npz")
    assignment, said = work_on(tmp_path / "broken", order, job)
    assert "invert" not in {m.values["stage"] for m in said if m.kind == "progress"}
    rendered = [
        m.values["done"] for m in said if m.kind == "progress" and m.values["stage"] == "render"
    ]
    assert min(rendered) > 16
    assert assignment.result.read_bytes() == whole.read_bytes()
    np.testing.assert_array_equal(read_clip(assignment.result)[0], read_clip(whole)[0])
    assert json.loads((assignment.work / "report.json").read_text())["edit"] == ["smile=2"]
