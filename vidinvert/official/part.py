"""A network out of an official file, and what is common to reading all of them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidinvert.errors import KeyMismatchError
from vidinvert.types import Keymap


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A network out of a file, under our names.

    Attributes:
        name: which part of a pack it is.
        network: what it is, for people.
        path: the file.
        state: its parameters.
        theirs: our name to the file's, for messages.
        facts: what its shapes say, as fields of a pack's `[generator]`.
        w_mean: the mean code that came with it, (1 or L, D).
        build: makes the network of a pack's sizes, to compare shapes with; None = any fit.
        prefix: of the network's names in `state`.
    """

    name: str
    network: str
    path: Path
    state: Mapping[str, Tensor]
    theirs: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    w_mean: Tensor | None = None
    build: Callable[[Mapping[str, Any]], nn.Module] | None = None
    prefix: str = ""


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many names fit a pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


def inverse(keymap: Keymap) -> dict[str, str]:
    """Return our names to those of the file."""
    return {ours: theirs for theirs, ours in keymap.renames.items()}


def first_names(tensors: Mapping[str, Tensor]) -> str:
    """Name a few tensors, for messages."""
    names = list(tensors)
    more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "no tensors"


def rows(path: Path, tensor: Tensor) -> Tensor:
    """Bring a mean code (D,), (1, D), (L, D) or (1, L, D) to (1 or L, D) float32."""
    squeezed = tensor.float().squeeze()
    if squeezed.ndim not in (1, 2):
        raise KeyMismatchError(
            f"{path}: the mean code (latent_avg) has the shape {tuple(tensor.shape)}, expected "
            "(D,) or (L, D)."
        )
    return squeezed.reshape(-1, squeezed.shape[-1])
