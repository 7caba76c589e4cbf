"""StyleGAN3's synthesis in float64, step by step from its state under its own names: slow, obvious.

Written from the paper (Karras et al., NeurIPS 2021, section 3 and appendices B to D) and the layout
of the release. Filters are designed here again, from sinc, jinc and Kaiser's window; zeros are put
in between, and every sample is summed tap by tap.
"""

import math
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

Array = NDArray[np.float64]
State = Mapping[str, Array]


def synthesise(
    state: State,
    w_plus: Array,
    *,
    size: int,
    kernel: int,
    radial: bool,
    critical: int = 2,
    output_scale: float = 0.25,
    designed: bool = False,
) -> Array:
    """Render codes (N, L, D): float64 (N, 3, R, R).

    Args:
        state: parameters and buffers.
        w_plus: the codes.
        size: R.
        kernel: side of the convolutions.
        radial: whether down-sampling filters are radial.
        critical: layers at the end with as few samples as their cutoff allows.
        output_scale: of the picture.
        designed: use the filters designed here in place of those in the state.
    """
    names = {
        int(m[1]): m[0] for m in (re.match(r"synthesis\.L(\d+)_\d+_\d+", n) for n in state) if m
    }
    last = max(names)
    cutoffs, stopbands = _cutoffs(size, last, critical)
    rates = [2 ** math.ceil(math.log2(min(2 * stop, size))) for stop in stopbands]
    sizes = [rate + 20 for rate in rates[:-2]] + [size, size]
    halves = [
        max(stop, rate / 2) - cut for stop, rate, cut in zip(stopbands, rates, cutoffs, strict=True)
    ]
    pictures = []
    for codes in w_plus:
        x = _input(state, codes[0], size=sizes[0], rate=rates[0], cutoff=cutoffs[0])
        for index in range(last):
            name, prev = names[index], max(index - 1, 0)
            x = _convolve(state, name, x, codes[index + 1], demodulate=True)
            x = x + state[f"{name}.bias"][:, None, None]
            between = 2 * max(rates[prev], rates[index])
            up, down = between // rates[prev], between // rates[index]
            up_filter, down_filter = state[f"{name}.up_filter"], state[f"{name}.down_filter"]
            if designed:
                up_filter = _lowpass(6 * up, cutoffs[prev], halves[prev], between)
                jinc = radial and index < last - critical
                down_filter = _lowpass(6 * down, cutoffs[index], halves[index], between, jinc=jinc)
            x = _activate(x, up_filter, down_filter, up, down, sizes[prev], sizes[index], kernel)
        x = _convolve(state, names[last], x, codes[last + 1], demodulate=False)
        x = np.clip(x + state[f"{names[last]}.bias"][:, None, None], -256, 256)
        pictures.append(x * output_scale)
    return np.stack(pictures)


def map_codes(state: State, z: Array) -> Array:
    """Map z (N, D) to w (N, D)."""
    x = z / np.sqrt(np.square(z).mean(axis=1, keepdims=True) + 1e-8)
    layer = 0
    while f"mapping.fc{layer}.weight" in state:
        weight = state[f"mapping.fc{layer}.weight"] * 0.01 / math.sqrt(x.shape[1])
        x = x @ weight.T + state[f"mapping.fc{layer}.bias"] * 0.01
        x = np.where(x > 0, x, 0.2 * x) * math.sqrt(2)
        layer += 1
    return x


def _cutoffs(size: int, last: int, critical: int) -> tuple[list[float], list[float]]:
    """Return f_c and f_t of every layer and the picture (equation 3)."""
    cutoffs, stopbands = [], []
    for index in range(last + 1):
        share = min(index / (last - critical), 1.0)
        cutoffs.append(2.0 * (size / 2 / 2.0) ** share)
        first = 2.0**2.1
        stopbands.append(first * (size / 2 * 2.0**0.3 / first) ** share)
    return cutoffs, stopbands


