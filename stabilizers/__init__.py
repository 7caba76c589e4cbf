"""Steady what was measured in a video: transforms, codes and masks, along time.

Arrays and seconds in, arrays out. Nothing here knows of faces, files or networks.
"""

from stabilizers.fields import Link, link_pictures, smooth_fields
from stabilizers.flow import (
    FlowEstimator,
    flow_tensor,
    guided_filter,
    visible_in_both,
    warp_back,
)
from stabilizers.intervals import Interval, intervals_from_indices, measured_positions
from stabilizers.latents import LayeredFilter, smooth_latents
from stabilizers.masks import FlowFilter, smooth_masks
from stabilizers.parsing import parse_filter, parse_mask_filter
from stabilizers.plan import StabilizerPlan
from stabilizers.recursive import KalmanFilter, OneEuroFilter, kalman_rts, one_euro
from stabilizers.signals import GaussianFilter, TemporalFilter, gaussian, smooth
from stabilizers.transforms import SimilarityFilter, smooth_similarities
from stabilizers.variation import TotalVariationFilter, total_variation
from stabilizers.windows import (
    BilateralFilter,
    MedianFilter,
    SavitzkyGolayFilter,
    bilateral,
    median,
    savitzky_golay,
)

__all__ = [
    "BilateralFilter",
    "FlowEstimator",
    "FlowFilter",
    "GaussianFilter",
    "Interval",
    "KalmanFilter",
    "LayeredFilter",
    "Link",
    "MedianFilter",
    "OneEuroFilter",
    "SavitzkyGolayFilter",
    "SimilarityFilter",
    "StabilizerPlan",
    "TemporalFilter",
    "TotalVariationFilter",
    "bilateral",
    "flow_tensor",
    "gaussian",
    "guided_filter",
    "intervals_from_indices",
    "kalman_rts",
    "link_pictures",
    "measured_positions",
    "median",
    "one_euro",
    "parse_filter",
    "parse_mask_filter",
    "savitzky_golay",
    "smooth",
    "smooth_fields",
    "smooth_latents",
    "smooth_masks",
    "smooth_similarities",
    "total_variation",
    "visible_in_both",
    "warp_back",
]
