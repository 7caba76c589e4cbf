"""Published editing directions (InterFaceGAN, STIT, GANSpace, idinvert, ...) into a face pack.

They differ in what a strength of 1 means and in which levels they move; both are recorded. Whatever
the file's shape, a pack holds one vector (L, D) a direction, zero where it does not act.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vidinvert.checkpoints import load_checkpoint, load_directions, read_array_file, read_pack
from vidinvert.errors import CheckpointError, KeyMismatchError, PlanError
from vidinvert.official.assembling import UNKNOWN_LICENCE, describe, move_in, sha256_of
from vidinvert.official.fitting import Facts
from vidinvert.types import FacePack

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
STYLE_CHANNELS = 6048  # of a StyleGAN2 of 1024 px without pictures: StyleCLIP's tables have them


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionPlan:
    """How directions are taken over.

    Attributes:
        scale: "file" keeps the vectors as they are, "unit" gives every moved style vector length 1,
            a number multiplies.
        layers: half-open range of the levels moved; None = what the file says, or all.
        component: which component of a GANSpace file.
        unit: what a strength of 1 means; None = said in terms of the file.
        license: of the files, as the user states it; None = unknown.
        overwrite: replace directions of the same name.
    """

    scale: float | Literal["file", "unit"] = "file"
    layers: tuple[int, int] | None = None
    component: int | None = None
    unit: str | None = None
    license: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """A direction as a file has it: the vector, the levels it says it moves, and what it is."""

    vector: Tensor
    layers: tuple[int, ...] | None
    what: str


def import_directions(files: Mapping[str, Path], target: Path, plan: DirectionPlan) -> FacePack:
    """Add directions to a pack.

    Args:
        files: name to file.
        target: the pack's directory.
        plan: how they are taken over.

    Raises:
        CheckpointError: a file cannot be read safely, is no direction of this pack, or the pack
            has one of that name.
    """
    pack = read_pack(target)
    vectors = {name: d.vector for name, d in load_directions(pack).items()}
    entries: dict[str, dict[str, Any]] = {}
    sources: dict[str, dict[str, Any]] = {}
    for name, path in files.items():
        if name in vectors and not plan.overwrite:
            raise CheckpointError(
                f"The pack {pack.name!r} has a direction {name!r} already; give another name as "
                f"NAME={path.name}, or replace it with --force."
            )
        vector, entry = _fit(_read(path, plan), path, pack, plan)
        vectors[name] = vector
        entries[name] = entry
        sources[f"direction {name}"] = {
            "file": path.name,
            "sha256": sha256_of(path),
            "licence": plan.license or UNKNOWN_LICENCE,
        }
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        contiguous = {name: vectors[name].contiguous() for name in sorted(vectors)}
        save_file(contiguous, Path(folder) / "directions.safetensors")
        move_in(Path(folder), target)
    return describe(
        target,
        pack,
        files={"directions": "directions.safetensors"},
        sources=sources,
        licenses=[plan.license or UNKNOWN_LICENCE],
        facts=Facts.of_pack(pack),
        directions=entries,
    )


def name_files(files: Sequence[Path]) -> dict[str, Path]:
    """Name directions after their files: `boundary_Smiling.npy` is `smiling`."""
    named: dict[str, Path] = {}
    for path in files:
        stem = re.sub(r"^boundary_|_boundary$", "", path.stem).replace("-", "_").lower()
        if not NAME.fullmatch(stem) or stem in named:
            raise PlanError(
                f"The direction of {path} cannot be called {stem!r}, expected a name of letters, "
                f"digits and underscores that is not taken. Give one as NAME={path}."
            )
        named[stem] = path
    return named


def _read(path: Path, plan: DirectionPlan) -> _Found:
    """Read a direction from an array, a tensor, a boundary with its layers, or components."""
    if path.suffix == ".npy":
        content = read_array_file(path)
        if isinstance(content, dict):
            return _read_boundary(cast(dict[str, Any], content), path)
        return _Found(vector=torch.from_numpy(content.astype(np.float64)), layers=None, what="file")
    tensors = load_checkpoint(path).tensors
    if {"comp", "std"} <= set(tensors):
        return _read_component(tensors, path, plan)
    if len(tensors) != 1:
        raise KeyMismatchError(
            f"{path} holds {', '.join(list(tensors)[:4]) or 'no tensors'}, expected one vector, or "
            "components (comp, std)."
        )
    return _Found(vector=next(iter(tensors.values())).double(), layers=None, what="file")


def _read_boundary(content: Mapping[str, Any], path: Path) -> _Found:
    """Read idinvert's dictionary: `boundary`, and the layers in `meta_data`."""
    boundary, meta = content.get("boundary"), content.get("meta_data") or {}
    unknown = set(content) - {"boundary", "meta_data"}
    if not isinstance(boundary, np.ndarray) or unknown or not isinstance(meta, dict):
        raise KeyMismatchError(
            f"{path} holds {', '.join(map(str, content))}, expected boundary and meta_data."
        )
    layers = cast(dict[str, Any], meta).get("manipulate_layers")
    chosen = None if layers is None else tuple(int(n) for n in np.asarray(layers).ravel())
    vector = torch.from_numpy(boundary.astype(np.float64))
    return _Found(vector=vector, layers=chosen, what="boundary")


