"""A method whose passes are recorded once and played again: CUDA graphs, kept honest by eager runs.

A small network is hundreds of small kernels, and starting each from Python takes longer than it
runs. A graph starts them all at once, always on the same memory.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vidinvert.methods.sketched import sketch
from vidinvert.methods.wrapped import WrappedMethod
from vidinvert.types import Embedding, Synthesis

PASSES = ("embed", "find_mask", "synthesise", "generate", "sketch")
MOST_GRAPHS = 8  # a method; each keeps its inputs and outputs, and all share what lies between
# Largest relative L2 difference between a replay and the eager run, by the features' precision.
# The same kernels give the same bits; another algorithm of a convolution rounds otherwise, in bf16
# once in some thousand numbers. What is stale, or was overwritten, is off by 0.01 and more.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}
# Recorded on other values than are compared: a replay that kept any of them is found out.
_SHRUNK = 0.5

Pass = Callable[..., tuple[Tensor, ...]]
Key = tuple[str, tuple[Any, ...]]


class Replay(Protocol):
    """A recorded pass: inputs of the recorded shapes to outputs, always the same tensors.

    The next replay overwrites these. `RuntimeError` where it cannot be played.
    """

    def __call__(self, inputs: Sequence[Tensor], /) -> tuple[Tensor, ...]:
        """Play the pass with other inputs."""
        ...


class Capture(Protocol):
    """Records a pass; `vidinvert.methods.cuda_graphs.CudaCapture` is the one for CUDA."""

    def __call__(self, function: Pass, inputs: tuple[Tensor, ...]) -> Replay:
        """Record `function(*inputs)`; each replay overwrites `inputs`, which become its own.

        Raises:
            RuntimeError: the pass cannot be recorded.
        """
        ...


@dataclass(slots=True, eq=False)
class _Graphs:
    """What a method's calls have left: the graphs, and the passes that stay eager, with reasons."""

    seen: Counter[Key] = field(default_factory=Counter)
    replays: dict[Key, Replay] = field(default_factory=dict)
    differences: dict[Key, float] = field(default_factory=dict)
    eager: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphedMethod(WrappedMethod):
    """Passes calls on, from the third of a kind by a graph; implements `vidinvert.methods.Method`.

    A kind is a pass with the shapes of its inputs. Its second call is recorded: run as always,
    recorded with other values, replayed with those of the call, and compared. Where recording
    fails, or the replay differs, that pass runs as always from then on; the result of the call is
    the eager one either way. So a clip's last, smaller batch is not worth a graph.

    Results are copies: the next replay may overwrite the recorded outputs, and an embedding's
    features wait for `find_mask` and `synthesise`, which copy them into inputs of their own. One
    lock guards all graphs of a method, for they share memory; on one device they would wait for
    each other anyway.

    Graphs keep the memory of what lies between, which eager passes would share in turns: where an
    eager pass finds too little, all graphs are let go, for good, and it is tried again.

    Calls through which gradients are to pass are always eager.

    Attributes:
        method: what is recorded; its passes follow their inputs' device, and read no values.
        capture: records a pass.
        tolerance: largest relative L2 difference of any output, see `TOLERANCE`.
        most: graphs at most; further kinds are eager.
    """

    capture: Capture
    tolerance: float
    most: int = MOST_GRAPHS
    _graphs: _Graphs = field(init=False, default_factory=_Graphs)

    def embed(self, crops: Tensor) -> Embedding:
        """Find codes and features of crops (N, 3, R, R)."""
        w_plus, *features = self._run("embed", self._embed, (crops,))
        return Embedding(w_plus=w_plus, features=tuple(features))

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the embedded codes, (N, 1, R, R)."""
        return self._run("find_mask", self._find_mask, (embedding.w_plus, *embedding.features))[0]

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D) for embedded crops."""
        inputs = (w_plus, embedding.w_plus, *embedding.features)
        image, ood, *flows = self._run("synthesise", self._synthesise, inputs)
        return Synthesis(image=image, ood=ood, flows=tuple(flows))

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) by the generator alone."""
        return self._run("generate", self._generate, (w_plus,))[0]

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) as `methods.sketch`."""
        return self._run("sketch", self._sketch, (w_plus,))[0]

    def describe(self) -> dict[str, Any]:
        """Say what is recorded and what is not, for a report.

        Returns:
            `captured`: a row a graph: `pass`, the `shape` of its first input, and the largest
            relative L2 `difference` from the eager run when it was recorded. `eager`: by pass, why
            it is not recorded any more.
        """
        graphs = self._graphs
        with graphs.lock:
            captured = [
                {"pass": key[0], "shape": list(key[1][0][0]), "difference": difference}
                for key, difference in graphs.differences.items()
            ]
            return {"captured": captured, "eager": dict(graphs.eager)}

    def _embed(self, crops: Tensor) -> tuple[Tensor, ...]:
        found = self.method.embed(crops)
        return (found.w_plus, *found.features)

    def _find_mask(self, w_plus: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        return (self.method.find_mask(Embedding(w_plus=w_plus, features=features)),)

    def _synthesise(self, edited: Tensor, w_plus: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        seen = self.method.synthesise(Embedding(w_plus=w_plus, features=features), edited)
        return (seen.image, seen.ood, *seen.flows)

    def _generate(self, w_plus: Tensor) -> tuple[Tensor, ...]:
        return (self.method.generate(w_plus),)

    def _sketch(self, w_plus: Tensor) -> tuple[Tensor, ...]:
        return (sketch(self.method, w_plus),)

    def _run(self, name: str, function: Pass, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and any(one.requires_grad for one in inputs):
            return function(*inputs)
        key = (name, tuple((tuple(one.shape), one.dtype, one.device) for one in inputs))
        graphs = self._graphs
        with graphs.lock:
            played = self._replay(key, inputs)
            if played is not None:
                return played
            graphs.seen[key] += 1
            if self._is_due(key):
                return self._record(key, function, inputs)
        return self._run_eagerly(function, inputs)

    def _run_eagerly(self, function: Pass, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        try:
            return function(*inputs)
        except torch.OutOfMemoryError:
            with self._graphs.lock:
                if not self._graphs.replays:
                    raise
                for name in PASSES:
                    self._give_up(name, "the memory did not suffice for graphs and eager passes")
        return function(*inputs)

    def _is_due(self, key: Key) -> bool:
        graphs = self._graphs
        room = len(graphs.replays) < self.most
        return room and graphs.seen[key] > 1 and key[0] not in graphs.eager

    def _replay(self, key: Key, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Return copies of a replay's outputs; None where there is no graph, or not any more."""
        replay = self._graphs.replays.get(key)
        if replay is None:
            return None
        try:
            return tuple(one.clone() for one in replay(inputs))
        except RuntimeError as error:
            self._give_up(key[0], f"a replay failed: {_first_line(error)}")
            return None

    def _record(self, key: Key, function: Pass, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Record a pass, compare a replay with an eager run, and return what the latter gave."""
        expected = self._run_eagerly(function, inputs)
        if key[0] in self._graphs.eager:  # the memory was short
            return expected
        try:
            # Tensors made in inference mode could not be overwritten outside of it.
            with torch.inference_mode(False), torch.no_grad():
                own = tuple(_shrink(one) for one in inputs)
                replay = self.capture(function, own)
                difference = largest_difference(replay(inputs), expected)
        except RuntimeError as error:
            self._give_up(key[0], f"it could not be recorded: {_first_line(error)}")
            return expected
        if difference > self.tolerance:
            self._give_up(
                key[0],
                f"a replay differs from the eager run by {difference:.2g}, expected at most "
                f"{self.tolerance:g}",
            )
            return expected
        self._graphs.replays[key] = replay
        self._graphs.differences[key] = difference
        return expected

    def _give_up(self, name: str, reason: str) -> None:
        """Let a pass be eager from now on, whatever the shapes, and let its graphs go."""
        graphs = self._graphs
        graphs.eager[name] = reason
        for key in [key for key in graphs.replays if key[0] == name]:
            del graphs.replays[key], graphs.differences[key]


def largest_difference(seen: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative L2 difference of any output: |seen - expected| / |expected|.

    Infinite where outputs are missing or of another shape, or the difference is no number.
    """
    if [one.shape for one in seen] != [one.shape for one in expected]:
        return float("inf")
    worst = 0.0
    for ours, theirs in zip(seen, expected, strict=True):
        wanted = theirs.double()
        error = torch.linalg.vector_norm(ours.double() - wanted).item()
        share = error / max(torch.linalg.vector_norm(wanted).item(), 1e-30)
        worst = max(worst, float("inf") if math.isnan(share) else share)
    return worst


def _shrink(value: Tensor) -> Tensor:
    return value * _SHRUNK if value.is_floating_point() else value.clone()


def _first_line(error: RuntimeError) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
