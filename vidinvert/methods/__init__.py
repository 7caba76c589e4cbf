"""The systems of the field behind two calls: embed a crop, synthesise from codes."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from vidinvert.errors import PlanError
from vidinvert.methods import eigen, eigen_encoders, encoder_only, samm
from vidinvert.types import Embedding, FacePack, Synthesis

__all__ = ["LOADERS", "Loader", "Method", "load_method"]


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


Loader = Callable[[FacePack, torch.device, torch.dtype], Method]

# (kind of generator, method) -> what loads it.
LOADERS: dict[tuple[str, str], Loader] = {
    ("eigen", "samm"): eigen.load,
    ("eigen", "e4e"): eigen_encoders.load_e4e,
    ("eigen", "restyle"): eigen_encoders.load_restyle,
    ("eigen", "indomain"): eigen_encoders.load_indomain,
    ("eigen", "force-indomain"): eigen_encoders.load_force_indomain,
    ("stylegan2", "samm"): samm.load,
    ("stylegan2", "e4e"): encoder_only.load,
}


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
        method: as `samm`.
        device: where the networks shall live.
        dtype: of the features; codes, styles and statistics stay float32.

    Raises:
        PlanError: the pack's generator does not run this method.
        CheckpointError: the pack's files are missing, damaged, or of another network.
    """
    loader = LOADERS.get((pack.generator, method))
    if loader is None:
        fitting = [name for kind, name in LOADERS if kind == pack.generator]
        raise PlanError(
            f"The pack {pack.name!r} with a generator of kind {pack.generator!r} does not run the "
            f"method {method!r}, expected one of: {', '.join(fitting) or 'none'}. "
            "Choose another --method or --pack."
        )
    return loader(pack, torch.device(device), dtype)
