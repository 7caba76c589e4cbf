from dataclasses import replace

import numpy as np
import pytest
import torch

from stabilizers import StabilizerPlan
from vidinvert.changes import EditedFace
from vidinvert.corrections import shape_mask
from vidinvert.errors import PlanError
from vidinvert.faces import crop_batch
from vidinvert.geometry import crop_from_quad, quad_from_crop
from vidinvert.inversion import invert, mask_edit, mask_size, stabilise_alignment
from vidinvert.rendering import (
    choose_composite,
    feather_mask,
    paste,
    paste_warped,
    render,
)
from vidinvert.types import (
    Alignment,
    Embedding,
    FrameBatch,
    MovedLatents,
    RenderPlan,
    Synthesis,
)

SIZE = 32


class Brightener:
    """A method whose only code is added to the picture; the right half is out of domain."""

    crop_size, style_count, style_width = SIZE, 1, 2

    def embed(self, crops):
        return Embedding(w_plus=torch.zeros(len(crops), 1, 2), features=(crops,))

    def find_mask(self, embedding):
        return self.synthesise(embedding, embedding.w_plus).ood

    def synthesise(self, embedding, w_plus):
        image = embedding.features[0] + w_plus[:, :, :1].reshape(-1, 1, 1, 1)
        ood = torch.zeros_like(image[:, :1])
        ood[..., SIZE // 2 :] = 1.0
        return Synthesis(image=image, ood=ood)

    def generate(self, w_plus):
        return w_plus[:, :, :1, None].expand(-1, 3, SIZE, SIZE).clone()


class Painter(Brightener):
    """A method that brightens the crop itself, and keeps the right half."""

    lacking = 0.0

    def find_mask(self, embedding):
        return torch.ones_like(embedding.features[0][:, :1])

    def find_edit_mask(self, w_plus, edited):
        ood = torch.ones(len(w_plus), 1, SIZE, SIZE)
        ood[..., : SIZE // 2] = 0.0
        return ood

    def synthesise(self, embedding, w_plus):
        crops, change = embedding.features[0], w_plus - embedding.w_plus
        image = crops + change[:, :, :1].reshape(-1, 1, 1, 1)
        return Synthesis(image=image, ood=self.find_edit_mask(embedding.w_plus, w_plus))

    def clean(self, crops, painted):
        assert (painted - crops).abs().max() > 0
        return torch.full_like(crops, self.lacking)


def frames(count=4, height=60, width=80, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(40, 200, (count, height, width, 3), dtype=np.uint8)
    return FrameBatch(frames=pixels, indices=np.arange(count, dtype=np.int64))


def alignment(indices, side=40.0, corner=(20.0, 10.0)):
    x, y = corner
    quad = np.array([[x, y], [x, y + side], [x + side, y + side], [x + side, y]]) - 0.5
    matrix = crop_from_quad(quad, SIZE)
    count = len(indices)
    return Alignment(
        crop_from_frame=np.repeat(matrix[None], count, axis=0),
        crop_size=SIZE,
        indices=np.array(indices, dtype=np.int64),
        quads_xy=np.repeat(quad_from_crop(matrix, SIZE)[None], count, axis=0),
    )


def edited_face(batch, placed, amount):
    (inversion,) = invert([batch], [placed], Brightener(), pack_sha256="0", method_name="test")
    codes = inversion.latents.w_plus.clone()
    codes[:, 0, 0] += amount
    strength = np.full(len(placed.indices), abs(amount))
    return EditedFace(
        alignment=placed,
        inversion=inversion,
        edited=replace(inversion.latents, w_plus=codes),
        strength=strength,
    )


def rendered(batch, face, **plan):
    (out,) = render([batch], [face], Brightener(), RenderPlan(**plan))
    return out


@pytest.mark.promise(5)
@pytest.mark.parametrize("side", [20.0, 40.0, 55.0])
def test_strength_zero_gives_the_source_bit_for_bit(side):
    batch = frames()
    face = edited_face(batch, alignment([0, 1, 2, 3], side=side), 0.0)
    np.testing.assert_array_equal(rendered(batch, face).frames, batch.frames)


@pytest.mark.promise(5)
def test_only_pixels_inside_the_crop_and_in_domain_change():
    batch = frames()
    out = rendered(batch, edited_face(batch, alignment([0, 1, 2, 3]), 0.5)).frames
    changed = np.any(out != batch.frames, axis=(0, 3))
    assert not changed[:10].any()
    assert not changed[50:].any()
    assert not changed[:, :20].any()
    assert not changed[:, 45:].any()  # the right half of the crop is out of domain
    assert changed[20:40, 26:36].all()


def test_the_residual_composite_adds_exactly_what_the_edit_changes():
    batch = frames()
    out = rendered(
        batch, edited_face(batch, alignment([0, 1, 2, 3]), 0.2), composite="residual"
    ).frames
    middle = (slice(None), slice(25, 35), slice(28, 34))
    difference = out[middle].astype(int) - batch.frames[middle]
    np.testing.assert_allclose(difference, 0.2 * 127.5, atol=1.0)


def test_the_generators_picture_fades_with_the_faces_presence():
    batch = frames()
    full = edited_face(batch, alignment([0, 1, 2, 3]), 0.0)
    faded = replace(full, presence=np.array([0.0, 0.5, 1.0, 1.0]))
    source = batch.frames.astype(float)
    whole = rendered(batch, full, composite="generated").frames - source
    part = rendered(batch, faded, composite="generated").frames - source
    np.testing.assert_array_equal(part[0], 0)
    np.testing.assert_allclose(part[1], whole[1] / 2, rtol=0, atol=1.0)
    np.testing.assert_array_equal(part[2:], whole[2:])


def test_the_generated_composite_shows_the_generators_picture():
    batch = frames()
    flat = replace(batch, frames=np.full_like(batch.frames, 100))
    face = edited_face(flat, alignment([0, 1, 2, 3]), 0.2)
    out = rendered(flat, face, composite="generated").frames
    np.testing.assert_allclose(out[:, 25:35, 28:34], 100 + 0.2 * 127.5, atol=1.0)


@pytest.mark.promise(6)
def test_frames_without_the_face_pass_through():
    batch = frames()
    face = edited_face(batch, alignment([1, 2]), 0.5)
    out = rendered(batch, face).frames
    np.testing.assert_array_equal(out[[0, 3]], batch.frames[[0, 3]])
    assert np.any(out[1] != batch.frames[1])


def test_the_frames_given_are_not_changed():
    batch = frames()
    before = batch.frames.copy()
    rendered(batch, edited_face(batch, alignment([0, 1, 2, 3]), 0.5))
    np.testing.assert_array_equal(batch.frames, before)


def test_a_crop_that_hangs_over_the_border_is_pasted_as_far_as_it_goes():
    batch = frames()
    face = edited_face(batch, alignment([0, 1, 2, 3], corner=(-15.0, -12.0)), 0.5)
    assert np.any(rendered(batch, face).frames[:, :10, :4] != batch.frames[:, :10, :4])


@pytest.mark.promise(5)
def test_a_crop_outside_the_frame_changes_nothing():
    frame = frames(1).frames[0].copy()
    before = frame.copy()
    far = alignment([0], corner=(500.0, 500.0)).crop_from_frame[0]
    paste(frame, np.full((SIZE, SIZE, 3), 9.0, np.float32), far)
    np.testing.assert_array_equal(frame, before)


def test_an_unknown_seam_is_refused():
    batch = frames()
    face = edited_face(batch, alignment([0]), 0.5)
    with pytest.raises(PlanError, match="seam 'poisson' is not available, expected feather"):
        rendered(batch, face, seam="poisson")


def test_the_feather_is_zero_on_the_border_and_one_inside():
    mask = feather_mask(64, 0.1)[0, 0]
    assert mask[0].max() == 0.0
    assert mask[:, -1].max() == 0.0
    assert torch.all(mask[8:-8, 8:-8] == 1.0)
    torch.testing.assert_close(mask, mask.flip(0))
    torch.testing.assert_close(mask, mask.T)


def test_masks_are_stored_at_half_the_crops_size_and_never_above_256():
    assert mask_size(256) == 128
    assert mask_size(1024) == 256


def test_an_inversion_has_a_code_and_a_mask_for_every_frame_of_the_track():
    batch = frames()
    placed = alignment([0, 2, 3])
    (inversion,) = invert([batch], [placed], Brightener(), pack_sha256="ab", method_name="test")
    assert inversion.latents.indices.tolist() == [0, 2, 3]
    assert tuple(inversion.mask.ood.shape) == (3, 1, 16, 16)
    row = inversion.mask.ood[0, 0, 0].tolist()  # antialiased where the mask steps
    assert row[:7] == [0] * 7
    assert row[9:] == [255] * 7
    assert (inversion.pack_sha256, inversion.method) == ("ab", "test")


def test_frames_that_end_before_the_track_are_an_error():
    with pytest.raises(ValueError, match="frame 7 of a track was not among the frames given"):
        invert([frames()], [alignment([0, 7])], Brightener(), pack_sha256="0", method_name="t")


def test_crops_are_cut_in_the_order_of_the_track():
    batch = frames()
    positions, crops = crop_batch(batch, alignment([1, 3], side=32.0))
    assert positions.tolist() == [0, 1]
    expected = batch.frames[3, 10:42, 20:52].transpose(2, 0, 1) / 127.5 - 1.0
    np.testing.assert_allclose(crops[1].numpy(), expected, atol=1e-6)


def test_a_still_alignment_stays_where_it_is_when_stabilised():
    placed = alignment([0, 1, 2, 3])
    steady = stabilise_alignment(placed, np.arange(4) / 25, StabilizerPlan(), shots=())
    np.testing.assert_allclose(steady.crop_from_frame, placed.crop_from_frame, atol=1e-9)


def test_still_pixels_keep_their_value_exactly():
    frame = frames(1).frames[0].copy()
    before = frame.copy()
    still = np.full((SIZE, SIZE, 2), 1e-3, np.float32)
    nothing = np.zeros((SIZE, SIZE, 3), np.float32)
    paste_warped(frame, still, nothing, alignment([0]).crop_from_frame[0])
    np.testing.assert_array_equal(frame, before)
    paste_warped(frame, still, nothing, alignment([0], corner=(500.0, 500.0)).crop_from_frame[0])
    np.testing.assert_array_equal(frame, before)


def test_masks_are_stretched_between_the_two_limits():
    (inversion,) = invert(
        [frames()], [alignment([0])], Brightener(), pack_sha256="0", method_name="t"
    )
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    inversion = replace(inversion, mask=replace(inversion.mask, ood=grey))
    shaped = shape_mask(inversion, RenderPlan(mask_min=0.2, mask_max=0.8)).mask.ood.flatten()
    assert shaped[:51].max() == 0
    assert shaped[205:].min() == 255
    assert torch.all(shaped.int().diff() >= 0)
    assert torch.equal(shape_mask(inversion, RenderPlan()).mask.ood, grey)


def test_limits_of_the_mask_that_cross_are_refused():
    with pytest.raises(ValueError, match="expected 0 <= mask_min < mask_max <= 1"):
        RenderPlan(mask_min=0.7, mask_max=0.6)


def painted_face(batch, placed, amount):
    """A face whose mask is of the edit; where `amount` (T,) is 0 nothing is edited."""
    (inversion,) = invert([batch], [placed], Painter(), pack_sha256="0", method_name="test")
    strength = np.asarray(amount, np.float64)
    move = (torch.tensor(strength, dtype=torch.float32), torch.tensor([[1.0, 0.0]]))
    edited = MovedLatents(latents=inversion.latents, moves=(move,))
    mask = mask_edit(inversion, edited, strength, Painter(), batch_size=3)
    return EditedFace(
        alignment=placed,
        inversion=replace(inversion, mask=mask),
        edited=edited,
        strength=strength,
        presence=np.ones(len(strength)),
    )


def test_the_mask_of_an_edit_is_one_where_there_is_none():
    face = painted_face(frames(), alignment([0, 1, 2, 3]), [0.0, 0.3, 0.3, 0.0])
    masks = face.inversion.mask.ood
    assert masks[[0, 3]].min() == 255
    assert masks[1, 0, :, :6].max() == 0
    assert torch.equal(masks[1], masks[2])


def test_a_painted_edit_changes_its_mask_alone_and_no_other_frame():
    batch = frames()
    face = painted_face(batch, alignment([0, 1, 2, 3]), [0.0, 0.3, 0.3, 0.0])
    (out,) = render([batch], [face], Painter(), RenderPlan())
    np.testing.assert_array_equal(out.frames[[0, 3]], batch.frames[[0, 3]])
    changed = np.any(out.frames[1:3] != batch.frames[1:3], axis=(0, 3))
    assert changed[20:40, 26:36].all()
    assert not changed[:, :20].any()
    assert not changed[:, 45:].any()  # kept by the mask
    assert not changed[:10].any()
    assert not changed[50:].any()


def test_what_a_painter_finds_lacking_is_added_in_the_mask_alone():
    batch = frames()
    face, painter = painted_face(batch, alignment([0, 1, 2, 3]), [0.0, 0.3, 0.3, 0.0]), Painter()
    (plain,) = render([batch], [face], painter, RenderPlan())
    painter.lacking = 8 / 127.5
    (out,) = render([batch], [face], painter, RenderPlan())
    added = out.frames.astype(np.int16) - plain.frames
    np.testing.assert_allclose(added[1:3, 25:35, 28:34], 8, atol=1)
    assert not added[[0, 3]].any()
    assert not added[:, :, 45:].any()  # kept by the mask
    (warped,) = render([batch], [face], painter, RenderPlan(composite="warped"))
    np.testing.assert_array_equal(warped.frames, plain.frames)


def test_methods_that_paint_show_their_own_picture_unless_told_otherwise():
    assert choose_composite(RenderPlan(), Brightener()) == "warped"
    assert choose_composite(RenderPlan(), Painter()) == "generated"
    assert choose_composite(RenderPlan(composite="residual"), Painter()) == "residual"


@pytest.mark.parametrize("scale", [0.4, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_the_part_that_changes_is_painted_and_comes_out_the_same(monkeypatch, scale, dtype):
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:32, :32]
    there = np.exp(-((x - 12) ** 2 + (y - 20) ** 2) / 12.0).astype(np.float32)
    there[there < 0.02] = 0.0
    flow = (there[..., None] * np.array([1.5, -0.7])).astype(np.float32)
    rest = (there[..., None] * np.array([20.0, -9.0, 4.0])).astype(np.float32)
    source = rng.integers(0, 255, (150, 140, 3)).astype(dtype)
    place = np.array([[1 / scale, 0.05, -6.0], [-0.05, 1 / scale, -2.0]])
    painted = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(
                "vidinvert.rendering.box_of_change", lambda *_, **__: (0, 0, 32, 32)
            )
        frame = source.copy()
        paste_warped(frame, flow, rest, place)
        paste(frame, np.concatenate([rest, there[..., None]], axis=2), place)
        painted.append(frame)
    assert (painted[0] != source).any()
    apart = np.abs(painted[0].astype(np.int64) - painted[1])
    assert apart.max() <= 2 * (257 if dtype == np.uint16 else 1)
    assert (apart > 0).mean() < 0.02

    frame = source.copy()
    paste_warped(frame, np.zeros_like(flow), np.zeros_like(rest), place)
    np.testing.assert_array_equal(frame, source)
