"""Official files into packs: what fits is loaded, what does not is named."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import official_files as made
from vidinvert.checkpoints import find_pack, list_packs, load_part, verify_pack
from vidinvert.errors import CheckpointError, KeyMismatchError, MissingError
from vidinvert.methods import load_method
from vidinvert.official import ImportPlan, import_files

STEM = "encoder.input_layer.0.weight"


def plan(kind: str, **changes) -> ImportPlan:
    return ImportPlan(**({"kind": kind, "detector": None} | changes))


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    return {
        "generator": made.rosinality(folder / "stylegan2-ffhq.pt"),
        "e4e": made.e4e(folder / "e4e_ffhq_encode.pt"),
        "samm": made.samm(folder / "net_g_410000.pth"),
    }


def edit(path: Path, change) -> Path:
    """Change a file's content in place."""
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_an_encoder_brings_its_generator_and_mean(tmp_path, zipped):
    path = made.e4e(tmp_path / "e4e.pt", zipped=zipped)
    pack = import_files([path], tmp_path / "faces", plan("e4e", license="MIT"))
    assert (pack.name, pack.generator, pack.license) == ("faces", "stylegan2", "MIT")
    assert (pack.crop_size, pack.style_count, pack.style_width) == (64, 10, 64)
    assert pack.settings["channels"] == list(made.CHANNELS)
    assert pack.settings["trunk_widths"] == list(made.TRUNK)
    assert set(pack.files) == {"generator", "encoder", "w_mean"}
    source = pack.provenance["sources"]["encoder"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source["file"], source["licence"]) == ("e4e.pt", "MIT")
    verify_pack(pack)
    encoder = load_part(pack, "encoder")
    wanted = made.encoder_state()
    assert encoder.keys() == {*wanted, "w_mean"}
    assert all(torch.equal(encoder[name], tensor) for name, tensor in wanted.items())
    torch.testing.assert_close(encoder["w_mean"], made.w_mean()[None])
    method = load_method(pack, method="e4e")
    crops = torch.rand(1, 3, 64, 64) * 2 - 1
    embedding = method.embed(crops)
    assert method.synthesise(embedding, embedding.w_plus).image.shape == (1, 3, 64, 64)


