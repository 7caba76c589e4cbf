"""Generators without encoders: codes found by optimisation, on pictures and along clips."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vidinvert
from stabilizers import Interval, StabilizerPlan
from tests.methods.filled_packs import check_edit, whole_pack
from tests.mini import SAMPLE, read_clip
from tests.stylegan3_files import CONFIGS, codes, filter_plan, generator
from tests.test_rendering import alignment, frames
from vidinvert import images
from vidinvert.cli import main
from vidinvert.errors import CheckpointError, MissingError, PlanError
from vidinvert.inversion import choose_measured, invert
from vidinvert.methods import Follower, load_method
from vidinvert.methods.generator_only import FIRST_FRAME_FACTOR
from vidinvert.networks.stylegan2 import Generator
from vidinvert.networks.vgg import Vgg16Features
from vidinvert.types import Embedding, Synthesis

SIZE, LAYERS, CHANNELS, WIDTH = 32, 4, (16, 16, 12, 8), 16
VGG_WIDTHS = (4, 6, 8, 8)


def stylegan3_pack(directory, config="T", **changes):
    plan = filter_plan(config, size=SIZE, layers=LAYERS)
    network = generator(plan)
    described = {
        "kind": "stylegan3",
        "crop_size": SIZE,
        "style_count": network.style_count,
        "style_width": network.style_width,
        "channels": [*(len(layer.bias) for layer in network.layers), 3],
        "layers": LAYERS,
        "kernel": plan.kernel,
        "radial": plan.radial,
    }
    parts = {
        "generator": network.state_dict(),
        "w_mean": {"w_mean": codes(network, 64).mean(dim=(0, 1))[None]},
    }
    return whole_pack(directory, described | changes, parts)


def stylegan2_pack(directory):
    torch.manual_seed(0)
    channels = {4 * 2**level: width for level, width in enumerate(CHANNELS)}
    network = Generator(size=SIZE, style_width=WIDTH, channels=channels, mapping_layers=2)
    described = {
        "kind": "stylegan2",
        "crop_size": SIZE,
        "style_count": network.style_count,
        "style_width": WIDTH,
        "channels": list(CHANNELS),
        "mapping_layers": 2,
    }
    return whole_pack(directory, described, {"generator": network.state_dict()})


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    folder = tmp_path_factory.mktemp
    made = {config: stylegan3_pack(folder(config), config) for config in CONFIGS}
    return made | {"2": stylegan2_pack(folder("stylegan2"))}


def drawn(method, count, *, seed=7):
    """Return faces of nobody (count, 3, R, R), drawn from W."""
    z = torch.randn(count, method.style_width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        w = method.generator.mapping(z)[:, None].expand(-1, method.style_count, -1)
        return method.generate(w.contiguous())


def psnr(method, w_plus, crops):
    """Return the PSNR of each picture, on the range of the crops."""
    with torch.no_grad():
        error = (method.generate(w_plus) - crops).square().flatten(1).mean(dim=1)
    spread = crops.flatten(1).amax(dim=1) - crops.flatten(1).amin(dim=1)
    return 10 * torch.log10(spread.square() / error)


# Random weights of 3x3 make a steeper landscape than those of 1x1: measured 24 to 31, 39 to 44 and
# 44 to 51 dB, from 5 to 18 dB of the mean code's picture.
@pytest.mark.parametrize(
    ("kind", "reached", "gained"), [("T", 22, 9), ("R", 35, 18), ("2", 38, 24)]
)
def test_a_picture_that_the_generator_drew_is_found_again(packs, kind, reached, gained):
    method = load_method(packs[kind], method="optimise")
    assert isinstance(method, Follower)
    crops = drawn(method, 2)
    embedding = method.embed(crops)
    assert embedding.w_plus.shape == (2, method.style_count, method.style_width)
    assert (embedding.w_plus == method.w_mean).all()
    assert method.find_mask(embedding).abs().max() == 0
    found = method.refine(crops, embedding, None)
    before, after = (psnr(method, e.w_plus, crops) for e in (embedding, found))
    assert (after > reached).all()
    assert (after > before + gained).all()  # the loss falls to 1/8, 1/60 and 1/250 of the mean's
    shown = method.synthesise(found, found.w_plus)
    assert torch.equal(shown.image, method.generate(found.w_plus))
    assert shown.ood.shape == (2, 1, SIZE, SIZE)


def test_frames_start_from_the_first_one_of_their_run(packs):
    method = load_method(packs["T"], method="optimise:steps=20")
    crops = drawn(method, 1)
    first = method.refine(crops, method.embed(crops), None).w_plus
    with torch.no_grad():
        step = 0.1 * torch.randn(3, *first.shape[1:], generator=torch.Generator().manual_seed(0))
        following = method.generate(first + step)
    embedding = method.embed(following)
    started = psnr(method, first.expand(3, -1, -1), following)
    found = method.follow(following, embedding, first)
    assert (psnr(method, found.w_plus, following) > started + 6).all()
    alone = method.follow(following[:1], method.embed(following[:1]), first)
    torch.testing.assert_close(alone.w_plus[0], found.w_plus[0], rtol=1e-3, atol=1e-3)
    same = method.refine(following, embedding, first)
    assert torch.equal(same.w_plus, found.w_plus)


def test_the_first_frame_takes_more_steps_and_half_of_them_for_one_code(packs, monkeypatch):
    method = load_method(packs["T"], method="optimise:steps=2")
    calls = []

    def spy(crops, start, **arguments):
        calls.append((tuple(start.shape[:2]), arguments["plan"].steps))
        assert torch.equal(arguments["previous"], start)
        return optimise(crops, start, **arguments)

    module = "vidinvert.methods.generator_only"
    from vidinvert.methods.optimisation import optimise_codes as optimise

    monkeypatch.setattr(f"{module}.optimise_codes", spy)
    monkeypatch.setattr(f"{module}.MOST_PIXELS", 2 * SIZE**2)
    crops = drawn(method, 3)
    first = method.refine(crops[:1], method.embed(crops[:1]), None)
    method.follow(crops, method.embed(crops), first.w_plus)
    levels = method.style_count
    half = FIRST_FRAME_FACTOR
    assert calls == [((1, 1), half), ((1, levels), half), ((2, levels), 2), ((1, levels), 2)]


def test_features_are_compared_where_the_pack_has_vgg(tmp_path):
    plain = stylegan3_pack(tmp_path / "plain")
    bare = load_method(plain, method="optimise:steps=1")
    crops = drawn(bare, 1)
    assert [maps.shape[-1] for maps in bare.find_features(crops)] == [16, 8]
    torch.manual_seed(5)
    vgg = Vgg16Features(widths=VGG_WIDTHS)
    torch.save(vgg.state_dict(), plain.directory / "vgg.pt")
    files = {name: file.path.relative_to(plain.directory) for name, file in plain.files.items()}
    sizes = {"kind": "stylegan3", "crop_size": SIZE, "style_count": plain.style_count}
    richer = vidinvert.checkpoints.write_pack(
        plain.directory,
        name="richer",
        version="1",
        license="CC0-1.0",
        summary="With VGG16.",
        generator=sizes
        | {"style_width": plain.style_width, "vgg_widths": list(VGG_WIDTHS)}
        | dict(plain.settings),
        files={name: path.as_posix() for name, path in files.items()} | {"vgg": "vgg.pt"},
    )
    method = load_method(richer, method="optimise:steps=1")
    maps = method.find_features(crops)
    torch.testing.assert_close(maps[-1], vgg(crops))
    # Copies count as pixels do under the weight that features are published with.
    half = torch.nn.functional.avg_pool2d(crops, 2)
    torch.testing.assert_close(method.plan.feature_weight * maps[0].square(), half.square())


class Counter:
    """Codes of a run's first frame are its brightness, those of others the first's and a half."""

    crop_size, style_count, style_width = 32, 1, 1

    def __init__(self):
        self.batches = []

    def embed(self, crops):
        return Embedding(w_plus=torch.zeros(len(crops), 1, 1))

    def refine(self, crops, embedding, previous):
        assert len(crops) == len(embedding.w_plus) == 1
        assert previous is None
        return replace(embedding, w_plus=crops.mean(dim=(1, 2, 3)).view(1, 1, 1))

    def follow(self, crops, embedding, first):
        assert len(crops) == len(embedding.w_plus)
        self.batches.append(len(crops))
        return replace(embedding, w_plus=first.repeat(len(crops), 1, 1) + 0.5)

    def find_mask(self, embedding):
        return torch.zeros(len(embedding.w_plus), 1, 32, 32)

    def synthesise(self, embedding, w_plus):
        return Synthesis(image=self.generate(w_plus), ood=self.find_mask(embedding))

    def generate(self, w_plus):
        return torch.zeros(len(w_plus), 3, 32, 32)


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_runs_are_refined_together_whatever_the_batches(batch_size):
    method = Counter()
    seen = [0, 1, 2, 4, 5, 6, 7, 8, 9]  # frame 3 is missing, and a cut lies before frame 6
    (found,) = invert(
        [frames(10)],
        [alignment(seen)],
        method,
        pack_sha256="",
        method_name="counter",
        shots=(Interval(0, 6), Interval(6, 10)),
        batch_size=batch_size,
    )
    values = found.latents.w_plus.flatten().numpy()
    firsts = values[[0, 3, 5]]
    wanted = np.concatenate([[a, *[a + 0.5] * n] for a, n in zip(firsts, (2, 1, 3), strict=True)])
    np.testing.assert_array_equal(values, wanted.astype(np.float32))
    assert len(set(firsts.tolist())) == 3
    assert method.batches == {1: [1] * 6, 4: [2, 1, 2, 1], 20: [2, 1, 3]}[batch_size]


def test_every_third_frame_is_enough_where_all_is_averaged_over_time():
    placed, seconds, plan = alignment(range(7)), np.arange(7) / 25, StabilizerPlan()
    chosen = choose_measured(placed, Counter(), seconds, plan, shots=())
    assert chosen.astype(int).tolist() == [1, 0, 0, 1, 0, 0, 1]
    (found,) = invert(
        [frames(7)],
        [placed],
        Counter(),
        pack_sha256="",
        method_name="counter",
        batch_size=2,
        measured=[chosen],
    )
    values = found.latents.w_plus.flatten().numpy()
    np.testing.assert_allclose(values - values[0], [0, 1 / 6, 1 / 3, *[0.5] * 4], rtol=1e-6)


def test_a_clip_is_inverted_alike_whatever_the_batches(packs):
    method = load_method(packs["T"], method="optimise:steps=3")
    results = [
        invert(
            [frames(5)],
            [alignment(range(5))],
            method,
            pack_sha256="",
            method_name="optimise",
            batch_size=size,
        )[0].latents.w_plus
        for size in (5, 5, 2)
    ]
    assert torch.equal(results[0], results[1])
    torch.testing.assert_close(results[2], results[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["T", "2"])
def test_an_edit_through_the_pipeline(packs, tmp_path, kind):
    check_edit(packs[kind], tmp_path, method="optimise:steps=2")


def test_the_command_line_edits_and_draws(packs, tmp_path, capsys):
    pack = ["--pack", str(packs["T"].directory), "--method", "optimise", "--invert-steps", "1"]
    target = tmp_path / "out.mp4"
    edit = ["edit", str(SAMPLE), "-o", str(target), "--edit", "turn=2", "--end", "0.1", "--quiet"]
    assert main([*edit, *pack]) == 0
    assert target.is_file()
    picture = tmp_path / "face.png"
    images.write_png(picture, read_clip(SAMPLE)[0][0])
    for action in (["interpolate", "--count", "2"], ["mix"], ["diffuse", "--steps", "1"]):
        strip = tmp_path / f"{action[0]}.png"
        command = ["image", *action, str(picture), str(picture), "-o", str(strip), "--sheet"]
        assert main([*command, *pack]) == 0
        assert images.read_picture(strip).shape[0] == SIZE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("method", ["optimise:steps=1", "indomain:steps=1"])
def test_a_pack_loaded_in_inference_mode_has_gradients(packs, method):
    name = str(packs["T"].directory) if method.startswith("optimise") else "mini"
    with torch.inference_mode():
        models = vidinvert.load_pack(name, method=method)
        size = models.method.crop_size
        crops = torch.rand(1, 3, size, size) * 2 - 1
        embedding = models.method.embed(crops)
        if isinstance(models.method, Follower):
            embedding = models.method.refine(crops, embedding, None)
    assert embedding.w_plus.isfinite().all()
    outside = vidinvert.load_pack(name, method=method).method.embed(crops).w_plus
    if method.startswith("indomain"):
        torch.testing.assert_close(embedding.w_plus, outside, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["T", "R", "2"])
def test_in_bfloat16_codes_stay_float32_and_get_better(packs, kind):
    method = load_method(packs[kind], method="optimise:steps=10", dtype=torch.bfloat16)
    crops = drawn(method, 1)
    embedding = method.embed(crops)
    found = method.refine(crops, embedding, None)
    assert found.w_plus.dtype == torch.float32
    before, after = (psnr(method, e.w_plus, crops) for e in (embedding, found))
    assert (after > before + 3).all()


def test_no_steps_leave_the_mean_code(packs):
    method = load_method(packs["T"], method="optimise:steps=0")
    crops = drawn(method, 1)
    embedding = method.embed(crops)
    assert torch.equal(method.refine(crops, embedding, None).w_plus, embedding.w_plus)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style_count": 9}, "has style_count 9, expected 6 for crop_size 32"),
        ({"taps": 99}, "describes no StyleGAN3: taps is 99, expected a number from 2 to 16"),
        ({"kernel": "three"}, "describes no StyleGAN3: .*Correct its description"),
        ({"channels": [8, 3]}, r"describes no StyleGAN3: channels are \[8, 3\], expected 4"),
        ({"channels": [8, 8, 8, -8, 3]}, r"channels are \[8, 8, 8, -8, 3\], expected 4"),
        ({"kernel": 1}, r"layers\.0\.weight \(8, 8, 3, 3\), expected \(8, 8, 1, 1\)"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, change, message):
    pack = stylegan3_pack(tmp_path / "wrong", **change)
    with pytest.raises(CheckpointError, match=message):
        load_method(pack, method="optimise")


def test_methods_that_need_more_than_a_generator_are_refused(packs):
    with pytest.raises(PlanError, match="does not run the method 'samm', expected one of: opti"):
        load_method(packs["T"], method="samm")
    widths = {**packs["2"].settings, "trunk_widths": [16, 32, 48, 16]}
    with pytest.raises(MissingError, match="has no part 'encoder'"):
        load_method(replace(packs["2"], settings=widths), method="e4e")


def test_without_a_mean_code_in_the_pack_samples_give_it(packs):
    files = {name: file for name, file in packs["T"].files.items() if name != "w_mean"}
    method, given = (
        load_method(pack, method="optimise")
        for pack in (replace(packs["T"], files=files), packs["T"])
    )
    assert (method.w_mean - given.w_mean).square().mean() < 0.05 * given.w_mean.square().mean()
    w = method.generator.mapping(torch.randn(2000, method.style_width))
    torch.testing.assert_close(method.w_mean[0], w.mean(dim=0), rtol=0, atol=0.15)
