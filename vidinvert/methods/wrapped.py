"""What stands for a method and passes calls on to it: the sizes are the method's own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidinvert.methods import Method


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WrappedMethod:
    """The sizes of `vidinvert.methods.Method`, from the method that is wrapped."""

    method: "Method"

    @property
    def crop_size(self) -> int:
        """Side R of the crops."""
        return self.method.crop_size

    @property
    def style_count(self) -> int:
        """L, style vectors of a code."""
        return self.method.style_count

    @property
    def style_width(self) -> int:
        """D, width of a style vector."""
        return self.method.style_width
