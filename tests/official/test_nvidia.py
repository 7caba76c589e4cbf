"""NVIDIA's pickles: read as data, nothing of them run."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.official_files import (
    BLUR,
    SIZE,
    STYLE_COUNT,
    STYLE_WIDTH,
    Layer,
    ada_state,
    install_fake_nvidia,
    network,
    nvidia,
    w_mean,
)
from tests.reference import stylegan2_ada as reference
from vidinvert.checkpoints import load_part, read_nvidia_pickle
from vidinvert.errors import CheckpointError, KeyMismatchError
from vidinvert.networks.stylegan2 import Generator
from vidinvert.official import ImportPlan, import_files

PLAN = ImportPlan(kind="stylegan2", detector=None)


@pytest.fixture(autouse=True)
def fake_nvidia(monkeypatch):
    install_fake_nvidia(monkeypatch)


@pytest.mark.promise(14)
@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_tensor_is_read_and_nothing_is_run(tmp_path, protocol):
    state = ada_state()
    seen = read_nvidia_pickle(nvidia(tmp_path / "ffhq.pkl", state, protocol=protocol))
    assert seen.class_name == "Generator"
    assert seen.settings["img_resolution"] == SIZE
    assert seen.tensors.keys() == state.keys()
    assert all(torch.equal(seen.tensors[name], tensor) for name, tensor in state.items())


@pytest.mark.promise(14)
def test_kinds_of_numbers_and_views_of_others_are_read(tmp_path):
    wanted = {
        "half": torch.randn(3).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "whole": torch.arange(4),
        "view": torch.randn(4, 6)[1:, ::2],
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
    }
    seen = read_nvidia_pickle(nvidia(tmp_path / "x.pkl", {})).tensors
    assert seen == {}
    seen = read_nvidia_pickle(nvidia(tmp_path / "x.pkl", {f"a.{k}": t for k, t in wanted.items()}))
    for name, tensor in wanted.items():
        assert torch.equal(seen.tensors[f"a.{name}"], tensor)
        assert seen.tensors[f"a.{name}"].dtype == tensor.dtype


@pytest.mark.promise(14)
@pytest.mark.parametrize("mapping_layers", [2, 8])
def test_an_imported_generator_gives_the_picture_of_its_reference(tmp_path, mapping_layers):
    state = ada_state(mapping_layers=mapping_layers)
    path = nvidia(tmp_path / "ffhq.pkl", state)
    pack = import_files([path], tmp_path / "faces", PLAN)
    assert (pack.generator, pack.crop_size) == ("stylegan2", SIZE)
    assert (pack.style_count, pack.style_width) == (STYLE_COUNT, STYLE_WIDTH)
    assert pack.settings["mapping_layers"] == mapping_layers
    channels = {4 * 2**n: width for n, width in enumerate(pack.settings["channels"])}
    generator = Generator(
        size=SIZE, style_width=STYLE_WIDTH, channels=channels, mapping_layers=mapping_layers
    )
    generator.load_state_dict(load_part(pack, "generator"))
    source = torch.Generator().manual_seed(4)
    w_plus = torch.randn(2, STYLE_COUNT, STYLE_WIDTH, generator=source)
    with torch.no_grad():
        seen = generator(w_plus, noise=generator.noise)
        codes = generator.mapping(w_plus[:, 0])
    wanted = reference.synthesise(state, w_plus)
    assert wanted.std() > 0.1
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codes, reference.map_codes(state, w_plus[:, 0]))
    torch.testing.assert_close(load_part(pack, "w_mean")["w_mean"][0], w_mean())


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping.embed.weight": torch.ones(2)}, r"1 not mentioned: mapping\.embed\.weight"),
        ({"synthesis.b8.skip.weight": torch.ones(2)}, "not mentioned: synthesis.b8.skip.weight"),
        ({"synthesis.b8.torgb.bias": None}, r"1 missing: synthesis\.b8\.torgb\.bias"),
        ({"synthesis.b8.torgb.bias": torch.ones(4)}, r"b8\.torgb\.bias has the shape \(4,\)"),
        ({"synthesis.b8.resample_filter": BLUR.flip(0) * 2}, "resample_filter is not the filter"),
        ({"synthesis.b8.resample_filter": torch.ones(1)}, "resample_filter is not the filter"),
    ],
)
def test_other_generators_are_refused_by_the_name_that_differs(tmp_path, change, message):
    state = {k: t for k, t in (ada_state() | change).items() if t is not None}
    with pytest.raises(KeyMismatchError, match=message):
        import_files([nvidia(tmp_path / "x.pkl", state)], tmp_path / "faces", PLAN)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path, call) -> None:
        self.target, self.call = target, call

    def __reduce__(self):
        return self.call, (f"touch {self.target}",)


@pytest.mark.promise(14)
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", [os.system, eval, exec, pickle.loads, __import__, getattr])
def test_pickles_that_call_anything_else_are_refused_and_not_run(tmp_path, protocol, call):
    target = tmp_path / "ran"
    generator = network(ada_state())
    generator.meta["state"]["synthesis"] = Hostile(target, call)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"G_ema": generator}, protocol))
    name = getattr(call, "__name__", "")
    with pytest.raises(CheckpointError, match=rf"refers to \S*\.{name}, which no known file"):
        read_nvidia_pickle(path)
    assert not target.exists()


HOSTILE = {
    "a name in the extension registry": b"\x80\x02\x82\x01.",
    "the old opcode of instances": b"(S'touch ran'\nios\nsystem\n.",
    "the old opcode of objects": b"\x80\x02(c__builtin__\neval\nS'1'\no.",
    "a call of what was made": b"\x80\x02cbuiltins\nset\n)R)R.",
    "a call of a text": b"\x80\x02X\x04\x00\x00\x00eval)R.",
    "a state on a name": b"\x80\x02cbuiltins\nset\n}X\x01\x00\x00\x00aK\x01sb.",
    "pairs for a name": b"\x80\x02cbuiltins\nset\nK\x01K\x02s.",
    "items for a number": b"\x80\x02K\x01K\x02a.",
    "a name made of numbers": b"\x80\x04K\x01K\x02\x93.",
    "a name with a dot": b"\x80\x04\x8c\x08builtins\x8c\x0dset.__class__\x93.",
    "too little on the stack": b"\x80\x02)R.",
    "a mark in a tuple": b"\x80\x02(K\x01\x86.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "an odd number of pairs": b"\x80\x02}(K\x01u.",
    "no end": b"\x80\x02K\x01",
    "nothing": b"",
    "a protocol to come": b"\x80\x09K\x01.",
    "a truncated text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "keywords for a constructor": b"\x80\x04cbuiltins\nset\n)}K\x01K\x02s\x92.",
    "a buffer from outside": b"\x80\x05\x97.",
    "text": b"<!DOCTYPE html><html></html>",
}


@pytest.mark.promise(14)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_programs_that_no_network_needs_are_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_nvidia_pickle(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.promise(14)
def test_modules_in_modules_without_end_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    layer = Layer("deep")
    for _ in range(40):
        outer = Layer("deep")
        outer.meta["state"]["_modules"]["in"] = layer
        layer = outer
    path.write_bytes(pickle.dumps({"G_ema": layer}, 4))
    with pytest.raises(CheckpointError, match="modules 17 deep"):
        read_nvidia_pickle(path)


@pytest.mark.promise(14)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"G": 1}, "holds G, expected networks with 'G_ema'"),
        ([1], "holds list, expected networks"),
        ({"G_ema": 3}, "is a int, expected a layer"),
        ({"G_ema": Layer("x", version=5)}, "is stored in version 5, expected 6"),
        ({"G_ema": Layer("x", kind="function")}, "expected a layer as NVIDIA"),
        ((1, 2, 3), "TensorFlow release.*python legacy.py --source=x.pkl"),
    ],
)
def test_other_pickles_are_refused_with_what_they_hold(tmp_path, content, message):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, 3))
    with pytest.raises(CheckpointError, match=message):
        read_nvidia_pickle(path)


@pytest.mark.promise(14)
def test_a_tensor_that_reaches_beyond_its_values_is_refused(tmp_path):
    path = nvidia(tmp_path / "x.pkl", {"a.weight": torch.arange(6.0).reshape(2, 3)})
    content = path.read_bytes()
    shape = b"K\x02K\x03\x86"
    assert content.count(shape) == 1
    path.write_bytes(content.replace(shape, b"K\x02K\x09\x86"))
    with pytest.raises(CheckpointError, match=r"shape is \(2, 9\).*does not fit 6 values"):
        read_nvidia_pickle(path)


@pytest.mark.promise(14)
def test_every_truncation_is_refused(tmp_path):
    path = nvidia(tmp_path / "x.pkl", {"a.weight": torch.arange(6.0)})
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_nvidia_pickle(path)