def test_files_given_together_or_one_after_the_other_make_the_same_parts(tmp_path, files):
    together = import_files(list(files.values()), tmp_path / "a", plan("samm"))
    target = tmp_path / "b"
    import_files([files["generator"]], target, plan("stylegan2"))
    import_files([files["e4e"]], target, plan("e4e"))
    later = import_files([files["samm"]], target, plan("samm"))
    assert set(later.files) == set(together.files) == {"generator", "encoder", "samm", "w_mean"}
    for part in together.files:
        one, other = load_part(together, part), load_part(later, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert together.settings == later.settings
    assert later.settings["pyramid_upsampling"] == "bicubic"
    assert set(later.provenance["sources"]) == set(later.files)
    assert load_method(later, method="samm").samm.specs == made.LEVELS


def test_averaged_weights_are_read_and_the_others_left(tmp_path, files):
    pack = import_files(list(files.values()), tmp_path / "faces", plan("samm"))
    samm, wanted = load_part(pack, "samm"), made.samm_state()
    assert all(torch.equal(samm[name], tensor) for name, tensor in wanted.items())


def test_files_of_an_imported_pack_are_safetensors_in_our_names(tmp_path, files):
    pack = import_files([files["e4e"]], tmp_path / "faces", plan("e4e"))
    for entry in pack.files.values():
        assert entry.path.suffix == ".safetensors"
        assert entry.format == "vidinvert"
        assert load_file(entry.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["faces", "files"]  # nothing is left over


def test_a_new_pack_takes_over_a_detector_and_its_licence(tmp_path, files):
    pack = import_files(
        [files["generator"]], tmp_path / "faces", plan("stylegan2", detector="mini", license="MIT")
    )
    assert pack.license == "MIT AND CC-BY-NC-SA-4.0"
    assert pack.files["detector"].sha256 == find_pack("mini").files["detector"].sha256
    assert (pack.files["detector"].path.parent / "manifest.json").is_file()
    assert "mini" in pack.provenance["sources"]["detector"]["file"]


def test_an_unstated_licence_is_recorded_as_unknown(tmp_path, files):
    pack = import_files([files["generator"]], tmp_path / "faces", plan("stylegan2"))
    assert pack.license == "unknown: not stated when it was imported"


def test_a_missing_mean_comes_from_the_generator_or_a_file_or_samples(tmp_path, files):
    bare = made.e4e(tmp_path / "bare.pt", mean=False)
    pack = import_files([bare, files["generator"]], tmp_path / "a", plan("e4e"))
    torch.testing.assert_close(load_part(pack, "encoder")["w_mean"], made.w_mean()[None])
    torch.save(made.w_mean() + 1, tmp_path / "avg_latent.pth")
    pack = import_files([bare, tmp_path / "avg_latent.pth"], tmp_path / "b", plan("e4e"))
    torch.testing.assert_close(load_part(pack, "encoder")["w_mean"], made.w_mean()[None] + 1)
    pack = import_files([bare], tmp_path / "c", plan("e4e"))
    sampled = load_part(pack, "encoder")["w_mean"]
    assert sampled.shape == (1, 64)
    assert "mapped samples" in pack.provenance["sources"]["w_mean"]["file"]
    assert torch.equal(sampled, load_part(pack, "w_mean")["w_mean"])


def test_a_mean_code_that_is_not_the_encoders_is_refused(tmp_path, files):
    import_files([files["e4e"]], tmp_path / "faces", plan("e4e"))
    torch.save(made.w_mean(), tmp_path / "same.pth")
    torch.save(made.w_mean() + 1, tmp_path / "other.pth")
    given = [files["samm"], tmp_path / "other.pth"]
    with pytest.raises(KeyMismatchError, match=r"other\.pth is not the mean code of the encoder"):
        import_files(given, tmp_path / "faces", plan("samm"))
    import_files([files["samm"], tmp_path / "same.pth"], tmp_path / "faces", plan("samm"))


@pytest.mark.parametrize(
    ("kind", "which", "change", "message"),
    [
        ("stylegan2", "generator", lambda c: c["g_ema"].pop("conv1.conv.weight"),
         r"1 missing: g_ema\.conv1\.conv\.weight"),
        ("stylegan2", "generator", lambda c: c["g_ema"].update({"noises.noise_99": torch.ones(1)}),
         r"1 not mentioned: g_ema\.noises\.noise_99"),
        ("stylegan2", "generator", lambda c: c.update({"critic": {"a": torch.ones(1)}}),
         r"not mentioned: critic\.a"),
        ("stylegan2", "generator",
         lambda c: c["g_ema"].update({"convs.1.conv.weight": torch.ones(1, 16, 15, 3, 3)}),
         r"g_ema\.convs\.1\.conv\.weight has the shape \(1, 16, 15, 3, 3\), expected"),
        ("e4e", "e4e", lambda c: c["state_dict"].pop("encoder.styles.3.linear.bias"),
         r"1 missing: state_dict\.encoder\.styles\.3\.linear\.bias"),
        ("e4e", "e4e", lambda c: c["state_dict"].update({"encoder.extra": torch.ones(1)}),
         r"1 not mentioned: state_dict\.encoder\.extra"),
        ("e4e", "e4e", lambda c: c["state_dict"].update({"decoder.extra": torch.ones(1)}),
         r"1 not mentioned: state_dict\.decoder\.extra"),
        ("e4e", "e4e",
         lambda c: c["state_dict"].update({"encoder.latlayer1.weight": torch.ones(64, 9, 1, 1)}),
         r"state_dict\.encoder\.latlayer1\.weight has the shape \(64, 9, 1, 1\)"),
        ("e4e", "e4e", lambda c: c.update({"latent_avg": torch.ones(18, 64)}),
         r"latent_avg has the shape \(18, 64\), expected \(1, 64\) or \(10, 64\)"),
        ("e4e", "e4e", lambda c: setattr(c["opts"], "encoder_type", "GradualStyleEncoder"),
         "encoder_type 'GradualStyleEncoder', an encoder of kind psp, expected one of kind e4e"),
        ("e4e", "e4e",
         lambda c: c["state_dict"].update({STEM: torch.ones(16, 6, 3, 3)}),
         "takes 6 channels, expected 3 of e4e. ReStyle encoders take 6"),
        ("samm", "samm", lambda c: c["params_ema"].pop("feats_conv.0.bias"),
         r"1 missing: params_ema\.feats_conv\.0\.bias"),
        ("samm", "samm", lambda c: c["params_ema"].update({"generator.a": torch.ones(1)}),
         r"1 not mentioned: params_ema\.generator\.a"),
        ("samm", "samm",
         lambda c: c["params_ema"].update({"feats_conv.1.weight": torch.ones(12, 7, 1, 1)}),
         r"params_ema\.feats_conv\.1\.weight has the shape \(12, 7, 1, 1\)"),
        ("samm", "samm", lambda c: c.pop("params_ema"),
         r"expected params_ema\.feats_conv\.\*"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_as_the_file_names_it(tmp_path, files, kind, which, change, message):
    edit(files[which], change)
    given = list(files.values()) if kind == "samm" else [files[which]]
    with pytest.raises(CheckpointError, match=message):
        import_files(given, tmp_path / "faces", plan(kind))
    assert not (tmp_path / "faces").exists()


def test_files_of_different_generators_are_refused(tmp_path, files):
    small = made.rosinality(tmp_path / "small.pt", size=32)
    with pytest.raises(
        KeyMismatchError, match=r"e4e_ffhq_encode\.pt has style_count 10, expected 8"
    ):
        import_files([small, files["e4e"]], tmp_path / "faces", plan("e4e"))
    other = made.rosinality(tmp_path / "other.pt", seed=9)
    with pytest.raises(
        KeyMismatchError, match=r"another generator than other\.pt .*decoder\.input"
    ):
        import_files([other, files["e4e"]], tmp_path / "faces", plan("e4e"))
    import_files([other], tmp_path / "faces", plan("stylegan2"))
    with pytest.raises(KeyMismatchError, match="another generator than that of the pack 'faces'"):
        import_files([files["e4e"]], tmp_path / "faces", plan("e4e"))
    import_files([small], tmp_path / "small", plan("stylegan2"))
    with pytest.raises(KeyMismatchError, match=r"style_count 10, expected 8 as .*small has"):
        import_files([files["e4e"]], tmp_path / "small", plan("e4e"))


def test_samm_of_other_levels_is_refused(tmp_path, files):
    def drop(content):
        for name in [n for n in content["params_ema"] if ".0." in n or ".1." in n]:
            if name.startswith(("feats_conv.1", "modulation.1")):
                content["params_ema"].pop(name)

    edit(files["samm"], drop)
    with pytest.raises(KeyMismatchError, match=r"has 1 levels \(feats_conv\.\*\), expected 2"):
        import_files(list(files.values()), tmp_path / "faces", plan("samm"))


def test_what_a_kind_needs_and_is_not_there_is_named(tmp_path, files):
    with pytest.raises(MissingError, match=r"No generator was found in net_g_410000\.pth"):
        import_files([files["samm"]], tmp_path / "faces", plan("samm"))
    with pytest.raises(MissingError, match="No encoder was found"):
        import_files([files["generator"]], tmp_path / "faces", plan("e4e"))
    with pytest.raises(MissingError, match="expected a file of weights"):
        import_files([tmp_path / "gone.pt"], tmp_path / "faces", plan("e4e"))
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(KeyMismatchError, match=r"holds a, expected a generator \(g_ema"):
        import_files([tmp_path / "a.pt"], tmp_path / "faces", plan("e4e"))
    with pytest.raises(KeyMismatchError, match="both hold a StyleGAN2 generator"):
        import_files([files["generator"]] * 2, tmp_path / "faces", plan("stylegan2"))


def test_parts_are_replaced_only_when_asked(tmp_path, files):
    target = tmp_path / "faces"
    first = import_files([files["generator"]], target, plan("stylegan2"))
    with pytest.raises(CheckpointError, match="has the part 'generator' already"):
        import_files([files["generator"]], target, plan("stylegan2"))
    other = made.rosinality(tmp_path / "other.pt", seed=9)
    second = import_files([other], target, plan("stylegan2", overwrite=True))
    assert second.files["generator"].sha256 != first.files["generator"].sha256
    verify_pack(second)


def test_a_folder_of_something_else_is_left_alone(tmp_path, files):
    with pytest.raises(CheckpointError, match=r"directory without pack\.toml"):
        import_files([files["generator"]], tmp_path / "files", plan("stylegan2"))


def test_imported_packs_are_listed_by_name(tmp_path, files, monkeypatch):
    monkeypatch.setenv("VIDINVERT_PACKS", str(tmp_path / "packs"))
    import_files([files["generator"]], tmp_path / "packs" / "faces", plan("stylegan2"))
    assert "faces" in [pack.name for pack in list_packs()]
    assert find_pack("faces").generator == "stylegan2"
