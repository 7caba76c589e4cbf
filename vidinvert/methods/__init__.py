"""The systems of the field behind two calls: embed a crop, synthesise from codes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from vidinvert.clock import Clock
from vidinvert.errors import PlanError
from vidinvert.methods import (
    eigen,
    eigen_diffcam,
    eigen_encoders,
    encoder_only,
    generator_only,
    indomain,
    samm,
)
from vidinvert.methods.cuda_graphs import CudaCapture
from vidinvert.methods.divided import DividedMethod
from vidinvert.methods.graphed import TOLERANCE, GraphedMethod
from vidinvert.methods.sketched import Sketcher, sketch
from vidinvert.methods.timed import TimedMethod
from vidinvert.types import Embedding, FacePack, Synthesis

__all__ = [
    "LOADERS",
    "OPTIONS",
    "DividedMethod",
    "EditPainter",
    "Follower",
    "GraphedMethod",
    "Graphs",
    "Loader",
    "Method",
    "Refiner",
    "Sketcher",
    "describe_graphs",
    "divide_method",
    "graph_method",
    "load_method",
    "sketch",
    "time_method",
]


class Method(Protocol):
    """Inverts crops and renders codes; pure, batched, deterministic.

    Both calls follow the device of their tensors and keep nothing on `self`.
    """

    @property
    def crop_size(self) -> int:
        """Side R of the crops."""
        ...

    @property
    def style_count(self) -> int:
        """L, style vectors of a code."""
        ...

    @property
    def style_width(self) -> int:
        """D, width of a style vector."""
        ...

    def embed(self, crops: Tensor) -> Embedding:
        """Find codes and features of crops (N, 3, R, R) in [-1, 1]."""
        ...

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask that `synthesise` gives for the embedded codes: (N, 1, R, R)."""
        ...

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render the codes `w_plus` (N, L, D), edited or not, for embedded crops."""
        ...

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes by the generator alone: (N, L, D) -> (N, 3, R, R), about [-1, 1]."""
        ...


@runtime_checkable
class Refiner(Protocol):
    """What a method has besides, if its codes get better in steps: along a clip, frame by frame.

    Pure as the two calls are; the frame before is an argument.
    """

    def refine(self, crops: Tensor, embedding: Embedding, previous: Tensor | None) -> Embedding:
        """Improve the codes of embedded crops.

        Args:
            crops: (N, 3, R, R) in [-1, 1].
            embedding: of these crops.
            previous: refined codes (1, L, D) of the frame before, to start from; None at the start
                of an unbroken run of a track, and for single pictures.

        Returns:
            The embedding with other codes.
        """
        ...


@runtime_checkable
class Follower(Refiner, Protocol):
    """A refining method whose frames start from the first of their run, not from the one before.

    `refine` finds that one's codes; the others are refined together.
    """

    def follow(self, crops: Tensor, embedding: Embedding, first: Tensor) -> Embedding:
        """Improve the codes of embedded crops (N, 3, R, R), each by itself.

        Args:
            crops: in [-1, 1].
            embedding: of these crops.
            first: refined codes (1, L, D) of the run's first frame, to start from.
        """
        ...


@runtime_checkable
class EditPainter(Method, Protocol):
    """A method that paints edits on the source, and whose mask is of the edit, not of the crop.

    Its `synthesise` gives the embedded crop with the edit from the embedding's codes to `w_plus`;
    without one, the crop itself and a mask of ones. So the mask can be found only when the edit is
    known: from the codes alone, for all frames before any is rendered, and steadied as masks are.
    Along a clip it is not `synthesise` that paints: the crop's pixels are moved by the change that
    is steadied along the clip, in the mask, and `clean` mends what comes out.
    """

    def find_edit_mask(self, w_plus: Tensor, edited: Tensor) -> Tensor:
        """Return what an edit between codes (N, L, D) leaves alone: (N, 1, R, R), 1 = keep."""
        ...

    def clean(self, crops: Tensor, painted: Tensor) -> Tensor:
        """Return what edited crops lack: to be added to `painted`, 0 where nothing was painted.

        Both are (N, 3, R, R) in [-1, 1].
        """
        ...


Graphs = Literal["auto", "on", "off"]  # where CUDA graphs can be used; demanded; never
Loader = Callable[[FacePack, torch.device, torch.dtype], Method]

# (kind of generator, method) -> what loads it.
LOADERS: dict[tuple[str, str], Loader] = {
    ("eigen", "samm"): eigen.load,
    ("eigen", "diffcam"): eigen_diffcam.load,
    ("eigen", "e4e"): eigen_encoders.load_e4e,
    ("eigen", "restyle"): eigen_encoders.load_restyle,
    ("eigen", "indomain"): eigen_encoders.load_indomain,
    ("eigen", "force-indomain"): eigen_encoders.load_force_indomain,
    ("stylegan2", "samm"): samm.load,
    ("stylegan2", "e4e"): encoder_only.load_e4e,
    ("stylegan2", "psp"): encoder_only.load_psp,
    ("stylegan2", "restyle"): encoder_only.load_restyle,
    ("stylegan2", "featurestyle"): encoder_only.load_featurestyle,
    ("stylegan2", "optimise"): generator_only.load_on_stylegan2,
    ("stylegan3", "optimise"): generator_only.load_on_stylegan3,
    ("stylegan1", "indomain"): indomain.load,
}