def _input(state: State, w: Array, *, size: int, rate: int, cutoff: float) -> Array:
    """Sample the sines at every place, one after the other."""
    weight = state["synthesis.input.affine.weight"] / math.sqrt(len(w))
    cosine, sine, x, y = weight @ w + state["synthesis.input.affine.bias"]
    cosine, sine, x, y = np.array([cosine, sine, x, y]) / math.hypot(cosine, sine)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    shift = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    transform = turn @ shift @ state["synthesis.input.transform"]
    drawn = np.zeros((len(state["synthesis.input.phases"]), size, size))
    for row in range(size):
        for column in range(size):
            place = np.array([column + 0.5 - size / 2, row + 0.5 - size / 2]) / rate
            moved = transform[:2, :2] @ place + transform[:2, 2]
            cycles = state["synthesis.input.freqs"] @ moved + state["synthesis.input.phases"]
            drawn[:, row, column] = np.sin(2 * math.pi * cycles)
    frequencies = state["synthesis.input.freqs"] @ transform[:2, :2]
    fall = (np.hypot(*frequencies.T) - cutoff) / (rate / 2 - cutoff)
    drawn *= np.clip(1 - fall, 0, 1)[:, None, None]
    mixed = state["synthesis.input.weight"] / math.sqrt(len(drawn))
    return np.einsum("oc,chw->ohw", mixed, drawn)


def _convolve(state: State, name: str, x: Array, w: Array, *, demodulate: bool) -> Array:
    """Scale this picture's weights, and sum every product."""
    affine = state[f"{name}.affine.weight"] / math.sqrt(len(w))
    styles = affine @ w + state[f"{name}.affine.bias"]
    weight = state[f"{name}.weight"]
    if demodulate:
        weight = weight / np.sqrt(np.square(weight).mean(axis=(1, 2, 3), keepdims=True))
        styles = styles / np.sqrt(np.square(styles).mean())
    else:
        styles = styles / math.sqrt(weight[0].size)
    weight = weight * styles[None, :, None, None]
    if demodulate:
        energy = np.square(weight).sum(axis=(1, 2, 3), keepdims=True)
        weight = weight / np.sqrt(energy + 1e-8)
    weight = weight / np.sqrt(state[f"{name}.magnitude_ema"])
    return np.stack(
        [
            sum(signal.correlate2d(c, k) for c, k in zip(x, kernels, strict=True))
            for kernels in weight
        ]
    )


def _lowpass(taps: int, cutoff: float, half: float, rate: int, *, jinc: bool = False) -> Array:
    """Return an ideal filter under Kaiser's window, with unit gain for constants."""
    attenuation = 2.285 * (taps - 1) * math.pi * (2 * half / (rate / 2)) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    else:
        rest = max(attenuation - 21, 0)
        beta = 0.5842 * rest**0.4 + 0.07886 * rest
    window = np.kaiser(taps, beta)
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    if not jinc:
        kernel = np.sinc(2 * cutoff * x) * window
        return kernel / kernel.sum()
    radius = np.hypot(*np.meshgrid(x, x))
    kernel = special.j1(2 * math.pi * cutoff * radius) / radius * np.outer(window, window)
    return kernel / kernel.sum()


def _activate(
    x: Array,
    up_filter: Array,
    down_filter: Array,
    up: int,
    down: int,
    before: int,
    behind: int,
    kernel: int,
) -> Array:
    """Enlarge, bend, shrink: each sample of the result is the sum over its window."""
    wanted = (behind - 1) * down + len(down_filter)  # samples that the activation must give
    total = wanted - (before + kernel - 1) * up + len(up_filter) - 1
    first = (total + up) // 2
    bent = []
    for channel in x:
        spread = np.zeros([side * up for side in channel.shape])
        spread[::up, ::up] = channel
        spread = _pad(spread, first, total - first)
        fine = signal.convolve2d(spread, np.outer(up_filter, up_filter) * up**2, mode="valid")
        fine = np.where(fine > 0, fine, 0.2 * fine) * math.sqrt(2)
        fine = np.clip(fine, -256, 256)
        if down_filter.ndim == 1:
            down_filter = np.outer(down_filter, down_filter)
        bent.append(signal.convolve2d(fine, down_filter, mode="valid")[::down, ::down])
    return np.stack(bent)


def _pad(picture: Array, first: int, last: int) -> Array:
    """Add zeros around a picture; negative numbers take samples away."""
    padded = np.pad(picture, [(max(first, 0), max(last, 0))] * 2)
    start, stop = max(-first, 0), padded.shape[0] - max(-last, 0)
    return padded[start:stop, start:stop]
