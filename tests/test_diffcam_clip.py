"""Diff-CAM on the shipped sample, from frames to frames, before encoding."""

from dataclasses import replace

import numpy as np
import pytest

import vidinvert
from tests.mini import SAMPLE
from vidinvert.editing import parse_edits
from vidinvert.media import decode, probe
from vidinvert.pipeline import analyse, edit_faces, find_tracks, mask_edits
from vidinvert.rendering import mask_in_frame, render


def quiet(stage, done, total):
    pass


@pytest.mark.promise(5)
@pytest.mark.slow
def test_outside_the_mask_and_without_an_edit_frames_are_the_sources_bit_for_bit():
    pack = vidinvert.load_pack("mini", method="diffcam")
    info = probe(SAMPLE)
    plans = vidinvert.Plans()
    shots, tracks = find_tracks(info, pack, plans, frames=range(6), progress=quiet)
    found = analyse(info, shots, tracks[:1], pack, plans, frames=range(6), progress=quiet)
    edit = parse_edits(["smile=0@0s,0@0.08s,2@0.2s", "age=0@0.1s,1@0.2s"], pack.directions)
    plans = replace(plans, edit=edit)
    masked = mask_edits(found, pack, plans)
    faces = edit_faces(masked, plans)
    batches = render(decode(info, stop=6), faces, pack.method, plans.render)
    out = np.concatenate([batch.frames for batch in batches])
    source = np.concatenate([batch.frames for batch in decode(info, stop=6)])
    still = faces[0].strength == 0
    assert still.tolist() == [True, True, True, False, False, False]
    np.testing.assert_array_equal(out[:3], source[:3])
    for index in range(3, 6):
        kept = mask_in_frame(faces, index, source.shape[1:3]).numpy() == 1.0
        assert 0.2 < kept.mean() < 0.98
        changed = (out[index] != source[index]).any(axis=2)
        assert not changed[kept].any()
    assert changed.mean() > 0.02
