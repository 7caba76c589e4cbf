"""Compare every method of a pack: `python -m tests.bench.methods [--faces 48] [--seconds 1]`.

The validation faces and the clips are those of the shared data. Of a face: what the inversion
looks like before any edit (for SAMM the blend with the source, since that is what it shows; for
Diff-CAM, which shows the source itself, the generator's picture of its codes), and where its codes
lie. Of a clip: what `vidinvert evaluate` says of a smile, and the CPU time that the edit took. SQ
is the distance of SqueezeNet's features, identity is mobilefacenet's. Then what each method
claims over another, and whether that holds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import vidinvert
from tests.shared_data import SHARED
from vidinvert import images
from vidinvert.appraisal.instruments import batches
from vidinvert.appraisal.pictures import psnr
from vidinvert.changes import head_window
from vidinvert.checkpoints import find_pack, load_part, select
from vidinvert.cli.device import keep_memory
from vidinvert.evaluation import evaluate_video
from vidinvert.faces.likeness import IdentityNetwork
from vidinvert.methods import LOADERS, EditPainter, Method
from vidinvert.networks.eigen import EigenBasis
from vidinvert.networks.eigen_encoder import CodeDiscriminator, mahalanobis
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.autoencoder import load_perceptual
from vidinvert.training.data import load_faces
from vidinvert.types import Embedding

CLIPS = ("talk_480_30fps", "talk_512_25fps", "talk_720p_30fps", "glasses_512_25fps", "vfr_700")
EDIT, STRENGTH = "smile", 2.0
TRIM = (1, 99)  # percentiles: LEC leaves out the rest (Tov et al., 2021)
FACE_FIGURES = (
    "psnr", "psnr_background", "sq", "identity", "mahalanobis", "from_w", "logit", "lec",
    "cpu_seconds",
)  # fmt: skip
CLIP_FIGURES = ("tl_id", "tg_id", "identity", "warping", "smile", "cpu_seconds")
# The columns of `summary`: heading, "faces" or "clips", figure, decimals.
SUMMARY = (
    ("PSNR dB", "faces", "psnr", 2),
    ("background dB", "faces", "psnr_background", 2),
    ("SQ", "faces", "sq", 3),
    ("identity", "faces", "identity", 3),
    ("distance to W", "faces", "from_w", 3),
    ("LEC", "faces", "lec", 1),
    ("TL-ID", "clips", "tl_id", 3),
    ("TG-ID", "clips", "tg_id", 3),
    ("identity, edited", "clips", "identity", 3),
    ("warping error, relative", "clips", "warping", 2),
    ("CPU s a frame", "clips", "cpu_seconds", 2),
)
# Better, worse, in "faces" by a figure, and whether more of it is better.
CLAIMS = (
    ("samm", "e4e", "psnr", True),
    ("samm", "e4e", "identity", True),
    ("samm", "e4e", "psnr_background", True),
    ("indomain", "indomain:steps=0", "psnr", True),
    ("force-indomain", "indomain:steps=0", "from_w", False),
    ("force-indomain", "indomain:steps=0", "mahalanobis", False),
    ("force-indomain", "indomain:steps=0", "logit", True),
    ("force-indomain", "indomain:steps=0", "lec", False),
    ("force-indomain:steps=10", "indomain", "from_w", False),
)
Figures = dict[str, dict[str, float]]  # by method, then by name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """What is measured, and with what; `crops` uint8 (N, R, R, 3)."""

    pack: str
    crops: NDArray[np.uint8]
    perceptual: SqueezeFeatures
    identity: IdentityNetwork
    shared: Path


def find_codes(method: Method, crops: Tensor) -> Embedding:
    """Embed crops, and refine the codes where the method does that: each crop for itself."""
    embedding = method.embed(crops)
    refine = getattr(method, "refine", None)
    return embedding if refine is None else refine(crops, embedding, None)


def show(method: Method, crops: Tensor, embedding: Embedding) -> Tensor:
    """Return the unedited picture of a method (N, 3, R, R): with what its mask keeps."""
    if isinstance(method, EditPainter):
        return method.generate(embedding.w_plus)
    synthesis = method.synthesise(embedding, embedding.w_plus)
    return images.composite(source=crops, generated=synthesis.image, ood=synthesis.ood)


@torch.inference_mode()
def measure_faces(bench: Bench, models: vidinvert.Models) -> dict[str, float]:
    """Means over the validation faces of `FACE_FIGURES`; what cannot be measured is NaN."""
    method = models.method
    judge, basis = _judge(models), _basis(method)
    direction = STRENGTH * models.directions[EDIT].vector
    background = torch.from_numpy(head_window(method.crop_size)).reshape(method.crop_size, -1) < 0.1
    known = bench.identity(bench.crops)
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in FACE_FIGURES}
    for part in batches(len(bench.crops)):
        source = images.to_float(bench.crops[part])
        started = time.process_time()
        embedding = find_codes(method, source)
        shown = show(method, source, embedding).clamp(-1, 1)
        spent = (time.process_time() - started) / len(source)
        codes = embedding.w_plus
        again = find_codes(method, method.generate(codes + direction).clamp(-1, 1)).w_plus
        missed = (again - direction - codes).flatten(1).norm(dim=1)
        found = {
            "psnr": psnr(shown, source),
            "psnr_background": psnr(shown[..., background, None], source[..., background, None]),
            "sq": np.array([float(bench.perceptual.distance(shown, source))] * len(source)),
            "identity": (bench.identity(images.to_uint8(shown)) * known[part]).sum(axis=1),
            "lec": missed.double().numpy(),
            "cpu_seconds": np.full(len(source), spent),
        }
        if basis is not None:
            distance = mahalanobis(basis, codes).double().numpy()
            found |= {"mahalanobis": distance, "from_w": np.abs(distance - 1.0)}
        if judge is not None:
            found["logit"] = judge(codes).double().numpy()
        for name, values in found.items():
            rows[name].append(values)
    figures = {name: np.concatenate(v) if v else np.array([np.nan]) for name, v in rows.items()}
    low, high = np.percentile(figures["lec"], TRIM)
    kept = figures["lec"][(figures["lec"] >= low) & (figures["lec"] <= high)]
    return {name: float(v.mean()) for name, v in figures.items()} | {"lec": float(kept.mean())}


def _judge(models: vidinvert.Models) -> CodeDiscriminator | None:
    """Return Force-in-domain's discriminator of codes, if the pack has it."""
    if "force-indomain" not in models.pack.files:
        return None
    components = tuple(int(count) for count in models.pack.settings["components"])
    judge = CodeDiscriminator(components, style_width=models.pack.style_width)
    state = select(load_part(models.pack, "force-indomain"), "discriminator.")
    judge.load_state_dict({name: value.float() for name, value in state.items()})
    return judge.eval()


