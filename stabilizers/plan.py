"""Which filter steadies which signal."""

from dataclasses import dataclass

from stabilizers.latents import LayeredFilter
from stabilizers.masks import FlowFilter
from stabilizers.recursive import KalmanFilter
from stabilizers.signals import GaussianFilter, TemporalFilter
from stabilizers.transforms import SimilarityFilter

_TRANSFORMS = KalmanFilter(time_seconds=0.07)
_LATENTS = GaussianFilter(sigma_seconds=0.08)
_MASK = FlowFilter(time_seconds=0.2)
_CHANGE = FlowFilter(time_seconds=0.2, levels=24.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StabilizerPlan:
    """One filter per measured signal; None leaves the signal as it was measured.

    Attributes:
        transforms: where the crop lies. STIT filters the centre and the axes by Gaussians of 1 and
            3 frames; of all filters tried on five key points (samples/compare_stabilizers.py) none
            beats this one in both straying from the path and jitter, and those two it beats.
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
