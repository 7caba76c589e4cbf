"""How much of a picture is left: PSNR, SSIM and MS-SSIM, of a whole picture or of a part of it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidinvert.geometry import blur, to_grey

UInt8Array = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]

PEAK = 255.0
# Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004: an 11 x 11 Gaussian, K1 and K2.
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
# Wang, Simoncelli and Bovik, Asilomar 2003: the weights of five scales.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_SIDE = _WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)  # 176 pixels


@dataclass(slots=True)
class SquaredError:
    """Squared error summed over frames, for a PSNR of a whole clip."""

    total: float = 0.0
    numbers: int = 0

    def add(self, first: UInt8Array, second: UInt8Array, where: BoolArray | None = None) -> None:
        """Add the pixels of two pictures (H, W, 3), or those in `where` (H, W)."""
        difference = first.astype(np.float32) - second.astype(np.float32)
        if where is not None:
            difference = difference[where]
        self.total += float(np.square(difference).sum(dtype=np.float64))
        self.numbers += difference.size

    @property
    def psnr(self) -> float:
        """In dB: infinite where nothing differs, NaN where nothing was added."""
        if self.numbers == 0:
            return math.nan
        return psnr_of(self.total / self.numbers)


def psnr_of(mean_squared_error: float) -> float:
    """Return 10 log10(255² / MSE) in dB; infinite for 0."""
    if mean_squared_error == 0:
        return math.inf
    return 10.0 * math.log10(PEAK**2 / mean_squared_error)


def psnr(first: UInt8Array, second: UInt8Array, where: BoolArray | None = None) -> float:
    """Peak signal-to-noise ratio, 10 log10(255² / MSE) over the three channels.

    In dB; higher is closer: 30 is visible, 40 hardly, infinite is identical.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: the same shape.
        where: (H, W), the pixels that count; None = all.

    Returns:
        dB; NaN where no pixel counts.

    Example:
        >>> black = np.zeros((4, 4, 3), np.uint8)
        >>> round(psnr(black, black + np.uint8(255)), 6), psnr(black, black)
        (0.0, inf)
    """
    error = SquaredError()
    error.add(first, second, where)
    return error.psnr


def ssim(first: UInt8Array, second: UInt8Array, where: BoolArray | None = None) -> float:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004), on the luma.

    Mean of (2 mx my + C1)(2 sxy + C2) / ((mx² + my² + C1)(sx² + sy² + C2)) over windows that lie
    in the picture. Range -1 to 1; 1 is identical, 0.95 hardly differs.

    Args:
        first: (H, W, 3) uint8 RGB, 11 pixels or more a side.
        second: the same shape.
        where: (H, W), the windows' centres that count; None = all.

    Returns:
        The mean; NaN where no window counts.

    Raises:
        ValueError: the pictures are smaller than a window.

    Example:
        >>> grey = np.full((16, 16, 3), 90, np.uint8)
        >>> ssim(grey, grey)
        1.0
    """
    _check_side(first, _WINDOW)
    similar, _ = _compare(_luma(first), _luma(second))
    return _mean(similar, where)


def ms_ssim(first: UInt8Array, second: UInt8Array, where: BoolArray | None = None) -> float:
    """Multi-scale SSIM (Wang, Simoncelli and Bovik, Asilomar 2003), on the luma.

    The contrast-structure terms of five scales, each half the one before, and the luminance term of
    the last, to the powers of `SCALE_WEIGHTS`, multiplied. Range 0 to 1; 1 is identical. Negative
    terms count as 0.

    Args:
        first: (H, W, 3) uint8 RGB, `SMALLEST_SIDE` pixels or more a side.
        second: the same shape.
        where: (H, W), the pixels that count; None = all.

    Returns:
        The product; NaN where no window counts at some scale.

    Raises:
        ValueError: the pictures are too small for five scales.

    Example:
        >>> grey = np.full((176, 176, 3), 90, np.uint8)
        >>> ms_ssim(grey, grey)
        1.0
    """
    _check_side(first, SMALLEST_SIDE)
    a, b = _luma(first), _luma(second)
    product = 1.0
    for scale, power in enumerate(SCALE_WEIGHTS):
        similar, structure = _compare(a, b)
        last = scale == len(SCALE_WEIGHTS) - 1
        term = _mean(similar if last else structure, where)
        product *= max(term, 0.0) ** power if math.isfinite(term) else math.nan
        if not last:
            a, b = _halve(a), _halve(b)
            where = None if where is None else _halve(where.astype(np.float32)) == 1.0
    return product


def _luma(picture: UInt8Array) -> NDArray[np.float32]:
    return to_grey(picture).astype(np.float32)


def _compare(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the maps of SSIM and of its contrast-structure part, NaN where a window overhangs."""

    def mean(field: NDArray[np.float32]) -> NDArray[np.float32]:
        return blur(field, sigma=_SIGMA, window=_WINDOW)

    mean_a, mean_b = mean(a), mean(b)
    variance_a = mean(a * a) - mean_a * mean_a
    variance_b = mean(b * b) - mean_b * mean_b
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = np.float32(_C1), np.float32(_C2)
    structure = np.divide(2 * covariance + c2, variance_a + variance_b + c2, dtype=np.float32)
    luminance = np.divide(
        2 * mean_a * mean_b + c1, mean_a * mean_a + mean_b * mean_b + c1, dtype=np.float32
    )
    whole = np.zeros(a.shape, bool)
    edge = _WINDOW // 2
    whole[edge : a.shape[0] - edge, edge : a.shape[1] - edge] = True
    similar = np.multiply(structure, luminance, dtype=np.float32)
    similar[~whole] = structure[~whole] = np.nan
    return similar, structure


def _mean(field: NDArray[np.float32], where: BoolArray | None) -> float:
    counted = np.isfinite(field) if where is None else np.isfinite(field) & where
    return float(field[counted].mean(dtype=np.float64)) if counted.any() else math.nan


def _halve(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = field.shape[0] // 2 * 2, field.shape[1] // 2 * 2
    cut = field[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(cut.mean(axis=(1, 3)), np.float32)


def _check_side(picture: UInt8Array, side: int) -> None:
    if min(picture.shape[:2]) < side:
        raise ValueError(f"pictures are {picture.shape[:2]}, expected {side} pixels or more a side")
