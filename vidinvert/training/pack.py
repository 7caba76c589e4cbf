"""Put the trained stages together as a face pack, with where they came from and what they reach."""

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidinvert.checkpoints import write_pack
from vidinvert.errors import MissingError
from vidinvert.networks.eigen import SCALE_NAME, quantise_bases
from vidinvert.networks.eigen_samm import COMPARED
from vidinvert.training.backgrounds import load_photographs
from vidinvert.training.data import FaceSet
from vidinvert.training.detector import DetectorPlan, train_detector
from vidinvert.training.loop import Progress
from vidinvert.training.stages import EARLIER, STYLE_WIDTH, Helpers
from vidinvert.types import FacePack

NAME, VERSION = "mini", "0.1.0"
LICENSE = "CC-BY-NC-SA-4.0"
SUMMARY = "Small 256 px face pack trained by vidinvert's own recipes; non-commercial"
STAGES = ("autoencoder", "generator", "samm")
# Ratings are spread over the pictures by prediction, and what is predicted moves faces less than
# what was rated: these directions are stretched until an edit of 2 is seen at once.
GAINS = {"age": 1.6, "gender": 1.3, "hair_brightness": 1.3}


def write_mini(work: Path, faces: FaceSet) -> FacePack:
    """Assemble `work/pack` from the stages' results; bases are stored as int8, the rest as float16.

    Returns:
        The pack, read back.

    Raises:
        MissingError: a stage has not been run.
    """
    target = work / "pack"
    (target / "detector").mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        state = load_file(_existing(work / stage / "weights.safetensors"))
        save_file(_stored(state), target / f"{stage}.safetensors")
    directions = _write_directions(work, target)
    for name in ("detector.onnx", "manifest.json"):
        shutil.copyfile(
            _existing(work / "detector" / "detector" / name), target / "detector" / name
        )
    basis = load_file(work / "codes" / "basis.safetensors")
    return write_pack(
        target,
        name=NAME,
        version=VERSION,
        license=LICENSE,
        summary=SUMMARY,
        generator={
            "kind": "eigen",
            "crop_size": faces.images.shape[1],
            "style_count": 4,
            "style_width": STYLE_WIDTH,
            "samm_compared": list(COMPARED),
            "components": [len(basis[f"sigma_{level}"]) for level in range(4)],
        },
        files={
            **{stage: f"{stage}.safetensors" for stage in STAGES},
            "directions": "directions.safetensors",
            "detector": "detector/detector.onnx",
        },
        directions=directions,
        provenance=_provenance(work, faces),
        figures=_figures(work),
    )


def _write_directions(work: Path, target: Path) -> dict[str, Any]:
    """Write the directions, some of them stretched (`GAINS`); return what is said of each."""
    vectors = load_file(_existing(work / "directions" / "directions.safetensors"))
    described = json.loads((work / "directions" / "directions.json").read_text("utf-8"))
    for name, gain in GAINS.items():
        if name in vectors:
            vectors[name] = gain * vectors[name]
            described[name]["unit"] = (
                f"1.0 = {gain:g} standard deviations, over the training faces, of predicted ratings"
            )
    save_file(vectors, target / "directions.safetensors")
    return described


def _stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bases as int8 rows with their scales, everything else as float16."""
    stored = {}
    for name, value in quantise_bases(state).items():
        keeps = value.dtype == torch.int8 or SCALE_NAME.fullmatch(name) is not None
        stored[name] = (value if keeps else value.detach().half()).contiguous()
    return stored


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingError(
            f"{path} is not there, expected every stage to be done; "
            f"run `vidinvert train {path.parent.name}` first"
        )
    return path


def _provenance(work: Path, faces: FaceSet) -> dict[str, Any]:
    train = faces.split == "train"
    names, counts = np.unique(faces.source[train], return_counts=True)
    entry: dict[str, Any] = {
        "made_with": "vidinvert train",
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "pictures": {name: int(n) for name, n in zip(names.tolist(), counts, strict=True)},
    }
    for stage in (*STAGES, "detector"):
        checkpoint = work / stage / "checkpoint.pt"
        if checkpoint.is_file():
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            entry[f"{stage}_images_seen"] = int(state["images"])
            entry[f"{stage}_seconds"] = round(float(state["seconds"]))
        earlier = work / stage / EARLIER
        if earlier.is_file():
            for name, value in json.loads(earlier.read_text("utf-8")).items():
                entry[f"{stage}_earlier_{name}"] = value
    return entry


def _figures(work: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for stage in (*STAGES, "detector"):
        path = work / stage / "figures.json"
        if path.is_file():
            for name, value in json.loads(path.read_text("utf-8")).items():
                figures[f"{stage}_{name}"] = value
    return figures


def _photographs() -> list[NDArray[np.uint8]]:
    """Return the photographs without faces that scikit-image carries; none where it is absent."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        return []
    return load_photographs(Path(found.origin).parent / "data")


def train_detector_stage(
    work: Path,
    data: Path,
    helpers: Helpers,
    *,
    minutes: float,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train the detector into `work/detector`."""
    plan = DetectorPlan()
    plan = replace(plan, schedule=replace(plan.schedule, max_seconds=60.0 * minutes, seed=seed))
    written = train_detector(
        data,
        work / "detector",
        labeller=helpers.labeller,
        landmarker=helpers.landmarks,
        photographs=_photographs(),
        plan=plan,
        progress=progress,
    )
    return {"written": str(written)}
