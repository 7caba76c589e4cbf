"""Recording CUDA graphs: what passes must not do; the steps, with a stand-in; the real thing."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.methods.recorder import Recorder
from tests.methods.test_encoder_packs import packs  # noqa: F401 - a fixture
from tests.methods.test_stylegan2_packs import pack as stylegan2_pack  # noqa: F401 - a fixture
from vidinvert.checkpoints import find_pack
from vidinvert.methods import GraphedMethod, graph_method, load_method, sketch
from vidinvert.methods.cuda_graphs import CudaCapture
from vidinvert.networks.ops import blur

# Calls that wait for the device, copy from or to the CPU, or give a shape that depends on values.
WAITING = {
    torch.tensor,
    torch.as_tensor,
    torch.from_numpy,
    torch.nonzero,
    torch.masked_select,
    torch.unique,
    torch.repeat_interleave,
    torch.Tensor.new_tensor,
    torch.Tensor.cpu,
    torch.Tensor.cuda,
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.numpy,
    torch.Tensor.nonzero,
    torch.Tensor.masked_select,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
    torch.Tensor.__index__,
    torch.Tensor.pin_memory,
}


class Watch(TorchFunctionMode):
    """Notes calls that a CUDA graph cannot hold."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, []

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.calls += 1
        index = arguments[1] if function is torch.Tensor.__getitem__ else ()
        parts = index if isinstance(index, tuple) else (index,)
        listed = any(isinstance(part, list | torch.Tensor) for part in parts)
        if function in WAITING or listed:
            self.seen.append(function.__name__)
        return function(*arguments, **(named or {}))


class Places(TorchDispatchMode):
    """Notes steps that touch the CPU; the networks are elsewhere."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        leaves = tree_leaves((arguments, named, made))
        if any(isinstance(one, torch.Tensor) and one.device.type == "cpu" for one in leaves):
            self.seen.append(str(function))
        return made


@pytest.fixture
def on_meta(monkeypatch):
    """Passes on the meta device take the code of GPUs; it has no autocast, which none uses."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())

    def watch(pack, name, dtype):
        method = load_method(pack, method=name, device="meta", dtype=dtype)
        crops = torch.empty(2, 3, method.crop_size, method.crop_size, device="meta")
        calls, places = Watch(), Places()
        with torch.inference_mode(False), torch.no_grad(), places, calls:
            embedding = method.embed(crops)
            method.find_mask(embedding)
            method.synthesise(embedding, embedding.w_plus + 0.1)
            method.generate(embedding.w_plus)
            sketch(method, embedding.w_plus)
        assert calls.calls > 100
        return calls.seen + places.seen

    return watch


def test_the_watch_sees_what_a_graph_cannot_hold():
    calls = Watch()
    values = torch.arange(4.0)
    with calls:
        values.new_tensor([1.0])
        torch.tensor(1.0, device="meta")
        values.sum().item()
        values[[0, 1]]
        values[values > 1]
        bool(values[0] > 0)
        values[1:3] * 2.0
    assert calls.seen == [
        "new_tensor",
        "tensor",
        "item",
        "__getitem__",
        "__getitem__",
        "__bool__",
    ]
    places = Places()
    with places:
        torch.empty(2, device="meta") + 1.0
        assert places.seen == []
        torch.ones(2)
    assert places.seen == ["aten.ones.default"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("samm", torch.float32),
        ("samm", torch.bfloat16),
        ("restyle", torch.float16),
        ("force-indomain", torch.bfloat16),
        ("indomain:steps=0", torch.bfloat16),
    ],
)
def test_nothing_in_the_shipped_networks_keeps_a_pass_from_being_recorded(on_meta, name, dtype):
    assert on_meta(find_pack("mini"), name, dtype) == []


@pytest.mark.parametrize("kind", ["psp", "restyle_e4e", "featurestyle"])
def test_nothing_in_networks_of_kind_stylegan2_does(on_meta, packs, kind):  # noqa: F811
    assert on_meta(packs[kind], "samm", torch.bfloat16) == []


def test_nothing_in_e4e_alone_does(on_meta, stylegan2_pack):  # noqa: F811
    assert on_meta(stylegan2_pack, "e4e", torch.float32) == []


def test_the_blur_has_the_kernel_that_it_names():
    spike = torch.zeros(1, 1, 7, 7)
    spike[0, 0, 3, 3] = 64.0
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert torch.equal(blur(spike, padding=(0, 0, 0, 0))[0, 0], torch.outer(taps, taps))


