"""The key of a result: the same work has the same key, any other has another."""

from dataclasses import replace
from pathlib import Path

import pytest

from stabilizers import GaussianFilter, StabilizerPlan
from vidinvert.batch import Order, Setup
from vidinvert.batch.orders import clip_name, hash_file, result_key, work_name
from vidinvert.pipeline import Span
from vidinvert.types import EncodeSettings, Plans, RenderPlan

ORDER = Order(source=Path("/in/a.mp4"), output=Path("a.mp4"), edits=("smile=1",), plans=Plans())
SETUP = Setup(pack_sha256="0" * 64)


def key(order=ORDER, setup=SETUP, content="f" * 64):
    return result_key(order, setup, content_sha256=content)


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    "change",
    [
        {"edits": ("smile=2",)},
        {"edits": ("smile=1", "age=1")},
        {"face": "all"},
        {"span": Span(start_seconds=1.0)},
        {"allow_no_face": True},
        {"output": Path("a.mkv")},
        {"plans": Plans(encode=EncodeSettings(crf=20.0))},
        {"plans": Plans(render=RenderPlan(batch_size=4))},
        {"plans": Plans(stabilizer=StabilizerPlan(mask=GaussianFilter(sigma_seconds=0.3)))},
    ],
)
def test_every_setting_of_a_clip_is_in_the_key(change):
    assert key(replace(ORDER, **change)) != key()


@pytest.mark.promise(8)
@pytest.mark.parametrize(
    "change",
    [
        {"pack_sha256": "1" * 64},
        {"method": "e4e"},
        {"precision": "bf16"},
        {"min_score": 0.6},
        {"min_size": 30.0},
        {"devices": ("cuda:0",)},
        {"metrics": True},
    ],
)
def test_every_setting_of_the_networks_is_in_the_key(change):
    assert key(setup=replace(SETUP, **change)) != key()


def test_names_threads_and_the_number_of_gpus_are_not(monkeypatch):
    assert key(content="e" * 64) != key()
    assert key(replace(ORDER, source=Path("/b.mp4"), output=Path("b.mp4"))) == key()
    assert key(setup=replace(SETUP, threads=7)) == key()
    two = replace(SETUP, devices=("cuda:0", "cuda:1"))
    assert key(setup=two) == key(setup=replace(SETUP, devices=("cuda:1",)))
    before = key()
    monkeypatch.setattr("vidinvert.batch.orders.VERSION", "0.0.0")
    assert key() != before


def test_a_photo_counts_by_its_content(tmp_path):
    photo = tmp_path / "me.jpg"
    photo.write_bytes(b"one")
    first = key(replace(ORDER, face=str(photo)))
    photo.write_bytes(b"two")
    assert key(replace(ORDER, face=str(photo))) != first


def test_painted_masks_count_by_their_content(tmp_path):
    for name in ("000001.png", "000002.png"):
        (tmp_path / name).write_bytes(b"mask")
    plans = Plans(render=RenderPlan(mask_override=tmp_path))
    first = key(replace(ORDER, plans=plans))
    (tmp_path / "000002.png").write_bytes(b"another")
    assert key(replace(ORDER, plans=plans)) != first


def test_unfinished_work_belongs_to_one_output_and_number_of_threads():
    name = work_name(ORDER, SETUP, key=key())
    assert name != work_name(replace(ORDER, output=Path("b.mp4")), SETUP, key=key())
    assert name != work_name(ORDER, replace(SETUP, threads=2), key=key())
    assert clip_name(Path("a.mp4")) != clip_name(Path("b.mp4"))


def test_files_are_hashed_by_content(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert hash_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")
