"""Measure a face pack: `python -m tests.bench.pack [--pack mini] [--shared DIR] [--json FILE]`.

Everything is measured on the validation faces and the clips of the shared data, with helper
networks: identity by mobilefacenet, expressions by PFLD's landmarks, faces by SCRFD-500M. SQ is
the distance of `SqueezeFeatures`, four taps summed: 0.065 for TAEF2's round trip.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import vidinvert
from tests.shared_data import SHARED
from vidinvert import images
from vidinvert.changes import EditedFace
from vidinvert.cli.device import keep_memory
from vidinvert.faces.landmarks import LandmarkNetwork, expression_measures
from vidinvert.inversion import mask_size
from vidinvert.media import decode, probe
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.rendering import render
from vidinvert.training.autoencoder import load_perceptual
from vidinvert.training.data import FaceSet, generator_at, load_faces
from vidinvert.training.directions import read_ratings
from vidinvert.training.occluders import plant
from vidinvert.training.samm import face_prior
from vidinvert.types import (
    Alignment,
    FaceMotion,
    FrameBatch,
    Inversion,
    InvertibilityMask,
    Latents,
    RenderPlan,
)

STRENGTHS = (-3.0, -1.5, 1.5, 2.0, 3.0)
MONOTONE = (-3.0, -1.5, 0.0, 1.5, 3.0)
MOVED = ("smile", "mouth_open", "age", "yaw")
TALKING = ("talk_", "halfbody_", "glasses_", "expressions_")
FACE_ROWS, FACE_COLUMNS = slice(60, 246), slice(35, 221)  # what mobilefacenet sees of a 256 px crop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """What is measured, and with what."""

    models: vidinvert.Models
    faces: FaceSet
    rows: NDArray[np.int64]
    perceptual: SqueezeFeatures
    identity: "IdentityNetwork"
    landmarks: LandmarkNetwork
    shared: Path

    def crops(self) -> NDArray[np.uint8]:
        """Return the validation faces measured, uint8 (N, R, R, 3)."""
        return np.asarray(self.faces.images[self.rows])


class IdentityNetwork:
    """mobilefacenet: unit embeddings (N, 128) of FFHQ-framed crops."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        rows = []
        for crop in crops:
            face = cv2.resize(
                crop[FACE_ROWS, FACE_COLUMNS], (112, 112), interpolation=cv2.INTER_AREA
            )
            array = ((face.astype(np.float32) - 127.5) / 128.0).transpose(2, 0, 1)[None]
            rows.append(np.asarray(self._session.run(None, {self._input: array})[0]).reshape(-1))
        found = np.stack(rows).astype(np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def batches(count: int, size: int = 8) -> Iterator[slice]:
    """Yield slices that cover `count` items."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def psnr(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """PSNR in dB of every picture (N, 3, R, R) in [-1, 1]: (N,)."""
    errors = (first.clamp(-1, 1) - second).square().mean(dim=(1, 2, 3))
    return (-10.0 * torch.log10(errors / 4.0)).double().numpy()


@torch.inference_mode()
def reconstruction(bench: Bench) -> dict[str, float]:
    """Encoder and generator alone, and SAMM's composite; also how far mask and blend go."""
    crops, method = bench.crops(), bench.models.method
    alone, distance, same, blended, masks = [], [], [], [], []
    known = bench.identity(crops)
    for part in batches(len(crops)):
        source = images.to_float(crops[part])
        embedding = method.embed(source)
        inverted = method.generate(embedding.w_plus).clamp(-1, 1)
        alone.append(psnr(inverted, source))
        distance.append(float(bench.perceptual.distance(inverted, source)))
        found = bench.identity(images.to_uint8(inverted))
        same.append((found * known[part]).sum(axis=1))
        synthesis = method.synthesise(embedding, embedding.w_plus)
        blend = images.composite(source=source, generated=synthesis.image, ood=synthesis.ood)
        blended.append(psnr(blend, source))
        masks.append(synthesis.ood.mean(dim=(1, 2, 3)).numpy())
    return {
        "reconstruction_psnr": float(np.concatenate(alone).mean()),
        "reconstruction_sq": float(np.mean(distance)),
        "reconstruction_identity": float(np.concatenate(same).mean()),
        "composite_psnr": float(np.concatenate(blended).mean()),
        "composite_mean_mask": float(np.concatenate(masks).mean()),
    }


@torch.inference_mode()
def round_trip(bench: Bench) -> dict[str, float]:
    """The autoencoder of a pack of kind eigen: what its generator cannot exceed."""
    method = bench.models.method
    encoder, decoder = getattr(method, "encoder", None), getattr(method, "decoder", None)
    if encoder is None or decoder is None:
        return {}
    values, distance = [], []
    for part in batches(len(bench.rows)):
        source = images.to_float(bench.crops()[part])
        output = decoder(encoder(source).latents).clamp(-1, 1)
        values.append(psnr(output, source))
        distance.append(float(bench.perceptual.distance(output, source)))
    return {
        "autoencoder_psnr": float(np.concatenate(values).mean()),
        "autoencoder_sq": float(np.mean(distance)),
    }


@torch.inference_mode()
def planted(bench: Bench) -> dict[str, float]:
    """IoU at 0.5 of the mask with what was planted before the inner face."""
    crops, method = bench.crops(), bench.models.method
    rng = generator_at(7, 0)
    inside = (face_prior(crops.shape[1]) > 0.5)[0, 0].numpy()
    overlap = union = 0
    bare = []
    for part in batches(len(crops)):
        pairs = [plant(crop, rng) for crop in crops[part]]
        source = images.to_float(np.stack([picture for picture, _ in pairs]))
        embedding = method.embed(source)
        ood = method.synthesise(embedding, embedding.w_plus).ood[:, 0].numpy() > 0.5
        truth = np.stack([opacity for _, opacity in pairs]) > 0.5
        overlap += int((ood & truth & inside).sum())
        union += int(((ood | truth) & inside).sum())
        plain = method.embed(images.to_float(crops[part]))
        mask = method.synthesise(plain, plain.w_plus).ood[:, 0].numpy()
        bare.append((mask * inside).sum(axis=(1, 2)) / inside.sum())
    return {
        "planted_iou": overlap / max(union, 1),
        "mask_on_bare_faces": float(np.concatenate(bare).mean()),
    }


@torch.inference_mode()
def edited(bench: Bench, name: str, strength: float) -> NDArray[np.uint8]:
    """Edit the validation faces as `vidinvert edit` does by default, as a clip of one crop each."""
    crops, method = bench.crops(), bench.models.method
    direction, read = bench.models.directions[name], bench.models.landmarks
    motion = None if read is None else direction.motion
    side = mask_size(method.crop_size)
    out = []
    for part in batches(len(crops)):
        source = images.to_float(crops[part])
        embedding = method.embed(source)
        synthesis = method.synthesise(embedding, embedding.w_plus)
        indices = np.arange(len(source), dtype=np.int64)
        corner = method.crop_size - 1.0
        quad = np.array([[0.0, 0.0], [0.0, corner], [corner, corner], [corner, 0.0]])
        codes = embedding.w_plus.float()
        face = EditedFace(
            alignment=Alignment(
                crop_from_frame=np.tile(np.eye(2, 3), (len(source), 1, 1)),
                crop_size=method.crop_size,
                indices=indices,
                quads_xy=np.tile(quad, (len(source), 1, 1)),
            ),
            inversion=Inversion(
                latents=Latents(w_plus=codes, indices=indices),
                mask=InvertibilityMask(
                    ood=images.mask_to_uint8(images.resize(synthesis.ood, (side, side))),
                    indices=indices,
                ),
                pack_sha256=bench.models.pack.sha256,
                method=bench.models.method_name,
            ),
            edited=Latents(w_plus=codes + strength * direction.vector, indices=indices),
            strength=np.full(len(source), abs(strength)),
        )
        if read is not None and motion is not None:
            points = read(codes)
            moves = np.broadcast_to(strength * motion.moves, points.shape)
            moved = codes + strength * motion.share * direction.vector
            face = replace(
                face,
                motion=FaceMotion(points=points, moves=moves),
                beside_motion=Latents(w_plus=moved, indices=indices),
            )
        batch = FrameBatch(frames=crops[part], indices=indices)
        (result,) = render([batch], [face], method, RenderPlan())
        out.append(result.frames)
    return np.concatenate(out)


class AgeProbe:
    """Ridge regression of rated age on SqueezeNet's features: independent of the pack's codes."""

    def __init__(self, bench: Bench, data: Path) -> None:
        ratings = read_ratings(data / "omi_ratings.csv", ("age",))
        faces = bench.faces
        rated = [
            row
            for row in faces.rows("train")
            if faces.files[row].startswith("omi/") and faces.files[row][4:] in ratings
        ]
        values = np.array([ratings[faces.files[row][4:]]["age"] for row in rated])
        self._perceptual = bench.perceptual
        inputs = self._describe(np.asarray(faces.images[rated]))
        self._mean, self._spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
        inputs = (inputs - self._mean) / self._spread
        held = np.arange(len(rated)) % 5 == 0
        self._offset = float(values.mean())
        self._weights = self._fit(inputs[~held], values[~held])
        guess = inputs[held] @ self._weights
        self.correlation = float(np.corrcoef(guess, values[held])[0, 1])
        self._weights = self._fit(inputs, values)

    def _fit(self, inputs: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        gram = inputs @ inputs.T + 0.3 * inputs.shape[1] * np.eye(len(inputs))
        return inputs.T @ np.linalg.solve(gram, values - self._offset)

    @torch.inference_mode()
    def _describe(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        rows = []
        for part in batches(len(crops), 16):
            face = images.to_float(crops[part])[:, :, 48:240, 40:216]
            taps = self._perceptual(face)
            pooled = [F.adaptive_avg_pool2d(tap, 6).flatten(1) for tap in taps[1:]]
            rows.append(torch.cat(pooled, dim=1).double().numpy())
        return np.concatenate(rows)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Estimate ages, in rating points: (N,)."""
        inputs = (self._describe(crops) - self._mean) / self._spread
        return inputs @ self._weights + self._offset


def directions(bench: Bench, data: Path) -> dict[str, float]:
    """How far each edit moves its own measure and the others, and what it does to identity."""
    probe_age = AgeProbe(bench, data)
    crops = bench.crops()
    known = bench.identity(crops)

    def measure(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        found = expression_measures(bench.landmarks(pictures))
        return {**{name: found[name] for name in found}, "age": probe_age(pictures)}

    base = measure(crops)
    spread = {name: float(values.std()) for name, values in base.items()}
    figures = {"age_probe_correlation": probe_age.correlation}
    for name in MOVED:
        if name not in bench.models.directions:
            continue
        found = {0.0: base}
        for strength in STRENGTHS:
            pictures = edited(bench, name, strength)
            found[strength] = measure(pictures)
            if strength == 2.0:
                same = (bench.identity(pictures) * known).sum(axis=1)
                figures[f"{name}_identity_at_2"] = float(same.mean())
        course = np.stack([found[strength][name] for strength in MONOTONE])
        steps = np.diff(course, axis=0)
        figures[f"{name}_monotone"] = float((steps > 0).all(axis=0).mean())
        moves = {
            other: float((found[2.0][other] - base[other]).mean()) / spread[other] for other in base
        }
        figures[f"{name}_moves_at_2"] = moves[name]
        leak = {other: abs(moves[other]) / abs(moves[name]) for other in moves if other != name}
        worst = max(leak, key=lambda other: leak[other])
        figures[f"{name}_worst_leak"] = leak[worst]
        figures[f"{name}_leaks_into_{worst}"] = moves[worst]
    return figures


def detector(bench: Bench, *, per_clip: int = 12) -> dict[str, float]:
    """Recall and key points on the talking heads, against SCRFD-500M; speed at 320 px."""
    from insightface.app import FaceAnalysis

    reference = FaceAnalysis(
        name="scrfd_500m",
        root=str(bench.shared / "models" / "insightface"),
        allowed_modules=["detection"],
        providers=["CPUExecutionProvider"],
    )
    reference.prepare(ctx_id=-1, det_size=(640, 640), det_thresh=0.5)
    wanted = hits = 0
    errors = []
    for path in sorted((bench.shared / "data" / "clips").glob("*.m[pk][4v]")):
        if not path.name.startswith(TALKING):
            continue
        info = probe(path)
        chosen = set(np.linspace(0, info.frame_count - 1, per_clip).astype(int).tolist())
        for batch in decode(info, batch_size=8):
            for index, frame in zip(batch.indices.tolist(), batch.frames, strict=True):
                if index not in chosen:
                    continue
                theirs = reference.get(np.ascontiguousarray(frame[..., ::-1]))
                ours = bench.models.detector.detect(
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
    bench.models.detector.detect(batch)
    started = time.perf_counter()
    for _ in range(60):
        bench.models.detector.detect(batch)
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


def main() -> None:
    """Print every figure, one a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", default="mini")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--faces", type=int, default=96, help="validation faces to measure")
    parser.add_argument("--only", nargs="+", default=None, help="parts, as reconstruction detector")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_memory()
    data, helpers = options.shared / "data" / "faces256", options.shared / "models"
    faces = load_faces(data)
    rows = np.array([r for r in faces.rows("val") if faces.source[r] != "maicom"])
    bench = Bench(
        models=vidinvert.load_pack(options.pack),
        faces=faces,
        rows=rows[:: max(1, len(rows) // options.faces)][: options.faces],
        perceptual=load_perceptual(next((helpers / "perceptual").glob("squeezenet*.npz"))),
        identity=IdentityNetwork(helpers / "identity" / "mobilefacenet.onnx"),
        landmarks=LandmarkNetwork(helpers / "landmarks" / "pfld_68.onnx"),
        shared=options.shared,
    )
    parts = {
        "autoencoder": lambda: round_trip(bench),
        "reconstruction": lambda: reconstruction(bench),
        "planted": lambda: planted(bench),
        "directions": lambda: directions(bench, data),
        "detector": lambda: detector(bench),
    }
    figures: dict[str, float] = {
        "faces": float(len(bench.rows)),
        "pack_megabytes": sum(f.size_bytes for f in bench.models.pack.files.values()) / 1e6,
    }
    for name, measure in parts.items():
        if options.only is None or name in options.only:
            figures |= measure()
    for name, value in figures.items():
        print(f"{name:32} {value:10.4f}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
