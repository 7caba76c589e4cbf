"""The stages of a pack of kind stylegan2 (generator, e4e, SAMM), and the pack that they make."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from vidinvert import images
from vidinvert.checkpoints import select, write_pack
from vidinvert.networks.e4e import E4E, INPUT_SIZE
from vidinvert.networks.stylegan2 import Generator
from vidinvert.training import directions as attributes
from vidinvert.training.autoencoder import freeze, load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.stages import (
    MIN_CORRELATION,
    Helpers,
    find_landmarks,
    read_weights,
    write_directions,
    write_figures,
    write_weights,
)
from vidinvert.training.stylegan2 import (
    StyleGAN2Recipe,
    StyleGAN2Settings,
    make_generator,
    settings_for,
    shrink_faces,
)
from vidinvert.training.stylegan2_encoder import StyleGAN2EncoderRecipe, trunk_widths_for
from vidinvert.training.stylegan2_samm import Inverted, StyleGAN2SammRecipe
from vidinvert.types import FacePack

GENERATOR, ENCODER, SAMM_STAGE = "stylegan2", "stylegan2-encoder", "stylegan2-samm"
SETTINGS_FILE = "settings.json"
MEASURED_FACES = 1024  # whose codes directions are fitted on


def train_stylegan2(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    size: int,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train the generator into `work/stylegan2`; returns its figures on validation faces."""
    settings = settings_for(size)
    (work / GENERATOR).mkdir(parents=True, exist_ok=True)
    (work / GENERATOR / SETTINGS_FILE).write_text(json.dumps(asdict(settings)), encoding="utf-8")
    recipe = StyleGAN2Recipe(
        faces,
        load_perceptual(helpers.perceptual),
        settings=settings,
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / GENERATOR, progress=progress)
    write_weights(recipe.averaged["generator"].state_dict(), work / GENERATOR)
    return write_figures(recipe.evaluate(), work / GENERATOR)


