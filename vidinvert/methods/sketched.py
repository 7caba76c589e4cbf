"""Pictures of half the size, where a method can draw these for less."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from vidinvert.methods import Method


@runtime_checkable
class Sketcher(Protocol):
    """What a method has besides, if it draws small pictures for less than large ones.

    What codes change is measured on small ones, see `vidinvert.changes`.
    """

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) nearly as `generate`, at half the size or more: (N, 3, r, r)."""
        ...


def sketch(method: "Method", w_plus: Tensor) -> Tensor:
    """Render codes (N, L, D) for as little as a method can: (N, 3, r, r), R / 2 <= r <= R."""
    return method.sketch(w_plus) if isinstance(method, Sketcher) else method.generate(w_plus)
