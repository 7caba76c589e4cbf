"""Which filter steadies which signal."""

from dataclasses import dataclass

from stabilizers.latents import LayeredFilter
from stabilizers.masks import FlowFilter
from stabilizers.signals import GaussianFilter, TemporalFilter
from stabilizers.transforms import SimilarityFilter

_TRANSFORMS = SimilarityFilter(
    centre=GaussianFilter(sigma_seconds=0.06), axes=GaussianFilter(sigma_seconds=0.12)
)
_LATENTS = GaussianFilter(sigma_seconds=0.08)
_MASK = FlowFilter(time_seconds=0.2)
_CHANGE = FlowFilter(time_seconds=0.2, levels=24.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilizerPlan:
    """One filter per measured signal; None leaves the signal as it was measured.

    Attributes:
        transforms: where the crop lies. STIT filters the centre over 1 frame and the axes over 3 at
            25 to 30 frames a second; five key points jitter more than 68, so the centre gets 1.5.
        latents: the codes.
        mask: the invertibility mask; following the flow gave the best masks of planted hands
            (tests/bench/occluders.py).
        change: what an edit changes in the crop, where edits are shown as changes. Following the
            flow, it stays on the face as that turns and speaks (tests/bench/steadiness.py).
    """

    transforms: TemporalFilter | SimilarityFilter | None = _TRANSFORMS
    latents: TemporalFilter | LayeredFilter | None = _LATENTS
    mask: TemporalFilter | FlowFilter | None = _MASK
    change: GaussianFilter | FlowFilter | None = _CHANGE