def train_stylegan2_encoder(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train e4e for the generator in `work`; returns its figures on validation faces.

    Raises:
        MissingError: the stage before has not been run.
    """
    recipe = StyleGAN2EncoderRecipe(
        faces,
        load_stylegan2(work)[0],
        load_perceptual(helpers.perceptual),
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / ENCODER, progress=progress)
    state = {f"encoder.{k}": v for k, v in recipe.averaged["encoder"].state_dict().items()}
    write_weights(state | {"w_mean": recipe.w_mean}, work / ENCODER)
    return write_figures(recipe.evaluate(), work / ENCODER)


def train_stylegan2_samm(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train SAMM for the generator and e4e in `work`; returns its figures on validation faces.

    Raises:
        MissingError: one of the stages before has not been run.
    """
    generator, settings = load_stylegan2(work)
    found = read_weights(work / ENCODER)
    recipe = StyleGAN2SammRecipe(
        faces,
        Inverted(
            generator=generator,
            encoder=_load_encoder(found, settings, generator),
            w_mean=found["w_mean"].float(),
            channels=settings.channels,
            trunk_widths=trunk_widths_for(settings.style_width),
        ),
        load_perceptual(helpers.perceptual),
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / SAMM_STAGE, progress=progress)
    write_weights(recipe.averaged["samm"].state_dict(), work / SAMM_STAGE)
    return write_figures(recipe.evaluate(), work / SAMM_STAGE)


def _load_encoder(
    found: Mapping[str, Tensor], settings: StyleGAN2Settings, generator: Generator
) -> E4E:
    """Return the trained e4e, frozen."""
    encoder = E4E(
        style_count=generator.style_count, trunk_widths=trunk_widths_for(settings.style_width)
    )
    encoder.load_state_dict(select(found, "encoder."))
    return cast(E4E, freeze(encoder))


def load_stylegan2(work: Path) -> tuple[Generator, StyleGAN2Settings]:
    """Load the generator that `stylegan2` left, frozen.

    Raises:
        MissingError: that stage has not been run.
    """
    state = read_weights(work / GENERATOR)
    text = (work / GENERATOR / SETTINGS_FILE).read_text(encoding="utf-8")
    settings = StyleGAN2Settings(**json.loads(text))
    generator = make_generator(settings)
    generator.load_state_dict(state)
    return cast(Generator, freeze(generator)), settings


def write_stylegan2_pack(
    work: Path, faces: FaceSet, helpers: Helpers, *, start: FacePack
) -> FacePack:
    """Assemble `work/stylegan2-pack`, with the detector of `start` and directions of its own.

    SAMM is in it if its stage has been run.
    Directions are regressed on landmarks and colours of training faces; those that are read out
    badly on held-out faces are left out.

    Raises:
        MissingError: a stage has not been run.
    """
    generator, settings = load_stylegan2(work)
    found = read_weights(work / ENCODER)
    target = work / "stylegan2-pack"
    (target / "detector").mkdir(parents=True, exist_ok=True)
    detector = start.files["detector"].path
    for path in (detector, detector.with_name("manifest.json")):
        shutil.copyfile(path, target / "detector" / path.name)
    save_file(read_weights(work / GENERATOR), target / "generator.safetensors")
    save_file(found, target / "encoder.safetensors")
    aligned = (work / SAMM_STAGE / "weights.safetensors").is_file()
    if aligned:
        save_file(read_weights(work / SAMM_STAGE), target / "samm.safetensors")
    encoder = _load_encoder(found, settings, generator)
    rows = faces.rows("train")
    rows = rows[:: max(1, len(rows) // MEASURED_FACES)][:MEASURED_FACES]
    known = faces.images[rows]
    both = np.concatenate([known, known[:, :, ::-1]])  # as `measure_faces` has them
    codes = _codes_of(encoder, both, settings.size)
    fitted = _fit(codes, faces, rows, find_landmarks(work, faces, helpers)[rows])
    write_directions(fitted, target)
    described = json.loads((target / "directions.json").read_text(encoding="utf-8"))
    (target / "directions.json").unlink()
    names, counts = np.unique(faces.source[faces.split == "train"], return_counts=True)
    return write_pack(
        target,
        name="stylegan2",
        version="0.1.0",
        license="of the pictures that it was trained on",
        summary=f"A StyleGAN2 of {settings.size} px with e4e, made by `vidinvert train`.",
        generator={
            "kind": "stylegan2",
            "crop_size": settings.size,
            "style_count": generator.style_count,
            "style_width": settings.style_width,
            "channels": list(settings.channels.values()),
            "mapping_layers": settings.mapping_layers,
            "trunk_widths": list(trunk_widths_for(settings.style_width)),
            **({"align_corners": True} if aligned else {}),
        },
        files={
            "generator": "generator.safetensors",
            "encoder": "encoder.safetensors",
            **({"samm": "samm.safetensors"} if aligned else {}),
            "detector": f"detector/{detector.name}",
            **({"directions": "directions.safetensors"} if described else {}),
        },
        directions=described,
        provenance={
            "made_with": "vidinvert train",
            "detector": f"{start.name} {start.version}",
            "pictures": {n: int(c) for n, c in zip(names.tolist(), counts, strict=True)},
        },
        figures={
            f"{stage} {name}": value
            for stage in (GENERATOR, ENCODER, *([SAMM_STAGE] if aligned else []))
            for name, value in json.loads(
                (work / stage / "figures.json").read_text(encoding="utf-8")
            ).items()
        },
    )


@torch.inference_mode()
def _codes_of(encoder: E4E, faces: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Return what the encoder finds in pictures, without the mean: (M, L, D)."""
    parts: list[NDArray[np.float64]] = []
    for start in range(0, len(faces), 16):
        crops = images.to_float(shrink_faces(faces[start : start + 16], size))
        large = F.interpolate(
            crops, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False
        )
        parts.append(encoder(large).offsets.double().numpy())
    return np.concatenate(parts)


def _fit(
    codes: NDArray[np.float64],
    faces: FaceSet,
    rows: NDArray[np.int64],
    landmarks: NDArray[np.float64],
) -> dict[str, attributes.FittedDirection]:
    values = attributes.measure_faces(faces, rows, landmarks)
    for name, measured in attributes.COLOUR_ATTRIBUTES.items():
        values[name] = values.pop(measured)
    fitted = attributes.fit_directions(
        codes.reshape(len(codes), -1),
        values,
        [*attributes.LANDMARK_ATTRIBUTES, *attributes.COLOUR_ATTRIBUTES],
        shape=(codes.shape[1], codes.shape[2]),
        source="joint least squares of e4e's codes on measures of landmarks and colours",
        groups=np.tile(np.arange(len(rows)), 2),
    )
    return {name: item for name, item in fitted.items() if item.correlation >= MIN_CORRELATION}
