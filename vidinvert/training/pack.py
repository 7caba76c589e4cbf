"""Put the trained stages together as a face pack, with where they came from and what they reach."""

import csv
import json
import platform
import shutil
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidinvert.checkpoints import write_pack
from vidinvert.checkpoints.packs import PACK_FILE
from vidinvert.errors import MissingError
from vidinvert.networks.eigen import SCALE_NAME, quantise_bases
from vidinvert.networks.eigen_samm import COMPARED
from vidinvert.training.backgrounds import load_photographs
from vidinvert.training.data import FaceSet
from vidinvert.training.detector import CONTINUED_RATE, DetectorPlan, train_detector
from vidinvert.training.detector_export import LOOK_PREFIX, write_model
from vidinvert.training.encoders import ENCODERS
from vidinvert.training.loop import Progress
from vidinvert.training.motion_stage import RESULT
from vidinvert.training.motions import MOTIONS, SERIES_MOTIONS
from vidinvert.training.points import load_points
from vidinvert.training.samm_stage import CALIBRATION
from vidinvert.training.second_look_export import (
    add_second_look,
    carry_second_look,
    halve_weights,
)
from vidinvert.training.stages import EARLIER, STYLE_WIDTH, Helpers, write_earlier
from vidinvert.types import FacePack

NAME, VERSION = "mini", "0.1.0"
LICENSE = "CC-BY-NC-SA-4.0"
SUMMARY = "Small 256 px face pack trained by vidinvert's own recipes; non-commercial"
STAGES = ("autoencoder", "generator", "samm")
FITTED = ("sketch",)  # in closed form, to the autoencoder: a pack may lack them
OPTIONAL = ("diffcam", "deghost", *ENCODERS)  # of methods beyond SAMM: a pack may lack them
FOUND_BY = ("detector", "points")  # what finds faces, in one file
CURVE_POINTS = 60
UNMOVED = 1e-3  # of a direction's length: what was measured holds for one that is no farther off
CLASSES_FILE = "classes.json"  # in Diff-CAM's folder: the directions that it names, in their order
# Ratings are spread over the pictures by prediction, and what is predicted moves faces less than
# what was rated; and of a motion, codes common to all faces hold only a part. These directions are
# stretched until an edit of 2 is seen at once.
GAINS = {
    "smile": 2.6,
    "mouth_open": 2.5,
    "eyes_open": 1.8,
    "yaw": 2.4,
    "age": 1.6,
    "gender": 1.6,
    "weight": 1.5,
    "hair_brightness": 1.3,
}
# Old and young people are lit and toned differently in the data, and so are men and women: that is
# not shown.
KEEPS_COLOUR = ("age", "gender")
# As rendered, a smile closes the eyes by nearly half of what it moves itself (measured in standard
# deviations): so much of the motion that opens them is added to it.
# The men of the data are older than its women.
COUNTERED = {
    "smile": {"eyes_open": 0.36},
    "gender": {"age": -0.4},
}


# By how much the landmarks' motions are stretched so that an edit of 2, rendered, moves what is
# measured by about two standard deviations, and what is added against side effects. An edit that is
# no motion itself (age, which lets lids droop and lips part) may be countered by motions too.
MOTION_GAINS = {
    "smile": 1.35,
    "mouth_open": 1.1,
    "eyes_open": 1.35,
    "yaw": 1.7,
    "pitch": 1.1,
    "gender": 0.6,
    "weight": 1.5,
}
MOTIONS_COUNTERED = {
    "smile": {"eyes_open": 0.35},
    "age": {"eyes_open": 0.16, "smile": -0.09, "mouth_open": -0.05},
    "gender": {"eyes_open": 0.5},
    "weight": {"eyes_open": 0.15},
}
# What is drawn beside a motion is its direction unstretched, but for mouths that close: lips come
# where the source shows teeth, and have to be drawn (open ones are `vidinvert.mouths`'). Of gender
# all is drawn, for its motion is but a part of it, and of weight little, for that is nearly all
# motion.
DRAWN = {"mouth_open": 0.8, "gender": 1.0, "weight": 0.35}


