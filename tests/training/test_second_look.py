"""The second look: its geometry, its recipe, and the same in the detector's file."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from insightface.app import FaceAnalysis

from tests.training.faces import drawn_source
from vidinvert.networks.detector import STRIDES, FaceDetectorNet
from vidinvert.networks.second_look import (
    EXPECTED_XY,
    PATCH,
    TURN,
    SecondLook,
    cut_patches,
    from_patch,
    place_patches,
    to_patch,
)
from vidinvert.training.detector_export import read_detector, to_onnx, write_model
from vidinvert.training.points import PointsRecipe, draw_face, load_points
from vidinvert.training.second_look_export import (
    add_second_look,
    carry_second_look,
    halve_weights,
    has_second_look,
    remove_second_look,
)

TURNED = torch.tensor([[60.0, -25.0], [25.0, 60.0]])  # 65 px a side, turned by 23 degrees


def random_look() -> SecondLook:
    """A network whose norms are no identities and whose points are not the expected ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        look = SecondLook(widths=(4, 4, 6, 8))
        torch.nn.init.normal_(look.head.weight, std=0.02)
        look.train()(torch.randn(8, 3, PATCH, PATCH))
    return look.eval()


def sure_detector() -> FaceDetectorNet:
    """A small random detector that is sure of a few cells."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        net = FaceDetectorNet(widths=(4, 4, 6, 8, 8), neck_width=8).train()
        net(torch.randn(4, 3, 64, 64))
        torch.nn.init.constant_(net.score.bias, 0.5)
        torch.nn.init.normal_(net.score.weight, std=0.6)
    return net.eval()


def run(model: onnx.ModelProto, pictures: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": pictures})


def smooth_pictures(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.standard_normal((count, 3, 8, 8), np.float32))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").numpy()


def test_patches_are_placed_by_turn_size_and_shift():
    expected = torch.tensor(EXPECTED_XY)
    points = expected @ TURNED.T + torch.tensor([12.0, 30.0])
    placed = place_patches(points[None])
    torch.testing.assert_close(placed[0, :2], torch.tensor([60.0, 25.0]))
    torch.testing.assert_close(to_patch(placed, points[None])[0], expected)
    other = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_patch(placed, from_patch(placed, other)), other)


def test_a_patch_shows_the_face_upright_and_in_its_size():
    points = torch.tensor(EXPECTED_XY) @ TURNED.T + torch.tensor([40.0, 20.0])
    y, x = torch.meshgrid(torch.arange(110.0), torch.arange(120.0), indexing="ij")
    places = torch.stack([x, y, 0 * x])[None]  # each pixel says where it is
    placed = place_patches(points[None])
    patch = cut_patches(places, placed)
    assert patch.shape == (1, 3, PATCH, PATCH)
    middles = (torch.tensor([[20.0, 30.0], [40.0, 52.0]]) + 0.5) / PATCH
    five = torch.cat([middles, middles, middles[:1]])[None]
    seen = torch.stack([patch[0, :2, 30, 20], patch[0, :2, 52, 40]])
    torch.testing.assert_close(seen, from_patch(placed, five)[0, :2], atol=1e-3, rtol=0)


def test_a_mirrored_face_turned_the_other_way_is_seen_alike():
    look, pictures = random_look(), torch.from_numpy(smooth_pictures(2, 96, 96))
    points = 48.0 + 60.0 * (torch.tensor(EXPECTED_XY) - 0.5) + torch.tensor([[[5.0, 2]], [[0, -4]]])
    mirrored = points[:, [1, 0, 2, 4, 3]] * torch.tensor([-1.0, 1.0]) + torch.tensor([95.0, 0.0])
    with torch.no_grad():
        found = look.look(pictures, points, turn=0.3, mirrored=False)
        other = look.look(pictures.flip(3), mirrored, turn=-0.3, mirrored=True)
        upright = look.look(pictures, points, turn=0.0, mirrored=False)
    other = other[:, [1, 0, 2, 4, 3]] * torch.tensor([-1.0, 1.0]) + torch.tensor([95.0, 0.0])
    torch.testing.assert_close(found, other, atol=1e-3, rtol=0)
    assert (found - upright).norm(dim=2).max() > 0.05  # another picture is seen


def test_later_looks_start_where_the_first_one_ended():
    """A network that always answers with the expected points and a shift lets one count them."""
    look = SecondLook(widths=(4, 4, 6, 8)).eval()
    torch.nn.init.constant_(look.head.bias.view(5, 2)[:, 1], 0.1)  # downwards
    points = 48.0 + 40.0 * (torch.tensor(EXPECTED_XY)[None] - 0.5)  # the patch has 40 pixels a side
    with torch.no_grad():
        found = look.refine(torch.zeros(1, 3, 96, 96), points)
    # 4 px after the first look; 8 after the others, turned by as much to both sides.
    down = (4.0 + 4.0 + 4.0 + 2 * 4.0 * np.cos(TURN)) / 3
    moved = (found - points)[0].mean(dim=0)
    torch.testing.assert_close(moved, torch.tensor([0.0, float(down)]), atol=1e-3, rtol=0)


def test_the_file_looks_again_at_the_faces_that_are_kept_and_at_no_other():
    net, look = sure_detector(), random_look()
    pictures = smooth_pictures(2, 96, 128)
    plain, twice = (
        run(model, pictures) for model in (to_onnx(net), add_second_look(to_onnx(net), look))
    )
    for before, after in zip(plain[:6], twice[:6], strict=True):
        np.testing.assert_array_equal(before, after)
    looked_at = 0
    for stride, rough, better, scores in zip(STRIDES, plain[6:], twice[6:], plain[:3], strict=True):
        for n, row in np.argwhere((rough != better).any(axis=2)):
            cell = np.array([row // 2 % (128 // stride), row // 2 // (128 // stride)]) * stride
            given = torch.from_numpy(rough[n, row].reshape(1, 5, 2) * stride + cell).float()
            with torch.no_grad():
                wanted = look.refine(torch.from_numpy(pictures[n : n + 1]), given)[0].numpy()
            np.testing.assert_allclose(
                better[n, row].reshape(5, 2) * stride + cell, wanted, atol=2e-3
            )
            assert scores[n, row, 0] > 0.3
            looked_at += 1
    kept = sum(int((s > 0.3).sum()) for s in plain[:3])
    assert 2 <= looked_at < kept  # suppression leaves out the rows beside a better one


def test_a_picture_without_faces_passes():
    net = sure_detector()
    torch.nn.init.constant_(net.score.bias, -20.0)
    model = add_second_look(to_onnx(net), random_look())
    for got, want in zip(
        run(model, np.zeros((1, 3, 64, 64), np.float32)),
        run(to_onnx(net), np.zeros((1, 3, 64, 64), np.float32)),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_a_second_look_is_taken_out_and_carried_over():
    plain = to_onnx(sure_detector())
    looking = add_second_look(plain, random_look())
    assert has_second_look(looking)
    assert not has_second_look(plain)
    again = remove_second_look(looking)
    assert [node.output for node in again.graph.node] == [node.output for node in plain.graph.node]
    pictures = smooth_pictures(1, 64, 64)
    carried = carry_second_look(plain, halve_weights(looking))
    for got, want in zip(run(carried, pictures), run(looking, pictures), strict=True):
        np.testing.assert_allclose(got, want, atol=5e-3)
    assert carry_second_look(plain, plain) is plain
    twice = add_second_look(looking, random_look())
    assert len(twice.graph.node) == len(looking.graph.node)


def test_halved_weights_compute_the_same_and_are_read_back(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = FaceDetectorNet().train()
        net(torch.randn(4, 3, 64, 64))
    model = add_second_look(to_onnx(net.eval()), SecondLook().eval())
    halved = halve_weights(model)
    assert halved.ByteSize() < 0.55 * model.ByteSize()
    assert halve_weights(halved).ByteSize() == halved.ByteSize()
    pictures = smooth_pictures(1, 64, 64)
    for got, want in zip(run(halved, pictures), run(model, pictures), strict=True):
        np.testing.assert_allclose(got, want, atol=0.02, rtol=0.02)
    write_model(halved, tmp_path)
    images = torch.from_numpy(smooth_pictures(4, 64, 96))
    again = read_detector(tmp_path / "detector.onnx", images)
    with torch.no_grad():
        for found, expected in zip(again(images), net(images), strict=True):
            torch.testing.assert_close(found, expected, atol=0.03, rtol=0.02)


def test_insightface_reads_a_detector_that_looks_twice(tmp_path):
    folder = write_model(
        halve_weights(add_second_look(to_onnx(sure_detector()), random_look())),
        tmp_path / "detector",
    )
    app = FaceAnalysis(
        name=str(folder), allowed_modules=["detection"], providers=["CPUExecutionProvider"]
    )
    app.prepare(ctx_id=-1, det_size=(128, 128), det_thresh=0.3)
    picture = np.random.default_rng(4).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    found, points = app.det_model.detect(picture)
    assert len(found) == len(points) > 0
    assert points.shape[1:] == (5, 2)


def recipe() -> PointsRecipe:
    return PointsRecipe(drawn_source(), drawn_source(2))


def test_a_repeated_batch_is_learnt():
    learner = recipe()
    for group in learner.optimizers["points"].param_groups:
        group["lr"] = 5e-5  # the loop warms up
    errors = [learner.step(0, 4, 0.0)["error"] for _ in range(20)]
    assert min(errors[-5:]) < 0.7 * errors[0]


def test_what_is_drawn_depends_on_the_images_seen_alone():
    first, second = recipe(), recipe()
    assert first.step(8, 2, 0.0) == second.step(8, 2, 0.5)
    assert first.step(8, 2, 0.0) != recipe().step(10, 2, 0.0)


def test_drawn_faces_carry_their_points_along():
    """The drawn eyes are the darkest places, whatever was done to size, turn and light."""
    source, errors = drawn_source(1), []
    for number in range(20):
        face = draw_face(np.random.default_rng(number), source, 0)
        apart = np.linalg.norm(face.true[1] - face.true[0])
        assert 4.0 < apart < 110.0
        gap = np.linalg.norm(face.found - face.true, axis=1).mean() / apart
        errors.append(gap)
        x, y = np.rint(face.true[:2].mean(axis=0)).astype(int)
        eyes = [face.image[round(b), round(a)].mean() for a, b in face.true[:2].tolist()]
        if number in (0, 3, 4, 5):
            assert min(eyes) < face.image[y, x].mean()
    assert 0.05 < np.mean(errors) < 0.2


def test_figures_and_sheet_and_weights():
    learner = recipe()
    figures = learner.evaluate()
    # At first the expected points are said, which is nearer than what the detector is drawn to say.
    assert 0.0 < figures["error"] < 0.5
    assert figures["error_given"] == pytest.approx(learner.evaluate()["error_given"])
    assert learner.sheet().shape == (4 * PATCH, 8 * 4 * PATCH, 3)
    state = learner.averaged["points"].state_dict()
    patch = torch.randn(1, 3, PATCH, PATCH)
    torch.testing.assert_close(load_points(state)(patch), learner.averaged["points"](patch))
