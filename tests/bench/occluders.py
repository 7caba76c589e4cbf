"""Masks against planted occluders: `python -m tests.bench.occluders CLIP...`.

A hand, glasses and lettering are moved across each clip, so the true mask is known. Printed are,
per filter for masks: IoU with the truth inside the crop, temporal IoU and flicker of the mask. In
the row `as edit does` masks are found as `vidinvert edit` does, and carried between.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from stabilizers import (
    FlowFilter,
    GaussianFilter,
    flow_tensor,
    intervals_from_indices,
    measured_positions,
    smooth_masks,
    visible_in_both,
)
from stabilizers.metrics import mask_flicker, mask_iou, temporal_iou
from tests.mini import mini
from vidinvert import Plans, images, probe
from vidinvert.faces import align
from vidinvert.geometry import optical_flow, quick_flow
from vidinvert.inversion import APART, invert, stabilise_alignment
from vidinvert.media import decode
from vidinvert.pipeline import find_tracks
from vidinvert.training.occluders import glasses, hand, lettering
from vidinvert.types import FrameBatch

FILTERS = {
    "none": None,
    "gaussian 0.08": GaussianFilter(sigma_seconds=0.08),
    "flow 0.08": FlowFilter(time_seconds=0.08),
    "flow 0.2": FlowFilter(time_seconds=0.2),
    "flow 0.2, snapped": FlowFilter(time_seconds=0.2, radius=0.03, edge=0.1),
}


SPARSE = "flow 0.2, as edit does"


def plant(frames, alignment, draw, seed=4):
    """Move one drawing across the face; returns the frames and the true masks in the frame."""
    rng = np.random.default_rng(seed)
    side = int(np.linalg.norm(alignment.quads_xy[0, 3] - alignment.quads_xy[0, 0]))
    colours, opacity = draw(side, rng)
    planted, truth = [], []
    for t, frame in enumerate(frames):
        left, top = np.round(alignment.quads_xy[0].min(axis=0)).astype(int)
        left += round(0.25 * side * (t / max(len(frames) - 1, 1) - 0.5))
        canvas, mask = frame.astype(np.float32), np.zeros(frame.shape[:2], np.float32)
        y, x = max(top, 0), max(left, 0)
        part = np.s_[y : min(top + side, frame.shape[0]), x : min(left + side, frame.shape[1])]
        size = canvas[part].shape
        cut = np.s_[y - top : y - top + size[0], x - left : x - left + size[1]]
        mask[part] = opacity[cut]
        canvas[part] += opacity[cut][..., None] * (colours[cut].clip(0, 255) - canvas[part])
        planted.append(np.rint(canvas).astype(np.uint8))
        truth.append(mask)
    return np.stack(planted), np.stack(truth)


def measure(path, draw, *, count=24):
    """Return, by filter, IoU with the planted mask, temporal IoU and flicker."""
    info, pack, plans = probe(path), mini(), Plans()
    frames = next(decode(info, batch_size=count, stop=count))
    quiet = lambda *_: None  # noqa: E731
    shots, tracks = find_tracks(info, pack, plans, frames=range(count), progress=quiet)
    track = tracks[0]
    placed = stabilise_alignment(
        align(track, crop_size=256), info.seconds, plans.stabilizer, shots=shots
    )
    planted, truth = plant(frames.frames[track.indices], placed, draw)
    batch = FrameBatch(frames=planted, indices=track.indices)
    options = {"pack_sha256": pack.pack.sha256, "method_name": "samm"}
    (inversion,) = invert([batch], [placed], pack.method, **options)
    as_frames = replace(batch, frames=np.repeat(np.uint8(255 * truth)[..., None], 3, axis=-1))
    (known,) = invert([as_frames], [placed], pack.method, **options)
    true = images.mask_to_float(known.mask.guide)  # the planted mask, as the crop sees it
    seconds, ood, guide = info.seconds[track.indices], inversion.mask.ood, inversion.mask.guide
    runs = intervals_from_indices(track.indices, cuts=shots)
    pairs = [(guide[t, 0].numpy(), guide[t + 1, 0].numpy()) for t in range(len(guide) - 1)]
    flows = [flow_tensor(optical_flow(a, b)) for a, b in pairs]
    seen = [
        visible_in_both(f, flow_tensor(optical_flow(b, a)))
        for f, (a, b) in zip(flows, pairs, strict=True)
    ]
    inside = torch.zeros_like(true[:1])
    inside[..., 32:96, 32:96] = 1.0  # the face: around it everything is kept anyway
    figures = {}
    some = measured_positions(seconds, runs, apart_seconds=APART)
    tried = [(name, filter_, None) for name, filter_ in FILTERS.items()]
    for name, filter_, measured in [*tried, (SPARSE, FILTERS["flow 0.2"], some)]:
        steady = images.mask_to_float(
            smooth_masks(
                ood,
                seconds,
                filter_,
                intervals=runs,
                guide=guide,
                flow=quick_flow,
                measured=measured,
            )
        )
        flicker = [
            mask_flicker(steady[t : t + 1], steady[t + 1 : t + 2], flow, inside * visible)
            for t, (flow, visible) in enumerate(zip(flows, seen, strict=True))
        ]
        figures[name] = (
            float(
                np.mean(
                    [
                        mask_iou(m * inside[0], t * inside[0])
                        for m, t in zip(steady, true, strict=True)
                    ]
                )
            ),
            float(np.mean(temporal_iou(steady * inside, flows))),
            float(np.nanmean(flicker)),
        )
    return figures


def main(clips):
    for draw in (hand, glasses, lettering):
        all_ = [measure(clip, draw) for clip in clips]
        for name in (*FILTERS, SPARSE):
            truth, steady, flicker = np.mean([figures[name] for figures in all_], axis=0)
            print(
                f"{draw.__name__:10s} {name:28s} IoU {truth:.3f}  temporal IoU {steady:.3f}  "
                f"flicker {flicker:.4f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
