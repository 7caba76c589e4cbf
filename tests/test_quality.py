from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import Interval
from tests.test_rendering import alignment, edited_face, frames
from vidinvert.quality import Rendered, describe_steadiness, split
from vidinvert.types import FaceTrack, FrameBatch


def changed(batch, where, step):
    pixels = batch.frames.astype(int)
    pixels[where] += step
    return FrameBatch(frames=pixels.astype(np.uint8), indices=batch.indices)


def test_what_is_left_alone_outside_is_identical_there():
    batch, placed = frames(), alignment([0, 1, 2, 3])
    rendered = Rendered()
    rendered.add(batch, changed(batch, np.s_[:, 20:40, 30:50], 20), [placed])
    told = rendered.describe()
    assert told["psnr_outside"] is None
    assert told["psnr_outside_identical"] is True
    inside = rendered.inside.numbers / 3 / 4  # pixels that the crop covers, of which 400 changed
    assert told["psnr_face"] == pytest.approx(10 * np.log10(255**2 / (400 * 400 / inside)))
    assert 40 * 40 <= inside <= 48 * 48


def test_a_known_change_outside_has_its_psnr():
    batch, placed = frames(), alignment([0, 1, 2, 3])
    outside = np.s_[:, :5, :10]  # 50 of the pixels outside, by 10 levels
    rendered = Rendered()
    rendered.add(batch, changed(batch, outside, 10), [placed])
    pixels = rendered.outside.numbers / 3 / 4
    told = rendered.describe()
    assert told["psnr_outside"] == pytest.approx(10 * np.log10(255**2 / (100 * 50 / pixels)))
    assert told["psnr_outside_identical"] is False
    assert told["psnr_face"] is None


def test_two_readers_see_the_same_batches():
    first, second = split(iter([frames(), frames(seed=1)]))
    for a, b in zip(first, second, strict=True):
        assert a is b


def track_of(points):
    count = len(points)
    return FaceTrack(
        track_id=0,
        indices=np.arange(count),
        landmarks_xy=points,
        boxes_xyxy=np.zeros((count, 4)),
        score=np.ones(count),
    )


def test_a_known_shake_and_flicker_are_told():
    shape = np.array([[0.0, 0], [50, 0], [25, 30], [5, 50], [45, 50]])
    shake = np.array([0.0, 5.0] * 3)[:, None, None] * np.array([1.0, 0.0])
    placed = alignment(range(6))
    inversion = edited_face(frames(6), placed, 0.0).inversion
    blinking = (torch.arange(6) % 2 * 51).to(torch.uint8)[:, None, None, None]
    ood = blinking.expand(inversion.mask.ood.shape).contiguous()
    inversion = replace(inversion, mask=replace(inversion.mask, ood=ood))
    told = describe_steadiness(
        track_of(shape + shake),
        placed,
        inversion,
        inversion,
        raw_alignment=placed,
        shots=[Interval(0, 6)],
    )
    assert told["landmark_jitter"] == pytest.approx(2 * 5 / 50)
    assert told["crop_jitter"] == {"measured": pytest.approx(0.0), "steadied": pytest.approx(0.0)}
    assert told["mask_flicker"]["measured"] == pytest.approx(0.2)


def test_one_frame_does_not_shake():
    placed = alignment([0])
    inversion = edited_face(frames(1), placed, 0.0).inversion
    told = describe_steadiness(
        track_of(np.ones((1, 5, 2)) * np.arange(5)[:, None]),
        placed,
        inversion,
        inversion,
        raw_alignment=placed,
        shots=(),
    )
    assert told["landmark_jitter"] is None
    assert told["mask_flicker"] == {"measured": None, "steadied": None}