def write_mini(work: Path, faces: FaceSet, *, start: FacePack | None = None) -> FacePack:
    """Assemble `work/pack` from the stages' results; bases are stored as int8, the rest as float16.

    Args:
        work: the stages' folder.
        faces: what they were trained on.
        start: a pack whose files, figures and history stand in for the stages that were not run
            here; what it holds beyond them is taken over too.

    Returns:
        The pack, read back.

    Raises:
        MissingError: a stage has not been run, and no pack stands in for it.
    """
    if start is not None:
        return _update(work, start)
    target = work / "pack"
    (target / "detector").mkdir(parents=True, exist_ok=True)
    trained = (*STAGES, *(stage for stage in (*FITTED, *OPTIONAL) if _trained(work, stage)))
    for stage in trained:
        _write_part(work, stage, target)
    directions = _write_directions(work, target)
    _copy_detector(work, target)
    keep_curves(work, target, (*trained, *FOUND_BY))
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
            **_settings(work),
        },
        files={
            **{stage: f"{stage}.safetensors" for stage in trained},
            "directions": "directions.safetensors",
            **write_motions(work, target),
            "detector": "detector/detector.onnx",
        },
        directions=directions,
        provenance=_provenance(work, faces),
        figures=_figures(work),
    )


def keep_curves(work: Path, target: Path, stages: Iterable[str]) -> None:
    """Keep how the stages' losses fell with the images seen, in `curves/STAGE.csv` of a pack.

    Of each metric about `CURVE_POINTS` rows stay, the last among them; see `loop.train`.
    """
    for stage in stages:
        metrics = work / stage / "metrics.csv"
        if not metrics.is_file():
            continue
        with metrics.open(newline="", encoding="utf-8") as stream:
            names, *rows = csv.reader(stream)
        column = names.index("metric")
        kept: list[list[str]] = []
        for metric in sorted({row[column] for row in rows}):
            own = [row for row in rows if row[column] == metric]
            step = max(1, len(own) // CURVE_POINTS)
            kept += own[::-1][::step][::-1]
        (target / "curves").mkdir(exist_ok=True)
        with (target / "curves" / f"{stage}.csv").open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, lineterminator="\n").writerows([names, *kept])


def _trained(work: Path, stage: str) -> bool:
    """Say whether a stage left weights of its own: was trained, fitted, or its masks calibrated."""
    signs = ("weights.safetensors",) if stage in FITTED else ("checkpoint.pt", CALIBRATION)
    return any((work / stage / name).is_file() for name in signs)


def _write_part(work: Path, stage: str, target: Path) -> None:
    state = load_file(_existing(work / stage / "weights.safetensors"))
    save_file(_stored(state), target / f"{stage}.safetensors")


def _settings(work: Path) -> dict[str, Any]:
    """Return what the generator's settings must say of the optional parts trained in `work`."""
    return {"diffcam_classes": classes_of(work)} if _trained(work, "diffcam") else {}


def classes_of(work: Path) -> list[str]:
    """Return the directions that the Diff-CAM of a work folder names, in their order."""
    return json.loads(_existing(work / "diffcam" / CLASSES_FILE).read_text("utf-8"))


def _copy_detector(work: Path, target: Path) -> None:
    """Put the detector into the pack `target`, with its second look: the newest of each.

    The detector is the one trained in `work`, else the one that `target` has already; the second
    look likewise.
    """
    known, trained = target / "detector", work / "detector" / "detector"
    if (trained / "manifest.json").is_file() or not (known / "manifest.json").is_file():
        earlier, directory = known / "detector.onnx", trained
    else:
        earlier, directory = None, known
    data = _existing(directory / "detector.onnx").read_bytes()
    weights = work / "points" / "weights.safetensors"
    before = b"" if earlier is None or not earlier.is_file() else earlier.read_bytes()
    if weights.is_file():
        model = add_second_look(onnx.load_from_string(data), load_points(load_file(weights)))
    elif LOOK_PREFIX.encode() in before:
        model = carry_second_look(onnx.load_from_string(data), onnx.load_from_string(before))
    else:
        for name in ("detector.onnx", "manifest.json"):
            if directory != known:
                shutil.copyfile(_existing(directory / name), known / name)
        return
    write_model(halve_weights(model), known)


