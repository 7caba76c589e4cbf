"""The stages `samm`, trained on the finished generator or gone on with, and `calibrate`."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from vidinvert.checkpoints import load_part
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_samm import eigen_samm
from vidinvert.networks.samm import SAMM
from vidinvert.training import ranks
from vidinvert.training.autoencoder import load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.encoder_stage import frozen_networks
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.mask_calibration import Figures, calibrate
from vidinvert.training.samm import SammRecipe, SammSettings
from vidinvert.training.stages import (
    Helpers,
    read_weights,
    write_earlier,
    write_figures,
    write_weights,
)
from vidinvert.types import FacePack

CALIBRATION = "calibration.json"  # in the stage's folder: what was found, and on what figures

# A SAMM that goes on from a pack's knows what to mask: smaller steps, and more weight on what the
# blend still loses.
CONTINUED = replace(
    SammSettings(),
    learning_rate=5e-4,
    pixel_weight=4.0,
    area_limits=(0.30, 0.30, 0.30, 0.32),
)


def train_samm(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    start: FacePack | None = None,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train SAMM into `work/samm`, or go on with that of a pack; returns its validation figures.

    When it is trained its masks are calibrated on training faces (`mask_calibration`).

    Args:
        work: the stages' folder.
        faces: what it is trained on.
        helpers: of these the perceptual network is looked at.
        schedule: how long.
        start: a pack whose SAMM is gone on with, unless a generator was trained in `work`.
        device: where it is trained.
        progress: told after every step.
    """
    encoder, decoder, generator = frozen_networks(work, start)
    known = None
    if start is not None and not (work / "generator" / "weights.safetensors").is_file():
        known = {name: value.float() for name, value in load_part(start, "samm").items()}
        write_earlier(start, "samm", work / "samm")
    recipe = SammRecipe(
        faces,
        encoder,
        decoder,
        generator,
        load_perceptual(helpers.perceptual),
        start=known,
        settings=None if known is None else CONTINUED,
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / "samm", progress=progress)
    samm = recipe.averaged["samm"]
    assert isinstance(samm, SAMM)
    calibrated = _calibrate(samm, work, faces, (encoder, decoder, generator), seed=schedule.seed)
    samm.load_state_dict(calibrated.state_dict())
    return write_figures(recipe.evaluate(), work / "samm")


def calibrate_samm(
    work: Path,
    faces: FaceSet,
    *,
    start: FacePack | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None],
) -> Figures:
    """Calibrate the masks of a pack's SAMM, or of the one trained in `work`, into `work/samm`.

    Args:
        work: the stages' folder.
        faces: of which training faces are looked at.
        start: a pack whose SAMM, generator and autoencoder are taken; None = those of `work`.
        seed: of the faces' choice.
        progress: told the tries done, and that there is at least one more.

    Returns:
        Figures on the training faces that were looked at.
    """
    networks = frozen_networks(work, start)
    samm = eigen_samm(crop_size=faces.images.shape[1])
    state = read_weights(work / "samm") if start is None else load_part(start, "samm")
    samm.load_state_dict({name: value.float() for name, value in state.items()})
    (work / "samm").mkdir(parents=True, exist_ok=True)
    tries = 0

    def told(found: Figures) -> None:
        nonlocal tries
        tries += 1
        progress(tries, tries + 1)

    _calibrate(samm, work, faces, networks, seed=seed, progress=told)
    return json.loads((work / "samm" / CALIBRATION).read_text("utf-8"))["figures"]


def _calibrate(
    samm: SAMM,
    work: Path,
    faces: FaceSet,
    networks: tuple[FaceEncoder, FaceDecoder, EigenGenerator],
    *,
    seed: int,
    progress: Callable[[Figures], None] | None = None,
) -> SAMM:
    """Return SAMM with calibrated masks, which is written with the numbers that were found."""
    encoder, decoder, generator = networks
    made, found, figures = calibrate(
        samm, faces, encoder, decoder, generator, seed=seed, progress=progress
    )
    write_weights(made.state_dict(), work / "samm")
    said = {**asdict(found), "figures": {name: round(v, 4) for name, v in figures.items()}}
    if ranks.number() == 0:
        (work / "samm" / CALIBRATION).write_text(json.dumps(said, indent=2), encoding="utf-8")
    return made
