"""StyleGAN3's pickles become packs, every name, setting and filter accounted for; nothing runs."""

import os
import pickle
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.official.test_nvidia import Hostile
from tests.official_files import ada_state, e4e, install_fake_nvidia, network, nvidia, rosinality
from tests.reference import stylegan3 as reference
from tests.stylegan3_files import (
    CONFIGS,
    SIZE,
    STYLE_WIDTH,
    as_arrays,
    codes,
    filter_plan,
    generator,
    made_with,
    sg3_state,
)
from vidinvert.checkpoints import load_part, read_nvidia_pickle, verify_pack
from vidinvert.cli import main
from vidinvert.errors import CheckpointError, KeyMismatchError, MissingError
from vidinvert.methods import load_method
from vidinvert.networks.vgg import Vgg16Features
from vidinvert.official import DirectionPlan, ImportPlan, import_directions, import_files

PLAN = ImportPlan(kind="stylegan3", detector=None)
VGG_WIDTHS = (4, 6, 8, 8)
LAYER = "synthesis.L5_52_8"


@pytest.fixture(autouse=True)
def fake_nvidia(monkeypatch):
    install_fake_nvidia(monkeypatch)


@pytest.fixture(scope="module")
def states():
    return {config: sg3_state(generator(filter_plan(config))) for config in CONFIGS}


def pickled(path, state, config="T", **changes):
    return nvidia(path, state, made_with=made_with(filter_plan(config)) | changes)


def vgg_file(path):
    torch.manual_seed(5)
    flat = {}
    numbers = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21))
    for conv in Vgg16Features(widths=VGG_WIDTHS).convs:
        number = next(numbers)
        flat |= {f"layer{number}.weight": conv.weight.data, f"layer{number}.bias": conv.bias.data}
    torch.save(flat, path)
    return path


