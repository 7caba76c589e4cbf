"""Measure a face pack: `python -m tests.bench.pack [--pack mini] [--shared DIR] [--json FILE]`.

Pictures and edits are measured by `vidinvert.appraisal`, as `vidinvert train appraise` does for
pack.toml, the detector against SCRFD-500M on the talking heads of the shared data. Identity is
mobilefacenet's, expressions PFLD's. SQ is the distance of `SqueezeFeatures`, four taps summed:
0.074 for TAEF2's round trip on these 48 faces. Half of it is the sum of 1 - cosine of the features,
in which that round trip is 0.037.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import vidinvert
from tests.shared_data import SHARED
from vidinvert.appraisal import (
    Editor,
    appraise_edits,
    appraise_inversion,
    choose_faces,
    load_instruments,
)
from vidinvert.cli.device import keep_memory
from vidinvert.media import decode, probe
from vidinvert.training.data import load_faces
from vidinvert.types import FrameBatch

MOVED = ("smile", "mouth_open", "age", "yaw")  # those that the goals are for
TALKING = ("talk_", "halfbody_", "glasses_", "expressions_")
PARTS = ("inversion", "directions", "detector")


def detector(models: vidinvert.Models, shared: Path, *, per_clip: int = 12) -> dict[str, float]:
    """Recall and key points on the talking heads, against SCRFD-500M; speed at 320 px."""
    from insightface.app import FaceAnalysis

    reference = FaceAnalysis(
        name="scrfd_500m",
        root=str(shared / "models" / "insightface"),
        allowed_modules=["detection"],
        providers=["CPUExecutionProvider"],
    )
    reference.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=0.5)
    wanted = hits = 0
    errors = []
    for path in sorted((shared / "data" / "clips").glob("*.m[pk][4v]")):
        if not path.name.startswith(TALKING):
            continue
        info = probe(path)
        chosen = set(np.linspace(0, info.frame_count - 1, per_clip).astype(int).tolist())
        for batch in decode(info, batch_size=8):
            for index, frame in zip(batch.indices.tolist(), batch.frames, strict=True):
                if index not in chosen:
                    continue
                theirs = reference.get(np.ascontiguousarray(frame[..., ::-1]))
                ours = models.detector.detect(
                    FrameBatch(frames=frame[None], indices=np.array([0]))
                )[0]
                for face in theirs:
                    points = np.asarray(face.kps, np.float64)
                    eyes = float(np.linalg.norm(points[1] - points[0]))
                    gaps = [np.linalg.norm(d.landmarks_xy - points, axis=1) for d in ours]
                    gaps = [gap for gap in gaps if gap.mean() < 0.5 * eyes]
                    wanted += 1
                    hits += bool(gaps)
                    if gaps:
                        errors.append(min(gaps, key=lambda g: float(g.mean())) / eyes)
    picture = np.full((1, 320, 320, 3), 127, np.uint8)
    batch = FrameBatch(frames=picture, indices=np.array([0]))
    models.detector.detect(batch)
    started = time.perf_counter()
    for _ in range(60):
        models.detector.detect(batch)
    rate = 60 / (time.perf_counter() - started)
    points = np.array(errors).mean(axis=0)
    names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    return {
        "detector_faces": float(wanted),
        "detector_recall": hits / max(wanted, 1),
        "detector_points_error": float(points.mean()),
        **{f"detector_{name}": float(v) for name, v in zip(names, points, strict=True)},
        "detector_frames_per_second": rate,
    }


def flat(directions: dict[str, dict[str, float | dict[str, float]]]) -> dict[str, float]:
    """Name the figures of directions, and of each the largest side effect, in one table."""
    figures: dict[str, float] = {}
    for name, found in directions.items():
        for key, value in found.items():
            if isinstance(value, dict):
                worst = max(value, key=lambda other: abs(value[other]))
                figures[f"{name}_leaks_into_{worst}"] = value[worst]
            else:
                figures[f"{name}_{key}"] = value
    return figures


def main() -> None:
    """Print every figure, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", default="mini")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--faces", type=int, default=48, help="validation faces to measure")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--edits", nargs="+", default=MOVED, help="directions, or `all`")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_memory()
    data, helpers = options.shared / "data" / "faces256", options.shared / "models"
    models = vidinvert.load_pack(options.pack, precision=options.precision)
    faces = load_faces(data)
    crops = choose_faces(faces, count=options.faces)
    editor = Editor(method=models.method, directions=models.directions, landmarks=models.landmarks)
    figures: dict[str, float] = {
        "faces": float(len(crops)),
        "pack_megabytes": sum(f.size_bytes for f in models.pack.files.values()) / 1e6,
    }
    if {"inversion", "directions"} & set(options.only):
        instruments = load_instruments(faces, data, helpers)
        for name, correlation in instruments.ratings.correlation.items():
            figures[f"{name}_probe_correlation"] = correlation
        if "inversion" in options.only:
            figures |= appraise_inversion(crops, editor, instruments)
        if "directions" in options.only:
            names = None if "all" in options.edits else tuple(options.edits)
            figures |= flat(appraise_edits(crops, editor, instruments, names=names))
    if "detector" in options.only:
        figures |= detector(models, options.shared)
    for name, value in figures.items():
        print(f"{name:32} {value:10.4f}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
