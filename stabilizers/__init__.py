"""Steady what was measured in a video: transforms, codes and masks, along time.

Arrays and seconds in, arrays out. Nothing here knows of faces, files or networks.
"""

from stabilizers.intervals import Interval, intervals_from_indices
from stabilizers.latents import smooth_latents
from stabilizers.masks import smooth_masks
from stabilizers.plan import StabilizerPlan
from stabilizers.signals import GaussianFilter, TemporalFilter, gaussian, parse_filter, smooth
from stabilizers.transforms import SimilarityFilter, smooth_similarities

__all__ = [
    "GaussianFilter",
    "Interval",
    "SimilarityFilter",
    "StabilizerPlan",
    "TemporalFilter",
    "gaussian",
    "intervals_from_indices",
    "parse_filter",
    "smooth",
    "smooth_latents",
    "smooth_masks",
    "smooth_similarities",
]