@pytest.mark.promise(14)
@pytest.mark.parametrize("config", CONFIGS)
def test_an_imported_generator_gives_the_picture_of_its_reference(tmp_path, states, config):
    pack = import_files([pickled(tmp_path / "x.pkl", states[config], config)], tmp_path / "f", PLAN)
    plan = filter_plan(config)
    assert (pack.generator, pack.crop_size) == ("stylegan3", SIZE)
    assert (pack.style_count, pack.style_width) == (16, STYLE_WIDTH)
    assert (pack.settings["kernel"], pack.settings["radial"]) == (plan.kernel, plan.radial)
    assert pack.settings["mapping_layers"] == 2
    verify_pack(pack)
    wanted_mean = states[config]["mapping.w_avg"]
    torch.testing.assert_close(load_part(pack, "w_mean")["w_mean"][0], wanted_mean)
    method = load_method(pack, method="optimise")
    w_plus = codes(generator(plan), 1)
    wanted = reference.synthesise(
        as_arrays(states[config]),
        w_plus.double().numpy(),
        size=SIZE,
        kernel=plan.kernel,
        radial=plan.radial,
    )
    seen = method.generate(w_plus).double().numpy()
    assert np.linalg.norm(seen - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_the_command_line_makes_shows_and_verifies_a_pack(tmp_path, states, capsys):
    target = tmp_path / "faces3"
    path = pickled(tmp_path / "stylegan3-t.pkl", states["T"])
    arguments = ["models", "import", "stylegan3", str(path), "-o", str(target)]
    assert main([*arguments, "--license", "Nvidia Source Code License"]) == 0
    assert f"faces3: stylegan3, {SIZE} px, 16 x {STYLE_WIDTH} codes" in capsys.readouterr().out
    assert main(["models", "verify", str(target)]) == 0
    assert main(["models", "show", str(target)]) == 0
    said = capsys.readouterr().out
    assert f"stylegan3, {SIZE} px" in said
    assert "StyleGAN3 generator" in said
    described = tomllib.loads((target / "pack.toml").read_text())
    source = described["provenance"]["sources"]["generator"]
    assert source["licence"] == "Nvidia Source Code License"
    assert source["file"] == "stylegan3-t.pkl"
    assert described["generator"]["first_stopband"] == 2**2.1


def test_a_state_dict_is_read_like_a_pickle_and_settings_may_differ(tmp_path, states):
    torch.save(states["R"], tmp_path / "x.pth")
    pack = import_files([tmp_path / "x.pth"], tmp_path / "faces", PLAN)
    assert pack.settings["radial"] is True
    plan = filter_plan(layers=6, critical=1, margin=6, first_stopband=5.0)
    odd = sg3_state(generator(plan))
    told = {"num_critical": 1, "margin_size": 6, "first_stopband": 5.0, "num_layers": 6}
    made = nvidia(tmp_path / "y.pkl", odd, made_with=made_with(plan) | told)
    other = import_files([made], tmp_path / "other", PLAN)
    assert [other.settings[name] for name in ("layers", "critical", "margin")] == [6, 1, 6]
    assert load_method(other, method="optimise").style_count == 8


def test_vgg_comes_with_it_or_later_and_directions_fit(tmp_path, states):
    path, vgg = pickled(tmp_path / "x.pkl", states["T"]), vgg_file(tmp_path / "vgg16.pth")
    both = import_files([path, vgg], tmp_path / "both", PLAN)
    assert both.settings["vgg_widths"] == list(VGG_WIDTHS)
    import_files([path], tmp_path / "later", PLAN)
    later = import_files([vgg], tmp_path / "later", PLAN)
    assert set(later.files) == set(both.files) == {"generator", "w_mean", "vgg"}
    with pytest.raises(MissingError, match="No generator was found in vgg16"):
        import_files([vgg], tmp_path / "alone", PLAN)
    np.save(tmp_path / "smile.npy", np.ones((1, STYLE_WIDTH), np.float32))
    np.save(tmp_path / "age.npy", np.ones((16, STYLE_WIDTH), np.float32))
    files = {name: tmp_path / f"{name}.npy" for name in ("smile", "age")}
    pack = import_directions(files, later.directory, DirectionPlan())
    assert load_part(pack, "directions")["smile"].shape == (16, STYLE_WIDTH)
    assert set(pack.directions) == {"smile", "age"}


def test_another_generator_brings_its_own_mean(tmp_path, states):
    first = import_files([pickled(tmp_path / "t.pkl", states["T"])], tmp_path / "faces", PLAN)
    with pytest.raises(CheckpointError, match="has the part 'generator' already"):
        import_files([pickled(tmp_path / "t.pkl", states["T"])], first.directory, PLAN)
    moved = states["T"] | {"mapping.w_avg": states["T"]["mapping.w_avg"] + 1}
    again = replace(PLAN, overwrite=True)
    pack = import_files([pickled(tmp_path / "u.pkl", moved)], first.directory, again)
    torch.testing.assert_close(load_part(pack, "w_mean")["w_mean"][0], moved["mapping.w_avg"])
    with pytest.raises(KeyMismatchError, match="has kernel 1, expected 3"):
        import_files([pickled(tmp_path / "r.pkl", states["R"], "R")], first.directory, again)


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping.embed.weight": torch.ones(2)}, r"1 not mentioned: mapping\.embed\.weight"),
        ({f"{LAYER}.noise_strength": torch.ones(1)}, rf"not mentioned: {LAYER}\.noise_strength"),
        ({f"{LAYER}.bias": None}, rf"1 missing: {LAYER}\.bias"),
        ({f"{LAYER}.up_filter": None}, rf"1 missing: {LAYER}\.up_filter"),
        ({"synthesis.input.freqs": None}, r"1 missing: synthesis\.input\.freqs"),
        ({"mapping.w_avg": None}, r"1 missing: mapping\.w_avg"),
        ({f"{LAYER}.weight": None}, r"the layers synthesis\.L0_36_8, .*without a gap"),
        ({f"{LAYER}.affine.bias": torch.ones(4)}, rf"{LAYER}\.affine\.bias has the shape \(4,\)"),
        ({f"{LAYER}.weight": torch.ones(8, 8, 1, 1)}, rf"{LAYER}\.weight has the shape \(8, 8"),
        ({"synthesis.input.phases": torch.ones(3)}, r"input\.phases has the shape \(3,\)"),
        ({f"{LAYER}.down_filter": torch.ones(12) / 12}, rf"{LAYER}\.down_filter \(12,\) is not"),
        ({f"{LAYER}.up_filter": torch.ones(1)}, rf"{LAYER}\.up_filter \(1,\) is not the filter"),
    ],
)
def test_other_generators_are_refused_by_the_name_that_differs(tmp_path, states, change, message):
    state = {k: t for k, t in (states["T"] | change).items() if t is not None}
    with pytest.raises(KeyMismatchError, match=message):
        import_files([pickled(tmp_path / "x.pkl", state)], tmp_path / "faces", PLAN)
    assert not (tmp_path / "faces").exists()


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_noise": True}, "was made with use_noise=True, which no StyleGAN3 published has"),
        ({"filter_size": "6"}, "was made with filter_size='6', expected a number"),
        ({"output_scale": float("inf")}, "was made with output_scale=inf, expected a number"),
        ({"filter_size": 10**9}, "cannot be a StyleGAN3: taps is 1000000000, expected"),
        ({"first_cutoff": 0}, "cannot be a StyleGAN3: first_cutoff and first_stopband are 0.0"),
        ({"margin_size": 12}, "L0_36_8 is 36 samples wide by its name, expected 40"),
        ({"first_cutoff": 3.0}, r"L0_36_8\.up_filter \(12,\) is not the filter \(12,\)"),
        ({"filter_size": 8}, r"L0_36_8\.up_filter \(12,\) is not the filter \(16,\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, states, change, message):
    with pytest.raises(KeyMismatchError, match=message):
        import_files([pickled(tmp_path / "x.pkl", states["T"], **change)], tmp_path / "f", PLAN)


@pytest.mark.promise(14)
def test_stylegan2_and_3_are_not_mistaken_for_each_other(tmp_path, states):
    three, two = pickled(tmp_path / "3.pkl", states["T"]), nvidia(tmp_path / "2.pkl", ada_state())
    for kind in ("stylegan2", "e4e", "samm"):
        plan = ImportPlan(kind=kind, detector=None)
        with pytest.raises(
            KeyMismatchError, match=r"3\.pkl holds a StyleGAN3 generator .*stylegan3"
        ):
            import_files([three], tmp_path / "faces", plan)
    others = (
        (two, "holds a StyleGAN2-ADA generator, expected a StyleGAN3"),
        (rosinality(tmp_path / "2.pt"), "holds a StyleGAN2 generator, expected a StyleGAN3"),
        (e4e(tmp_path / "e.pt"), "an encoder of kind e4e, expected one of kind stylegan3"),
    )
    for path, message in others:
        with pytest.raises(KeyMismatchError, match=message):
            import_files([path], tmp_path / "faces", PLAN)
    assert not (tmp_path / "faces").exists()
    import_files([three], tmp_path / "faces", PLAN)
    plan = ImportPlan(kind="stylegan2", detector=None, overwrite=True)
    with pytest.raises(KeyMismatchError, match="has kind stylegan2, expected stylegan3"):
        import_files([two], tmp_path / "faces", plan)


@pytest.mark.promise(14)
def test_settings_of_all_layers_are_read_and_nothing_is_run(tmp_path, states):
    seen = read_nvidia_pickle(pickled(tmp_path / "x.pkl", states["T"], num_critical=np.int64(2)))
    assert seen.settings["_init_kwargs.channel_max"] == 8
    assert seen.settings["_init_kwargs.num_critical"] == 2
    assert seen.settings["synthesis.training"] is False
    assert all(torch.equal(seen.tensors[name], t) for name, t in states["T"].items())


@pytest.mark.promise(14)
@pytest.mark.parametrize("place", ["state", "settings", "layer"])
def test_pickles_that_would_run_something_are_refused(tmp_path, states, place):
    target = tmp_path / "ran"
    root = network(states["T"], made_with=made_with(filter_plan()))
    hostile = Hostile(target, os.system)
    state = root.meta["state"]
    if place == "state":
        state["num_ws"] = hostile
    elif place == "settings":
        state["_init_kwargs"]["first_cutoff"] = hostile
    else:
        state["_modules"]["synthesis"].meta["state"]["_modules"]["L0_36_8"] = hostile
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"G_ema": root}, 3))
    with pytest.raises(CheckpointError, match=r"refers to \S*\.system, which no known file"):
        import_files([path], tmp_path / "faces", PLAN)
    assert not target.exists()
