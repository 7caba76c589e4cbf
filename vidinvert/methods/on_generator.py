"""What methods share that render codes by a StyleGAN alone: its sizes, and that nothing is kept."""

from typing import Any

import torch
from torch import Tensor

from vidinvert.types import Embedding, Synthesis


class OnGenerator:
    """A method whose pictures are the generator's, whatever the source shows.

    `generator`: has `size`, `style_count` and `style_width`, and renders codes when called.
    """

    __slots__ = ()
    generator: Any

    @property
    def crop_size(self) -> int:
        """Side R of the crops."""
        return self.generator.size

    @property
    def style_count(self) -> int:
        """L, style vectors of a code."""
        return self.generator.style_count

    @property
    def style_width(self) -> int:
        """D, width of a style vector."""
        return self.generator.style_width

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the embedded codes, (N, 1, R, R): 0, nothing is kept."""
        return embedding.w_plus.new_zeros(len(embedding.w_plus), 1, self.crop_size, self.crop_size)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D); the crops they came from play no part."""
        image = self.generate(w_plus)
        return Synthesis(image=image, ood=torch.zeros_like(image[:, :1]))

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) with the generator's fixed noise, if it has some."""
        return self.generator(w_plus)