def _basis(method: Method) -> EigenBasis | None:
    bank = getattr(method, "bank", method)  # Diff-CAM has its generator there
    return getattr(getattr(bank, "generator", None), "basis", None)


def measure_clips(bench: Bench, models: vidinvert.Models, seconds: float) -> dict[str, float]:
    """Means over the clips of `CLIP_FIGURES`, of the first `seconds` of each."""
    rows: list[Mapping[str, float]] = []
    span = vidinvert.Span(start_seconds=0.0, end_seconds=seconds)
    for name in CLIPS:
        (clip,) = (bench.shared / "data" / "clips").glob(f"{name}.*")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "edited.mp4"
            started = time.process_time()
            vidinvert.edit_video(clip, target, edits=f"{EDIT}={STRENGTH:g}", pack=models, span=span)
            spent = time.process_time() - started
            report = evaluate_video(
                clip,
                target,
                detector=models.detector,
                end_seconds=seconds,
                recognition=bench.shared / "models" / "identity" / "mobilefacenet.onnx",
                landmarks=bench.shared / "models" / "landmarks" / "pfld_68.onnx",
            ).report
            face = report["faces"][0]
        rows.append(
            {
                "tl_id": face["tl_id"],
                "tg_id": face["tg_id"],
                "identity": face["identity_similarity"],
                "warping": face["warping_error"]["ratio"],
                "smile": face["attributes"]["smile"],
                "cpu_seconds": spent / report["frames"],
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in CLIP_FIGURES}


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out figures by method as a Markdown table."""
    names = list(next(iter(figures.values())))
    lines = ["| method | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for method, row in figures.items():
        lines.append(f"| {method} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")
    return "\n".join(lines)


def summary(still: Figures, moving: Figures) -> str:
    """Lay out the figures of faces and of clips as one Markdown table."""
    figures = {"faces": still, "clips": moving}
    lines = ["| method | " + " | ".join(heading for heading, *_ in SUMMARY) + " |"]
    lines.append("| --- |" + " --- |" * len(SUMMARY))
    for method in dict.fromkeys((*still, *moving)):
        values = [
            f"{figures[kind].get(method, {}).get(name, np.nan):.{digits}f}"
            for _, kind, name, digits in SUMMARY
        ]
        lines.append(f"| {method} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def check_claims(still: Figures) -> str:
    """Say of every claim whose methods were measured whether it holds."""
    lines = []
    for better, worse, name, more in CLAIMS:
        if better in still and worse in still:
            first, second = still[better][name], still[worse][name]
            verdict = "holds" if (first > second) == more else "does not hold"
            sign = ">" if more else "<"
            lines.append(f"{name}: {better} {first:.3f} {sign} {worse} {second:.3f}: {verdict}")
    return "\n".join(lines)


def open_bench(shared: Path, *, pack: str, faces: int) -> Bench:
    """Load validation faces, spread over the sets, and the helper networks."""
    helpers, known = shared / "models", load_faces(shared / "data" / "faces256")
    rows = np.array([r for r in known.rows("val") if known.source[r] != "maicom"])
    rows = rows[:: max(1, len(rows) // max(1, faces))][:faces]
    return Bench(
        pack=pack,
        crops=np.asarray(known.images[rows]),
        perceptual=load_perceptual(next((helpers / "perceptual").glob("squeezenet*.npz"))),
        identity=IdentityNetwork(helpers / "identity" / "mobilefacenet.onnx"),
        shared=shared,
    )


def compare(
    shared: Path,
    *,
    methods: Sequence[str],
    pack: str = "mini",
    faces: int = 48,
    seconds: float = 1.0,
) -> tuple[Figures, Figures]:
    """Measure methods on faces and on clips, and print each row as it is found.

    Args:
        shared: the folder with data/faces256, data/clips and models.
        methods: by name, with options as `indomain:steps=0`.
        pack: whose they are.
        faces: of the validation faces; 0 = none.
        seconds: of every clip; 0 = none.
    """
    bench = open_bench(shared, pack=pack, faces=faces)
    still: Figures = {}
    moving: Figures = {}
    for name in methods:
        try:
            models = vidinvert.load_pack(pack, method=name)
        except vidinvert.VidinvertError as error:
            print(f"{name}: {error}", flush=True)
            continue
        if faces:
            still[name] = measure_faces(bench, models)
            print(table({name: still[name]}).splitlines()[-1], flush=True)
        if seconds > 0:
            moving[name] = measure_clips(bench, models, seconds)
            print(table({name: moving[name]}).splitlines()[-1], flush=True)
    return still, moving


def main() -> None:
    """Print all tables, and which claims hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", default="mini")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--faces", type=int, default=48, help="validation faces; 0 = none")
    parser.add_argument("--seconds", type=float, default=1.0, help="of every clip; 0 = none")
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_memory()
    kind = find_pack(options.pack).generator
    still, moving = compare(
        options.shared,
        methods=options.methods or [method for k, method in LOADERS if k == kind],
        pack=options.pack,
        faces=options.faces,
        seconds=options.seconds,
    )
    for figures in (still, moving):
        if figures:
            print("\n" + table(figures))
    print("\n" + summary(still, moving) + "\n\n" + check_claims(still))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"faces": still, "clips": moving}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
