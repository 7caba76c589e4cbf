"""ReStyle, "A residual-based StyleGAN encoder via iterative refinement" (Alaluf et al., ICCV 2021).

An encoder sees the picture beside the generator's picture of the codes so far, starting from the
average face, and says how the codes have to change.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.backbones import IR50_WIDTHS, IRSE50
from vidinvert.networks.e4e import INPUT_SIZE, EncoderOutput, StyleHeads

STEPS = 5


class ReStyleEncoder(nn.Module):
    """Two pictures (N, 6, 256, 256) in [-1, 1], the source first, to steps of codes and taps.

    All heads read the coarsest map.

    Args:
        style_count: L of the generator.
        trunk_widths: channels of the trunk's four groups; a style vector is as wide as the last.
        deltas: the flavour of e4e, in which heads after the first add to its code; pSp's not.
    """

    def __init__(
        self, *, style_count: int, trunk_widths: Sequence[int] = IR50_WIDTHS, deltas: bool
    ) -> None:
        super().__init__()
        self.deltas = deltas
        self.trunk = IRSE50(in_channels=6, widths=trunk_widths)
        self.heads = StyleHeads(style_count, trunk_widths[3], side=16)

    def forward(self, pairs: Tensor) -> EncoderOutput:
        """Find how codes should change, and the taps."""
        if tuple(pairs.shape[1:]) != (6, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(
                f"pairs are {tuple(pairs.shape)}, expected (N, 6, {INPUT_SIZE}, {INPUT_SIZE}): "
                "the source, then the picture so far"
            )
        full, half, quarter, eighth, coarse = self.trunk(pairs)
        codes = self.heads(coarse.float())
        if self.deltas:
            codes = torch.cat([codes[:, :1], codes[:, :1] + codes[:, 1:]], dim=1)
        return EncoderOutput(offsets=codes, taps=(eighth, quarter, half, full))


def shrink_by_area(images: Tensor) -> Tensor:
    """Average (N, C, R, R) down to (N, C, 256, 256), as ReStyle and FeatureStyle do."""
    if tuple(images.shape[-2:]) == (INPUT_SIZE, INPUT_SIZE):
        return images
    return F.adaptive_avg_pool2d(images, INPUT_SIZE)


def refine_codes(
    encoder: ReStyleEncoder,
    generate: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    w_mean: Tensor,
    average: Tensor,
    steps: int = STEPS,
) -> tuple[Tensor, EncoderOutput]:
    """Refine codes from the mean: w <- w + E(picture, G(w)).

    Args:
        encoder: says how codes should change.
        generate: codes (N, L, D) to pictures (N, 3, R, R).
        images: (N, 3, 256, 256).
        w_mean: (1 or L, D), where to start.
        average: (1, 3, 256, 256), the generator's picture of `w_mean`: what the first step sees.
        steps: 5 as published.

    Returns:
        Codes (N, L, D) float32, and what the encoder found in the last step.
    """
    shown, w_plus = average.to(images.dtype).expand(len(images), -1, -1, -1), w_mean
    for step in range(steps):
        if step > 0:
            shown = shrink_by_area(generate(w_plus)).to(images.dtype)
        pairs = torch.cat([images, shown], dim=1).contiguous(memory_format=torch.channels_last)
        found = encoder(pairs)
        w_plus = w_plus + found.offsets
        if step == steps - 1:
            return w_plus, found
    raise ValueError(f"steps is {steps}, expected 1 or more")