def _read_component(tensors: Mapping[str, Tensor], path: Path, plan: DirectionPlan) -> _Found:
    """Take one principal component, as long as one standard deviation."""
    components, deviations = tensors["comp"].double(), tensors["std"].double().flatten()
    components = components.reshape(len(deviations), -1)
    if plan.component is None or not 0 <= plan.component < len(deviations):
        raise PlanError(
            f"{path} holds {len(deviations)} components; say which with --component "
            f"0 to {len(deviations) - 1}, and usually its levels with --layers."
        )
    vector = components[plan.component] * deviations[plan.component]
    return _Found(vector=vector, layers=None, what=f"component {plan.component}")


def _fit(
    found: _Found, path: Path, pack: FacePack, plan: DirectionPlan
) -> tuple[Tensor, dict[str, Any]]:
    """Bring a vector to (L, D), choose its levels, scale it, and describe it."""
    count, width = pack.style_count, pack.style_width
    vector = _shape(found.vector, path, count, width)
    layers = tuple(range(*plan.layers)) if plan.layers is not None else found.layers
    layers = tuple(range(count)) if layers is None else layers
    if not layers or min(layers) < 0 or max(layers) >= count:
        raise PlanError(
            f"{path} shall move the levels {layers}, expected some of 0 to {count - 1}. "
            "Give --layers FIRST-LAST."
        )
    mask = torch.zeros(count, 1, dtype=vector.dtype)
    mask[list(layers)] = 1
    vector = vector * mask
    lengths = vector[list(layers)].norm(dim=1)
    length = float(lengths.square().mean().sqrt())
    if not np.isfinite(length) or length == 0:
        raise CheckpointError(
            f"{path} has the length {length}, expected a vector that moves codes."
        )
    factor = 1 / length if plan.scale == "unit" else 1.0 if plan.scale == "file" else plan.scale
    unit = plan.unit or _describe_unit(found.what, plan.scale, length)
    kind = "W" if bool((vector[list(layers)] == vector[layers[0]]).all()) else "W+"
    entry = {
        "unit": unit,
        "source": f"{path.name}, a {kind} direction",
        "layers": list(layers),
        "figures": {"length in the file": length, "length": length * abs(factor)},
    }
    return (vector * factor).float(), entry


def _describe_unit(what: str, scale: float | str, length: float) -> str:
    whole = "one standard deviation of the" if what.startswith("component") else "the vector of the"
    if scale == "unit":
        return f"1.0 = a step of length 1 in every moved style vector (in the file {length:.4g})"
    times = "" if scale == "file" else f", times {scale:g}"
    return f"1.0 = {whole} {what}{times}; length {length:.4g} a style vector in the file"


def _shape(vector: Tensor, path: Path, count: int, width: int) -> Tensor:
    """Bring (D,), (1, D), (L, D), (1, L, D) or (1, L * D) to (L, D)."""
    seen = tuple(vector.shape)
    squeezed = vector.squeeze()
    if squeezed.ndim == 1 and len(squeezed) == count * width and count * width != width:
        squeezed = squeezed.reshape(count, width)
    if squeezed.ndim == 1 and len(squeezed) == width:
        return squeezed.expand(count, width).clone()
    if squeezed.ndim == 2 and squeezed.shape[1] == width:
        if len(squeezed) == count:
            return squeezed
        if bool((squeezed == squeezed[:1]).all()):  # a W direction of a generator with more levels
            return squeezed[:1].expand(count, width).clone()
    hint = ""
    if STYLE_CHANNELS in seen:
        hint = (
            " This looks like a table of StyleCLIP's global directions, which move the style "
            "channels inside the generator; only directions of codes can be imported."
        )
    raise KeyMismatchError(
        f"{path} has the shape {seen}, expected ({width},) or ({count}, {width}) for this pack."
        f"{hint}"
    )