# Options of a method, as in `samm:cycles=1`, and the setting of a pack that each overrides.
OPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("stylegan2", "samm"): {"cycles": "cycles"},
    ("stylegan2", "optimise"): {"steps": "invert_steps"},
    ("stylegan3", "optimise"): {"steps": "invert_steps"},
    ("stylegan1", "indomain"): {"steps": "invert_steps"},
    ("eigen", "indomain"): {"steps": "invert_steps"},
    ("eigen", "force-indomain"): {"steps": "invert_steps"},
}
LARGEST_OPTION = 10_000


def load_method(
    pack: FacePack,
    *,
    method: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Method:
    """Load a method from a pack.

    Args:
        pack: where the weights come from; the files are verified.
        method: as `samm`, or with options as `samm:cycles=1` or `indomain:steps=25`.
        device: where the networks shall live.
        dtype: of the features; codes, styles and statistics stay float32.

    Raises:
        PlanError: the pack's generator does not run this method, or not with this option.
        CheckpointError: the pack's files are missing, damaged, or of another network.
    """
    name, _, options = method.partition(":")
    loader = LOADERS.get((pack.generator, name))
    if loader is None:
        fitting = [name for kind, name in LOADERS if kind == pack.generator]
        raise PlanError(
            f"The pack {pack.name!r} with a generator of kind {pack.generator!r} does not run the "
            f"method {name!r}, expected one of: {', '.join(fitting) or 'none'}. "
            "Choose another --method or --pack."
        )
    settings = _read_options(options, method, OPTIONS.get((pack.generator, name), {}), pack)
    chosen = replace(pack, settings={**pack.settings, **settings})
    with torch.inference_mode(False):  # else no gradient could pass through what is loaded
        return loader(chosen, torch.device(device), dtype)


def divide_method(
    pack: FacePack,
    *,
    method: str,
    devices: Sequence[str],
    dtype: torch.dtype,
    graphs: Graphs = "off",
) -> Method:
    """Load a method once for each of several devices, to share the batches.

    `graphs`: as for `graph_method`.

    Raises:
        PlanError: the method works frame after frame or paints, which one device must do alone; or
            as `load_method`.
        CheckpointError: as `load_method`.
    """
    places = tuple(torch.device(device) for device in devices)
    copies = tuple(load_method(pack, method=method, device=one, dtype=dtype) for one in places)
    if isinstance(copies[0], Refiner | EditPainter):
        raise PlanError(
            f"The method {method!r} cannot be divided between {len(places)} devices, expected one "
            "of those that look at every frame by itself, as samm; name one --device."
        )
    graphed = (
        graph_method(copy, device=place, dtype=dtype, wanted=graphs)
        for copy, place in zip(copies, places, strict=True)
    )
    return DividedMethod(methods=tuple(graphed), devices=places)


def graph_method(
    method: Method, *, device: torch.device | str, dtype: torch.dtype, wanted: Graphs = "auto"
) -> Method:
    """Return a method whose passes are recorded as CUDA graphs, or the method as it is.

    It comes back as it is with `off`, and with `auto` elsewhere than on CUDA. So do methods that
    refine codes, in steps through which gradients pass, or paint edits.

    Args:
        method: loaded on `device`, with features of `dtype`.
        device: where it is.
        dtype: by which replays are judged, see `graphed.TOLERANCE`.
        wanted: `on` refuses to go without.

    Raises:
        PlanError: graphs are demanded, and the device or the method has none.
    """
    place, steps = torch.device(device), isinstance(method, Refiner | EditPainter)
    if wanted == "off" or (wanted == "auto" and (place.type != "cuda" or steps)):
        return method
    if place.type != "cuda" or steps:
        why = f"The device is {str(place)!r}" if not steps else "The method works step by step"
        raise PlanError(
            f"{why}, but CUDA graphs need a CUDA device and a method that looks at every frame by "
            "itself, as samm; leave --cuda-graphs out."
        )
    return GraphedMethod(method=method, capture=CudaCapture(place), tolerance=TOLERANCE[dtype])


def describe_graphs(method: Method) -> list[dict[str, Any]] | None:
    """Say for each device what is recorded as CUDA graphs, as `GraphedMethod.describe`; or None."""
    if isinstance(method, TimedMethod):
        return describe_graphs(method.method)
    copies = method.methods if isinstance(method, DividedMethod) else (method,)
    graphed = [copy for copy in copies if isinstance(copy, GraphedMethod)]
    return [copy.describe() for copy in graphed] or None


def _read_options(
    text: str, method: str, known: Mapping[str, str], pack: FacePack
) -> dict[str, int]:
    settings: dict[str, int] = {}
    for part in text.split(",") if text else ():
        key, _, value = part.partition("=")
        if key not in known:
            raise PlanError(
                f"The method {method!r} has an option {key!r}, expected of a pack of kind "
                f"{pack.generator!r}: {', '.join(known) or 'none'}. Leave the option out."
            )
        if not value.isdecimal() or int(value) > LARGEST_OPTION:
            raise PlanError(
                f"The method {method!r} has {key} {value!r}, expected a whole number up to "
                f"{LARGEST_OPTION}."
            )
        settings[known[key]] = int(value)
    return settings


def time_method(method: Method, clock: Clock) -> Method:
    """Return a method that does the same and adds the time of every call to a clock.

    Methods that refine codes or paint edits can more than this passes on and come back as they are.
    """
    if isinstance(method, Refiner | EditPainter):
        return method
    return TimedMethod(method=method, clock=clock)
