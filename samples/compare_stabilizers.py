"""Compare filters: `python samples/compare_stabilizers.py PICTURE.png CLIP...`."""

import sys
from pathlib import Path

import numpy as np

from stabilizers import Interval, StabilizerPlan, parse_filter, savitzky_golay, smooth_similarities
from stabilizers.metrics import jitter
from stabilizers.windows import estimate_noise
from vidinvert import load_pack, probe
from vidinvert.geometry import crop_from_quad, ffhq_quads, quad_from_crop
from vidinvert.images import write_png
from vidinvert.media import decode
from vidinvert.plots import plot_points

TRIED = {
    "gaussian:sigma": (0.03, 0.05, 0.07, 0.09, 0.12), "median:window": (0.1, 0.2, 0.3),
    "savgol:window": (0.25, 0.4, 0.6), "one-euro:cutoff": (8, 4),
    "bilateral:sigma": (0.06, 0.12), "kalman:time": (0.04, 0.055, 0.085, 0.12),
    "tv:time": (0.02, 0.05, 0.1)}  # fmt: skip


def _corners(points, seconds, chosen):  # (T, 5, 2) -> (T, 4, 2), the crop's corners
    crops = np.stack([crop_from_quad(quad, 256) for quad in ffhq_quads(points)])
    run = [Interval(0, len(points))]
    steady = smooth_similarities(crops, seconds, chosen, intervals=run, crop_size=256)
    return np.stack([quad_from_crop(matrix, 256) for matrix in steady])


def _measure(clip, filters, detector):  # -> straying and jitter, % of the eyes' distance, each
    found = [f[0] for batch in decode(probe(clip)) for f in detector.detect(batch) if f]
    seconds = probe(clip).seconds[[f.frame_index for f in found]]
    raw = np.stack([f.landmarks_xy for f in found])
    true = savitzky_golay(raw, seconds, window_seconds=0.5, order=3)
    level = estimate_noise(raw.reshape(-1, 1, 10), seconds)[0]  # as the detector's
    noisy = np.random.default_rng(0).normal(true, level)
    scale, run = np.linalg.norm(true[:, 1] - true[:, 0], axis=1), [Interval(0, len(raw))]
    for steady in (_corners(noisy, seconds, chosen) for chosen in filters):
        strayed = np.linalg.norm(steady - _corners(true, seconds, None), axis=-1).mean(axis=1)
        yield 100 * (strayed / scale).mean(), 100 * np.nanmean(jitter(steady, scale, intervals=run))


def main(picture, clips):
    """Print the figures, draw them, and return them by filter."""
    texts = [*(f"{name}={value}" for name, all_ in TRIED.items() for value in all_), "kalman"]
    filters, groups = [*map(parse_filter, texts), StabilizerPlan().transforms], {}
    figures = [list(_measure(clip, filters, load_pack("mini").detector)) for clip in clips]
    for text, (strayed, left) in zip([*texts, "default"], np.mean(figures, axis=0), strict=True):
        print(f"{text:24s} strays {strayed:6.3f} %   jitter left {left:6.3f} %")
        groups.setdefault(text.split(":")[0], []).append((strayed, left, text.split("=")[-1]))
    words = {"title": "crop corners, % of the eyes", "x_label": "strays", "y_label": "jitter"}
    write_png(Path(picture), plot_points(groups, **words))
    return groups


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
