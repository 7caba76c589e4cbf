"""Draw what every method makes of a face: `python samples/compare_methods.py PICTURE.png [CLIP]`.

One row a method: a crop of the clip, its inversion, the mask (white = the source is kept), and two
edits. `python -m tests.bench.methods` prints the figures on many faces and clips.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import vidinvert
from vidinvert.faces import align, crop_batch, track_faces
from vidinvert.fidelity import psnr
from vidinvert.images import resize_picture, to_uint8, write_png
from vidinvert.media import decode

CLIP, SPAN, SIZE = Path(__file__).parent / "talk.mp4", (1.2, 1.4), 192  # seconds, pixels
EDITS, METHODS = ("smile=2.5", "age=2"), ("samm", "e4e", "restyle", "indomain", "force-indomain")


@torch.inference_mode()
def invert(method, crop):
    """Return the inversion of a crop (1, 3, R, R) and its mask, (R, R, 3) each."""
    found = method.embed(crop)
    refine = getattr(method, "refine", None)  # In-Domain's optimisation
    found = found if refine is None else refine(crop, found, None)
    shown = method.synthesise(found, found.w_plus)
    return to_uint8(shown.image)[0], to_uint8(shown.ood.expand(-1, 3, -1, -1) * 2 - 1)[0]


def main(picture, clip=CLIP, methods=METHODS):
    """Draw the picture, print the inversions' PSNR, and return it by method."""
    rows, figures, span = [], {}, vidinvert.Span(start_seconds=SPAN[0], end_seconds=SPAN[1])
    for name in methods:
        pack = vidinvert.load_pack("mini", method=name)
        with tempfile.TemporaryDirectory() as folder:
            parts = []
            for edit in ("smile=0", *EDITS):
                target = Path(folder) / f"{edit}.mp4"
                vidinvert.edit_video(clip, target, edits=edit, span=span, pack=pack)
                parts.append(next(iter(decode(vidinvert.probe(target), batch_size=1))))
        found, plan = pack.detector.detect(parts[0]), vidinvert.TrackingPlan()
        (track,) = track_faces(found, seconds=np.zeros(1), plan=plan)
        face = align(track, crop_size=pack.method.crop_size)
        crops = [crop_batch(part, face)[1] for part in parts]
        started = time.perf_counter()
        image, mask = invert(pack.method, crops[0])
        source, *edited = (to_uint8(crop)[0] for crop in crops)
        figures[name] = psnr(source, image)
        print(f"{name:14s} {figures[name]:6.2f} dB  {time.perf_counter() - started:5.2f} s")
        cells = [resize_picture(cell, SIZE) for cell in (source, image, mask, *edited)]
        rows.append(np.concatenate(cells, axis=1))
    write_png(Path(picture), np.concatenate(rows))
    return figures


if __name__ == "__main__":
    main(*sys.argv[1:3])