class Pretended:
    """`torch.cuda` without a device: streams by name, and graphs that run the pass again."""

    def __init__(self, function):
        self.function, self.done, self.current = function, [], "main"
        self.pools, self.recording = 0, None
        pretended = self

        class Stream:
            def __init__(self, name="own"):
                self.name = name

            def wait_stream(self, other):
                pretended.done.append(f"{self.name} waits for {other.name}")

        class Graph:
            def replay(self):
                pretended.done.append("replay")
                inputs, outputs = pretended.recording
                for kept, new in zip(outputs, function(*inputs), strict=True):
                    kept.copy_(new)

        self.Stream, self.CUDAGraph = Stream, Graph
        self.main = Stream("main")

    def device(self, device):
        self.done.append(f"on {device}")
        return contextlib.nullcontext()

    def current_stream(self):
        return self.main if self.current == "main" else SimpleNamespace(name=self.current)

    def set_stream(self, stream):
        self.current = stream.name

    def graph_pool_handle(self):
        self.pools += 1
        return self.pools

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        self.done.append(f"record on {stream.name} in {pool}, {capture_error_mode}")
        self.current = stream.name  # as torch leaves it where the recording fails
        yield
        self.current = "main"


def test_a_recording_runs_beside_records_and_replays_into_the_same_outputs(monkeypatch):
    ran = []

    def double(value):
        ran.append(pretended.current)
        return (value * 2,)

    pretended = Pretended(double)
    monkeypatch.setattr(torch, "cuda", pretended)
    own = torch.ones(3)
    capture = CudaCapture(torch.device("cuda:1"))
    assert pretended.done == []
    replay = capture(double, (own,))
    assert ran == ["own", "own", "own"]  # twice to warm up, once to be recorded
    assert pretended.current == "main"
    assert pretended.done == [
        "on cuda:1",
        "own waits for main",
        "main waits for own",
        "record on own in 1, thread_local",
    ]
    kept = torch.zeros(3)
    pretended.recording = ((own,), (kept,))
    replay((torch.full((3,), 4.0),))
    assert torch.equal(kept, torch.full((3,), 8.0))
    assert torch.equal(own, torch.full((3,), 4.0))
    replay((torch.full((3,), 5.0),))
    assert torch.equal(kept, torch.full((3,), 10.0))
    assert pretended.done[4:] == [
        "on cuda:1",
        "replay",
        "on cuda:1",
        "main waits for main",
        "replay",
    ]


def test_a_recording_that_fails_leaves_the_callers_stream_and_a_new_pool(monkeypatch):
    def fail(value):
        if len(pretended.done) == 4:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (value,)

    pretended = Pretended(fail)
    monkeypatch.setattr(torch, "cuda", pretended)
    capture = CudaCapture(torch.device("cuda:0"))
    with pytest.raises(RuntimeError, match="not permitted"):
        capture(fail, (torch.ones(1),))
    assert pretended.current == "main"
    capture(fail, (torch.ones(1),))  # not locked out
    assert pretended.done[-1] == "record on own in 2, thread_local"


@pytest.mark.needs_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_graphs_on_a_gpu_give_what_the_method_gives(precision):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    plain = load_method(find_pack("mini"), method="samm", device="cuda:0", dtype=dtype)
    method = graph_method(plain, device="cuda:0", dtype=dtype, wanted="on")
    assert isinstance(method, GraphedMethod)
    close = {"rtol": 1e-2, "atol": 1e-2} if precision != "fp32" else {"rtol": 1e-4, "atol": 1e-4}
    kept = []
    with torch.inference_mode():
        for seed in range(4):
            random = torch.Generator().manual_seed(seed)
            crops = (torch.rand(2, 3, 256, 256, generator=random) * 2 - 1).to("cuda:0")
            seen, wanted = method.embed(crops), plain.embed(crops)
            torch.testing.assert_close(seen.w_plus, wanted.w_plus, **close)
            torch.testing.assert_close(
                method.find_mask(seen), plain.find_mask(wanted), rtol=0, atol=0.05
            )
            kept.append((method.generate(seen.w_plus), plain.generate(wanted.w_plus)))
    for ours, theirs in kept:
        torch.testing.assert_close(ours, theirs, **close)
    described = method.describe()
    assert described["eager"] == {}
    assert {row["pass"] for row in described["captured"]} == {"embed", "find_mask", "generate"}


@pytest.mark.needs_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_a_pass_that_waits_for_the_gpu_falls_back_there():
    class Reading:
        crop_size, style_count, style_width = 4, 1, 3

        def generate(self, w_plus):
            scale = w_plus.mean().item() if self.reads else 1.0
            return w_plus[:, 0, :, None, None].expand(-1, 3, 4, 4) * scale

        reads = True

    reading = Reading()
    method = graph_method(reading, device="cuda:0", dtype=torch.float32, wanted="on")
    for seed in range(4):
        codes = torch.rand(2, 1, 3, generator=torch.Generator().manual_seed(seed)).to("cuda:0")
        torch.testing.assert_close(method.generate(codes), reading.generate(codes))
    assert "could not be recorded" in method.describe()["eager"]["generate"]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_the_stand_in_records_as_the_protocol_says():
    """What other tests take for a graph must show what a graph would: outputs are overwritten."""
    recorder = Recorder()
    replay = recorder(lambda value: (value + 1,), (torch.zeros(2),))
    first = replay((torch.ones(2),))[0]
    assert torch.equal(first, torch.full((2,), 2.0))
    replay((torch.ones(2) * 2,))
    assert torch.equal(first, torch.full((2,), 3.0))
