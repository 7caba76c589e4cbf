import numpy as np
import pytest
import torch

from tests.mini import SAMPLE, mini, read_clip
from vidinvert import images
from vidinvert.errors import NoFaceError, OpenError, PlanError
from vidinvert.methods.optimisation import OptimisationPlan
from vidinvert.portraits import diffuse, find_codes, interpolate, mix, read_portrait, strip


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """Two crops of the sample's face: the second mirrored and darker, as another person."""
    directory = tmp_path_factory.mktemp("portraits")
    frame = read_clip(SAMPLE)[0][0]
    images.write_png(directory / "first.png", frame)
    images.write_png(directory / "second.png", (frame[:, ::-1] * 0.6).astype(np.uint8))
    return [read_portrait(directory / f"{name}.png", mini()) for name in ("first", "second")]


def test_the_largest_face_is_cut_out(portraits, tmp_path):
    for crop in portraits:
        assert crop.shape == (1, 3, 256, 256)
    picture = images.to_uint8(portraits[0])[0]
    images.write_png(tmp_path / "crop.png", picture)
    again = read_portrait(tmp_path / "crop.png", mini(), aligned=True)
    assert np.array_equal(images.to_uint8(again)[0], picture)


def test_what_is_no_portrait_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    images.write_png(tmp_path / "grey.png", np.full((64, 80, 3), 90, np.uint8))
    with pytest.raises(OpenError, match=r"text\.png cannot be read as a picture"):
        read_portrait(tmp_path / "text.png", mini())
    with pytest.raises(OpenError, match=r"absent\.png cannot be read"):
        read_portrait(tmp_path / "absent.png", mini())
    with pytest.raises(NoFaceError, match=r"No face found in .*grey\.png"):
        read_portrait(tmp_path / "grey.png", mini())
    with pytest.raises(PlanError, match=r"80 x 64 pixels, expected a square crop"):
        read_portrait(tmp_path / "grey.png", mini(), aligned=True)


def test_codes_between_two_faces_begin_and_end_with_theirs(portraits):
    first, second = (find_codes(crop, mini().method) for crop in portraits)
    line = interpolate(first, second, count=5)
    torch.testing.assert_close(line[:1], first)
    torch.testing.assert_close(line[-1:], second)
    torch.testing.assert_close(line[2:3], (first + second) / 2)
    with pytest.raises(ValueError, match="count is 1"):
        interpolate(first, second, count=1)


def test_mixing_replaces_the_chosen_layers_alone(portraits):
    first, second = (find_codes(crop, mini().method) for crop in portraits)
    mixed = mix(first, second, layers=range(1, 3))
    assert torch.equal(mixed[:, [0, 3]], first[:, [0, 3]])
    assert torch.equal(mixed[:, 1:3], second[:, 1:3])
    with pytest.raises(PlanError, match=r"Layers 2 to 4 .* expected some of 0 to 3"):
        mix(first, second, layers=range(2, 5))


def test_diffusion_gets_nearer_to_the_target_within_its_part(portraits):
    target, context = portraits
    done = diffuse(target, context, mini().method, plan=OptimisationPlan(steps=8, rate=0.03))
    part = (slice(None), slice(None), slice(90, 200), slice(70, 180))
    assert torch.equal(done.stitched[part], target[part])
    outside = torch.ones(256, 256, dtype=torch.bool)
    outside[90:200, 70:180] = False
    assert torch.equal(done.stitched[..., outside], context[..., outside])
    before = (done.inverted - target)[part].square().mean()
    after = (done.image - target)[part].square().mean()
    assert after < 0.9 * before
    assert done.losses.shape[:2] == (8, 1)
    assert done.image.shape == target.shape
    with pytest.raises(PlanError, match="reaches out of the crop"):
        diffuse(target, context, mini().method, box=(0.5, 0.5, 0.6, 0.1))


def test_pictures_lie_side_by_side():
    row = strip(torch.stack([torch.full((3, 4, 4), -1.0), torch.ones(3, 4, 4)]))
    assert row.shape == (4, 8, 3)
    assert row[:, :4].max() == 0
    assert row[:, 4:].min() == 255
