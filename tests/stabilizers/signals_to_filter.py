"""Signals that the tests of filters share."""

import numpy as np


def uneven_seconds(count: int, seed: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).uniform(0.01, 0.09, count))


def noise(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)
