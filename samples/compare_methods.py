"""Compare the methods of `mini`: `python -m samples.compare_methods PICTURE.png [SHARED_DATA]`.

One row a method: a face of the sample, its inversion (as tests/bench/methods.py shows it), the mask
of the first edit (white = the source is kept) and two edits. With shared data a table follows.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import vidinvert
from tests.bench.methods import compare, find_codes, show, summary
from vidinvert import images
from vidinvert.faces import align, crop_batch, track_faces
from vidinvert.media import decode
from vidinvert.types import FrameBatch

CLIP, FRAME, SPAN = Path(__file__).parent / "talk.mp4", 30, (1.2, 1.4)  # FRAME is the span's first
METHODS = ("samm", "diffcam", "e4e", "restyle", "indomain", "force-indomain")
EDITS, SIZE, LABEL = ("smile=2", "age=2.5"), 128, 16  # pixels


@torch.no_grad()
def _draw_row(name):  # -> a method's cells, uint8 (R, R, 3): source, inversion, mask, edits
    pack, plan = vidinvert.load_pack("mini", method=name), vidinvert.TrackingPlan()
    span = vidinvert.Span(start_seconds=SPAN[0], end_seconds=SPAN[1])
    frames = [next(decode(vidinvert.probe(CLIP), batch_size=1, start=FRAME)).frames]
    with tempfile.TemporaryDirectory() as folder:
        for edit in EDITS:
            out, masks = Path(folder) / f"{edit}.mp4", Path(folder) / edit
            vidinvert.edit_video(CLIP, out, edits=edit, span=span, pack=pack, save_masks=masks)
            frames.append(next(decode(vidinvert.probe(out), batch_size=1)).frames)
        frames.append(images.read_picture(Path(folder) / EDITS[0] / f"{FRAME:06d}.png")[None])
    batches = [FrameBatch(frames=frame, indices=np.zeros(1, np.int64)) for frame in frames]
    found = track_faces(pack.detector.detect(batches[0]), seconds=np.zeros(1), plan=plan)
    source, *edited, mask = (crop_batch(b, align(found[0], crop_size=256))[1] for b in batches)
    inverted = show(pack.method, source, find_codes(pack.method, source)).clamp(-1, 1)
    return [images.to_uint8(cell)[0] for cell in (source, inverted, mask, *edited)]


def main(picture, shared=None, methods=METHODS):
    """Write the picture, print the table, and return the picture's cells by method."""
    rows, words = {name: _draw_row(name) for name in methods}, ("source", "inversion", "mask")
    lines = [[images.draw_text(word, height=LABEL, width=SIZE) for word in (*words, *EDITS)]]
    for name, cells in rows.items():
        lines.append([images.draw_text(name, height=LABEL, width=SIZE * len(cells))])
        lines.append([images.shrink(cell, (SIZE, SIZE)) for cell in cells])
    images.write_png(Path(picture), np.concatenate([np.concatenate(line, 1) for line in lines]))
    if shared is not None:
        print(summary(*compare(Path(shared), methods=methods)))
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:3])
