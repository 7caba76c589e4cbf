"""One method on several devices: every worker thread has a device of its own."""

import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidinvert import images
from vidinvert.methods.sketched import sketch
from vidinvert.types import Embedding, Synthesis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidinvert.methods import Method


class _Turns(threading.local):
    """Which copy the calling thread uses: the next one in turn, kept from its first call on."""

    def __init__(self, turns: "Iterator[int]") -> None:
        self.number = next(turns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DividedMethod:
    """Copies of a method on several devices; implements `vidinvert.methods.Method`.

    Batches that are in the networks at once come from a thread each, so a thread keeps to one copy
    and the copies share the batches. Tensors come from the CPU and go back there; only an
    embedding's features stay where they were made, for the same thread's next call. Frames do not
    depend on the number of devices as long as these compute alike.
    """

    methods: "tuple[Method, ...]"
    devices: tuple[torch.device, ...]
    _turns: _Turns = field(init=False)

    def __post_init__(self) -> None:
        if len(self.methods) != len(self.devices) or not self.methods:
            raise ValueError(
                f"there are {len(self.methods)} methods for {len(self.devices)} devices, expected "
                "one each, and at least one"
            )
        turns = itertools.cycle(range(len(self.methods)))
        object.__setattr__(self, "_turns", _Turns(turns))

    @property
    def crop_size(self) -> int:
        """Side R of the crops."""
        return self.methods[0].crop_size

    @property
    def style_count(self) -> int:
        """L, style vectors of a code."""
        return self.methods[0].style_count

    @property
    def style_width(self) -> int:
        """D, width of a style vector."""
        return self.methods[0].style_width

    def embed(self, crops: Tensor) -> Embedding:
        """Find codes and features of crops (N, 3, R, R); the codes are on the CPU."""
        method, device = self._own()
        found = method.embed(images.to_device(crops, device))
        return Embedding(w_plus=found.w_plus.cpu(), features=found.features)

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the embedded codes, (N, 1, R, R), on the CPU."""
        method, device = self._own()
        return method.find_mask(_moved(embedding, device)).cpu()

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D) for embedded crops; pictures, masks and flows on the CPU."""
        method, device = self._own()
        seen = method.synthesise(_moved(embedding, device), images.to_device(w_plus, device))
        return Synthesis(
            image=seen.image.cpu(), ood=seen.ood.cpu(), flows=tuple(f.cpu() for f in seen.flows)
        )

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) by the generator alone, on the CPU."""
        method, device = self._own()
        return method.generate(images.to_device(w_plus, device)).cpu()

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) as `methods.sketch`, on the CPU."""
        method, device = self._own()
        return sketch(method, images.to_device(w_plus, device)).cpu()

    def _own(self) -> "tuple[Method, torch.device]":
        number = self._turns.number
        return self.methods[number], self.devices[number]


def _moved(embedding: Embedding, device: torch.device) -> Embedding:
    return Embedding(
        w_plus=images.to_device(embedding.w_plus, device),
        features=tuple(images.to_device(maps, device) for maps in embedding.features),
    )
