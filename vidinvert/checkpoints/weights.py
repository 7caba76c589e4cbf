"""Tensors from files, and into networks: nothing but tensors is read, every name accounted for."""

import argparse
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vidinvert.checkpoints.packs import verify_file
from vidinvert.errors import CheckpointError, KeyMismatchError, MissingError
from vidinvert.types import FacePack, Keymap, LandmarkMotion, LandmarkReadout, LatentDirection

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def load_part(pack: FacePack, part: str) -> dict[str, Tensor]:
    """Verify one file of a pack and load its tensors."""
    return load_weights(verify_file(pack, part).path)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What a file of weights holds, flat: nested tables become names joined with dots.

    `tensors` by name; `options`, the numbers and texts beside them, as `opts.encoder_type`.
    """

    tensors: dict[str, Tensor]
    options: dict[str, Any]


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Load the tensors of a file to the CPU; nested tables become names joined with dots.

    What is not a tensor (options, counters) is left out. Raises what `load_checkpoint` raises.
    """
    return load_checkpoint(path).tensors


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a file of weights to the CPU, running nothing of it.

    Safetensors are read as such, `.pt` and `.pth` with `torch.load(weights_only=True)`, which
    accepts tensors and plain containers. One class is accepted on top: `argparse.Namespace`, a bag
    of values without behaviour, in which published encoders keep their training options. Files in
    torch's zip format are mapped, so only what is used is read from disk.

    Raises:
        MissingError: the file is not there.
        CheckpointError: it is of another kind, damaged, or holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"{path} is not there, expected a file of weights.")
    if path.suffix == ".safetensors":
        try:
            return Checkpoint(tensors=load_file(path), options={})
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged: {error}. Fetch it again.") from error
    if path.suffix not in TORCH_SUFFIXES:
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}, expected .safetensors or one of "
            f"{', '.join(TORCH_SUFFIXES)}. Convert it to safetensors."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "GLOBAL" in line), (lines or ["it is empty"])[0])
        raise CheckpointError(
            f"{path} cannot be read as tensors alone: {reason.rstrip('.')}. Files with other "
            "Python objects could run code and are refused; save its state dict as safetensors."
        ) from error
    checkpoint = Checkpoint(tensors={}, options={})
    for name, value in _flatten(content, ""):
        if isinstance(value, Tensor):
            checkpoint.tensors[name] = value.detach()
        elif value is None or isinstance(value, bool | int | float | str):
            checkpoint.options[name] = value
    return checkpoint


def load_directions(pack: FacePack) -> dict[str, LatentDirection]:
    """Load the directions that a pack describes, each vector (L, D) float32.

    Raises:
        KeyMismatchError: the file and the description do not name the same directions.
    """
    if not pack.directions and "directions" not in pack.files:
        return {}
    vectors = load_part(pack, "directions")
    expected = (pack.style_count, pack.style_width)
    wrong = sorted(set(vectors) ^ set(pack.directions))
    wrong += [name for name, vector in vectors.items() if tuple(vector.shape) != expected]
    if wrong:
        raise KeyMismatchError(
            f"The directions of {pack.name!r} do not fit its description: {', '.join(wrong)}; "
            f"expected a vector {expected} for each of {', '.join(pack.directions)}. "
            "Fetch the pack again."
        )
    motions = _load_motions(pack, vectors)
    return {
        name: LatentDirection(
            name=name,
            vector=vectors[name].float(),
            layers=meta.layers,
            unit=meta.unit,
            source=meta.source,
            motion=motions.get(name),
            keeps_colour=meta.keeps_colour,
        )
        for name, meta in pack.directions.items()
    }


def _load_motions(pack: FacePack, known: Mapping[str, Tensor]) -> dict[str, LandmarkMotion]:
    if "motions" not in pack.files:
        return {}
    state = load_part(pack, "motions")
    moves, shares = select(state, "moves."), select(state, "share.")
    stray = sorted((set(moves) ^ set(shares)) | (set(moves) - set(known)))
    if stray:
        raise KeyMismatchError(
            f"The motions of {pack.name!r} do not fit its directions: {', '.join(stray)}; expected "
            f"moves and a share each for some of {', '.join(known)}. Fetch the pack again."
        )
    return {
        name: LandmarkMotion(moves=moves[name].double().numpy(), share=float(shares[name]))
        for name in moves
    }


def load_landmark_readout(pack: FacePack) -> LandmarkReadout | None:
    """Load what reads landmarks out of a pack's codes; None if the pack has no `motions`.

    Raises:
        KeyMismatchError: the file holds something else.
    """
    if "motions" not in pack.files:
        return None
    read = select(load_part(pack, "motions"), "readout.")
    if set(read) != {"weight", "mean", "columns"}:
        raise KeyMismatchError(
            f"The motions of {pack.name!r} read landmarks with {', '.join(sorted(read)) or 'none'},"
            " expected weight, mean and columns. Fetch the pack again."
        )
    return LandmarkReadout(
        weight=read["weight"].float(),
        mean=read["mean"].float(),
        columns=tuple(read["columns"].tolist()),
    )


def rename_keys(
    state: Mapping[str, Tensor], keymap: Keymap, *, source: str = "The file"
) -> dict[str, Tensor]:
    """Rename the parameters of an official checkpoint to ours, accounting for every name.

    Raises:
        KeyMismatchError: a name is in the file and not in the keymap, or the reverse.
    """
    unknown = [
        name
        for name in state
        if name not in keymap.renames
        and not any(fnmatchcase(name, pattern) for pattern in keymap.dropped)
    ]
    missing = [name for name in keymap.renames if name not in state]
    if unknown or missing:
        raise KeyMismatchError(
            f"{source} does not fit the keymap {keymap.name!r}: "
            f"{_names('not mentioned', unknown)}; {_names('missing', missing)}. "
            "Check that it is the checkpoint of this network and size."
        )
    return {ours: state[theirs] for theirs, ours in keymap.renames.items()}


def select(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the parameters whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def fill_module(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Give a network (built anywhere, the meta device included) its parameters, every one.

    Axes of length one may differ: some checkpoints carry a leading one.

    Raises:
        KeyMismatchError: a name is missing or too much, or a shape is another.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        raise KeyMismatchError(
            f"{source} does not fit {type(module).__name__}: {_names('not a parameter', unknown)}; "
            f"{_names('missing', missing)}. Check the pack's description."
        )
    wrong = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if [n for n in state[name].shape if n != 1] != [n for n in tensor.shape if n != 1]
    ]
    if wrong:
        raise KeyMismatchError(
            f"{source} has other shapes than {type(module).__name__}: {'; '.join(wrong[:4])}. "
            "Check the sizes in the pack's description."
        )
    shaped = {name: state[name].reshape(tensor.shape) for name, tensor in own.items()}
    module.load_state_dict(shaped, strict=True, assign=True)


def _names(label: str, names: list[str]) -> str:
    if not names:
        return f"0 {label}"
    more = f", ... ({len(names)} in all)" if len(names) > 4 else ""
    return f"{len(names)} {label}: {', '.join(names[:4])}{more}"


def _flatten(content: object, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if isinstance(content, Mapping):
        for key, value in cast(Mapping[object, object], content).items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix or "tensor", content