def _update(work: Path, start: FacePack) -> FacePack:
    """Write `work/pack`: the pack `start` with the stages that were run again in `work`."""
    target = work / "pack"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(start.directory, target, ignore=shutil.ignore_patterns("__pycache__"))
    described = tomllib.loads((target / PACK_FILE).read_text("utf-8"))
    directions, provenance = described.get("directions", {}), described.get("provenance", {})
    again = [stage for stage in (*STAGES, *FITTED, *OPTIONAL) if _trained(work, stage)]
    files = {part: entry["path"] for part, entry in described["files"].items()}
    if "autoencoder" in again:  # what was fitted to the earlier one holds no more
        for part in (part for part in FITTED if part in files):
            (target / files.pop(part)).unlink()
    for stage in again:
        _write_part(work, stage, target)
        files[stage] = f"{stage}.safetensors"
    if (work / "directions" / "directions.safetensors").is_file():
        directions = _write_directions(work, target)
    files |= write_motions(work, target)
    for name in unmoved(start.directory, target):
        earlier = described.get("directions", {}).get(name, {}).get("figures", {})
        if name in directions:
            directions[name]["figures"] = earlier | directions[name].get("figures", {})
    if (work / "detector" / "detector" / "manifest.json").is_file():
        again.append("detector")
    if _trained(work, "points"):
        again.append("points")
    if {"detector", "points"} & {*again}:
        _copy_detector(work, target)
    keep_curves(work, target, again)
    for stage in again:
        if stage == "samm" and not (work / stage / "checkpoint.pt").is_file():  # only calibrated
            continue
        provenance = {k: v for k, v in provenance.items() if not k.startswith(f"{stage}_")}
        provenance |= _stage_history(work, stage)
    provenance["date"] = datetime.now(UTC).date().isoformat()
    return write_pack(
        target,
        **{key: described[key] for key in ("name", "version", "license", "summary")},
        generator=described["generator"] | _settings(work),
        files=files,
        formats={
            p: entry["format"] for p, entry in described["files"].items() if "format" in entry
        },
        directions=directions,
        provenance=provenance,
        figures=described.get("figures", {}) | _figures(work),
    )


def unmoved(earlier: Path, target: Path) -> list[str]:
    """Return the directions that are in both packs' folders, with the same vectors and motions.

    Same is what is off by less than `UNMOVED` of its length.
    """
    states: list[dict[str, Tensor]] = []
    for directory in (earlier, target):
        state: dict[str, Tensor] = {}
        for part in ("directions", "motions"):
            path = directory / f"{part}.safetensors"
            found = load_file(path) if path.is_file() else {}
            state |= {f"{part}.{name}": value for name, value in found.items()}
        states.append(state)

    def equal(name: str) -> bool:
        first, second = (state.get(name) for state in states)
        if first is None or second is None:
            return first is second
        if first.shape != second.shape:
            return False
        away = (first.float() - second.float()).norm()
        return bool(away <= UNMOVED * first.float().norm())

    names = [key.removeprefix("directions.") for key in states[0] if key.startswith("directions.")]
    parts = ("directions.{}", "motions.moves.{}", "motions.share.{}")
    return [name for name in names if all(equal(part.format(name)) for part in parts)]


def note_figures(
    directory: Path,
    figures: Mapping[str, float],
    directions: Mapping[str, Mapping[str, float | Mapping[str, float]]],
) -> FacePack:
    """Write what was measured of a whole pack, and of its directions, into its description.

    Args:
        directory: of the pack.
        figures: of the pack; those of its stages stay beside them.
        directions: by name; a direction keeps the figures that these do not replace.

    Returns:
        The pack, read back.
    """
    described = tomllib.loads((directory / PACK_FILE).read_text("utf-8"))
    known = described.get("directions", {})
    for name, measured in directions.items():
        known[name]["figures"] = known[name].get("figures", {}) | _rounded(measured)
    return write_pack(
        directory,
        **{key: described[key] for key in ("name", "version", "license", "summary")},
        generator=described["generator"],
        files={part: entry["path"] for part, entry in described["files"].items()},
        formats={
            part: entry["format"] for part, entry in described["files"].items() if "format" in entry
        },
        directions=known,
        provenance=described.get("provenance", {}),
        figures=described.get("figures", {}) | _rounded(figures),
    )


