"""A method whose calls are timed: for the account of where a run's time went."""

from dataclasses import dataclass

from torch import Tensor

from vidinvert.clock import Clock
from vidinvert.methods.sketched import sketch
from vidinvert.methods.wrapped import WrappedMethod
from vidinvert.types import Embedding, Synthesis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedMethod(WrappedMethod):
    """Passes every call on and adds its time to a clock; implements `vidinvert.methods.Method`."""

    clock: Clock

    def embed(self, crops: Tensor) -> Embedding:
        """Find codes and features of crops (N, 3, R, R), as `networks: embed`."""
        with self.clock.measure("networks: embed"):
            return self.method.embed(crops)

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the embedded codes, (N, 1, R, R), as `networks: mask`."""
        with self.clock.measure("networks: mask"):
            return self.method.find_mask(embedding)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D) for embedded crops, as `networks: draw`."""
        with self.clock.measure("networks: draw"):
            return self.method.synthesise(embedding, w_plus)

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) by the generator alone, as `networks: draw`."""
        with self.clock.measure("networks: draw"):
            return self.method.generate(w_plus)

    def sketch(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) as `methods.sketch`, as `networks: draw`."""
        with self.clock.measure("networks: draw"):
            return sketch(self.method, w_plus)
