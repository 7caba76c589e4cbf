"""Mutated clips, analyses, packs and manifests, and made-up edits: refused, never a crash.

A fixed budget in CI; longer by hand, with other seeds:

    VIDINVERT_FUZZ_SECONDS=600 VIDINVERT_FUZZ_SEED=7 python -m pytest -m slow tests/test_fuzz.py
"""

import os
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips import write_clip
from tests.measured import small_analysis
from tests.media.kinds import KINDS
from vidinvert.analysis import read_analysis, write_analysis
from vidinvert.batch.inputs import find_clips
from vidinvert.checkpoints import (
    check_self_contained,
    find_pack,
    load_directions,
    read_pack,
)
from vidinvert.editing import parse_edits
from vidinvert.errors import VidinvertError
from vidinvert.media import decode, probe
from vidinvert.types import Plans

pytestmark = pytest.mark.promise(16)
SECONDS = float(os.environ.get("VIDINVERT_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("VIDINVERT_FUZZ_SEED", "1"))
NAMES = ("faststart", "h264 mkv", "fragmented", "h264 ts", "vp9", "mpeg4 avi", "gif", "flv", "ffv1")


def mutate(content, rng):
    """Change, repeat, remove or overwrite some bytes, most of them in the head."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        reach = len(data) if rng.random() < 0.4 else min(len(data), 1500)
        place = int(rng.integers(0, max(1, reach)))
        how, length = int(rng.integers(5)), int(rng.integers(1, 9))
        if how == 0:
            data[place : place + 1] = bytes([int(rng.integers(256))])
        elif how == 1:
            data[place : place + length] = bytes(length)
        elif how == 2:
            data[place : place + length] = b"\xff" * length
        elif how == 3:
            data[place:place] = data[place : place + 40]
        else:
            del data[place : place + length]
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("salvage", [False, True])
def test_a_mutated_clip_is_read_or_refused(tmp_path, salvage):
    seeds = [write_clip(tmp_path, KINDS[name], name=name.replace(" ", "_")) for name in NAMES]
    contents = [(path.read_bytes(), path.suffix) for path in seeds]
    rng = np.random.default_rng([SEED, salvage])
    tried, ends = 0, time.monotonic() + SECONDS / 2
    while time.monotonic() < ends or tried < 30:
        content, suffix = contents[tried % len(contents)]
        path = tmp_path / f"mutant{suffix}"
        path.write_bytes(mutate(content, rng))
        tried += 1
        try:
            info = probe(path, salvage=salvage)
            count = sum(len(batch.indices) for batch in decode(info, stored=True))
            assert count == info.frame_count
        except VidinvertError:
            continue


@pytest.mark.slow
def test_a_mutated_analysis_is_read_or_refused(tmp_path):
    pack, path = find_pack("mini"), tmp_path / "kept.npz"
    analysis = small_analysis(tmp_path / "clip.mp4")
    write_analysis(path, analysis, pack=pack, plans=Plans())
    content, rng = path.read_bytes(), np.random.default_rng(SEED)
    ends = time.monotonic() + SECONDS / 4
    while time.monotonic() < ends:
        path.write_bytes(mutate(content, rng))
        try:
            read_analysis(path, info=analysis.info, pack=pack, method="samm", plans=Plans())
        except VidinvertError:
            continue


@pytest.mark.slow
def test_a_mutated_pack_is_read_or_refused(tmp_path):
    shipped = find_pack("mini").directory
    place = tmp_path / "pack"
    shutil.copytree(shipped, place)
    content, rng = (shipped / "pack.toml").read_bytes(), np.random.default_rng(SEED)
    ends = time.monotonic() + SECONDS / 4
    while time.monotonic() < ends:
        (place / "pack.toml").write_bytes(mutate(content, rng))
        try:
            read_pack(place)
        except VidinvertError:
            continue


EDIT_TEXT = st.text(st.sampled_from("smileag=:@,.-+0123456789eEnafs f_"), max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.one_of(EDIT_TEXT, st.text(max_size=30), EDIT_TEXT.map(lambda text: f"smile={text}")))
def test_any_text_is_an_edit_or_refused(text):
    directions = load_directions(find_pack("mini"))
    try:
        plan = parse_edits([text], directions)
    except VidinvertError:
        return
    for term in plan.terms:
        assert np.isfinite(term.strength_at(np.linspace(0, 9, 5))).all()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".csv", ".jsonl"]))
def test_any_bytes_are_a_manifest_or_refused(tmp_path_factory, content, suffix):
    place = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    place.write_bytes(b"source,output\n" + content if suffix == ".csv" else content)
    try:
        find_clips([str(place)], skip=place.parent / "out")
    except VidinvertError:
        return


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_mutated_network_is_looked_through_or_refused(tmp_path_factory, seed):
    place = tmp_path_factory.getbasetemp() / "fuzz.onnx"
    content = find_pack("mini").files["detector"].path.read_bytes()
    place.write_bytes(mutate(content[:4000], np.random.default_rng(seed)))
    try:
        check_self_contained(place)
    except VidinvertError:
        return