def _rounded(figures: Mapping[str, float | Mapping[str, float]]) -> dict[str, Any]:
    return {
        name: _rounded(value) if isinstance(value, Mapping) else round(float(value), 3)
        for name, value in figures.items()
    }


def _write_directions(work: Path, target: Path) -> dict[str, Any]:
    """Write the directions, stretched (`GAINS`) and mixed (`COUNTERED`); return what is said."""
    vectors = shipped_directions(work)
    described = json.loads((work / "directions" / "directions.json").read_text("utf-8"))
    for name, gain in GAINS.items():
        if name in vectors:
            kind = "landmark motion" if name in MOTIONS else "predicted ratings"
            described[name]["unit"] = (
                f"1.0 = {gain:g} standard deviations, over the training faces, of {kind}"
            )
    for name in KEEPS_COLOUR:
        if name in described:
            described[name]["keeps_colour"] = True
    save_file(vectors, target / "directions.safetensors")
    return described


def write_motions(work: Path, target: Path) -> dict[str, str]:
    """Write the landmarks' motions, stretched, and their read-out; return the part, if it is."""
    if not (work / RESULT).is_file():
        return {}
    state, known = load_file(work / RESULT), load_file(target / "directions.safetensors")
    shipped = {name: value for name, value in state.items() if name.startswith("readout.")}
    shipped["readout.weight"] = shipped["readout.weight"].half()
    moving = dict.fromkeys((*MOTIONS, *SERIES_MOTIONS, *MOTIONS_COUNTERED))
    for name in (name for name in moving if name in known):
        own = state.get(f"moves.{name}")
        moves = torch.zeros_like(state[f"moves.{MOTIONS[0]}"]) if own is None else own.clone()
        for other, share in MOTIONS_COUNTERED.get(name, {}).items():
            moves += share * state[f"moves.{other}"]
        shipped[f"moves.{name}"] = MOTION_GAINS.get(name, 1.0) * moves
        drawn = 1.0 if own is None else DRAWN.get(name, 1.0 / GAINS.get(name, 1.0))
        shipped[f"share.{name}"] = torch.tensor([drawn])
    save_file(shipped, target / "motions.safetensors")
    return {"motions": "motions.safetensors"}


def shipped_directions(work: Path) -> dict[str, Tensor]:
    """Return the directions fitted in a work folder as packs hold them: mixed and stretched."""
    fitted = load_file(_existing(work / "directions" / "directions.safetensors"))
    return {name: GAINS.get(name, 1.0) * countered(name, fitted) for name in fitted}


def countered(name: str, fitted: Mapping[str, Tensor]) -> Tensor:
    """Return a direction (L, D) with what counters its side effects, before it is stretched."""
    vector = fitted[name]
    for other, share in COUNTERED.get(name, {}).items():
        if other in fitted:
            vector = vector + share * fitted[other]
    return vector


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
    for stage in (*STAGES, *OPTIONAL, *FOUND_BY):
        entry |= _stage_history(work, stage)
    return entry


def _stage_history(work: Path, stage: str) -> dict[str, Any]:
    """Return how long a stage was trained in `work`, and what it went on from."""
    entry: dict[str, Any] = {}
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
    for stage in (*STAGES, *FITTED, *OPTIONAL, *FOUND_BY):
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
    start: FacePack | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Train the detector into `work/detector`, or go on with that of a pack."""
    plan = DetectorPlan()
    if start is not None:
        plan = replace(plan, learning_rate=CONTINUED_RATE)
        write_earlier(start, "detector", work / "detector")
    plan = replace(plan, schedule=replace(plan.schedule, max_seconds=60.0 * minutes, seed=seed))
    written = train_detector(
        data,
        work / "detector",
        labeller=helpers.labeller,
        landmarker=helpers.landmarks,
        photographs=_photographs(),
        start=None if start is None else start.directory / start.files["detector"].path,
        plan=plan,
        progress=progress,
    )
    return {"written": str(written)}
