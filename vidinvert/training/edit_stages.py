"""The stages of Diff-CAM editing: its classifier, then the deghosting network, on a frozen pack.

| stage | reads | writes |
| --- | --- | --- |
| diffcam | autoencoder/, codes/, generator/, directions | diffcam/ (with classes.json) |
| deghost | the same, diffcam/, SqueezeNet | deghost/ |

What the work folder lacks of the first three is taken from the pack that `--from` names; so are the
directions, since edits move codes along a pack's directions as they are shipped.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from vidinvert.checkpoints import load_directions, load_part
from vidinvert.errors import MissingError
from vidinvert.networks.diffcam import DiffCam, latent_diffcam
from vidinvert.networks.eigen_deghost import Bank
from vidinvert.training.autoencoder import freeze, load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.deghost import DeghostRecipe
from vidinvert.training.diffcam import DiffCamRecipe
from vidinvert.training.encoder_stage import frozen_networks
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.pack import CLASSES_FILE, classes_of, shipped_directions
from vidinvert.training.stages import (
    Helpers,
    read_weights,
    write_figures,
    write_weights,
)
from vidinvert.types import FacePack


def train_diffcam(
    work: Path,
    faces: FaceSet,
    schedule: Schedule,
    *,
    start: FacePack | None = None,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train Diff-CAM's classifier; returns its figures on validation faces.

    It goes on from that of `start`, whose classes may be others.
    """
    vectors = _vectors(work, start)
    known = None
    if start is not None and "diffcam" in start.files:
        known = _load_classifier(load_part(start, "diffcam"), start.settings["diffcam_classes"])
    recipe = DiffCamRecipe(
        faces,
        _load_bank(work, start),
        vectors,
        start=known,
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / "diffcam", progress=progress)
    write_weights(recipe.averaged["diffcam"].state_dict(), work / "diffcam")
    (work / "diffcam" / CLASSES_FILE).write_text(json.dumps(list(vectors)), encoding="utf-8")
    return write_figures(recipe.evaluate(), work / "diffcam")


def train_deghost(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    start: FacePack | None = None,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train the deghosting network; returns its figures on validation faces."""
    vectors = _vectors(work, start)
    diffcam, classes = load_diffcam(work, start)
    recipe = DeghostRecipe(
        faces,
        _load_bank(work, start),
        diffcam,
        {name: vectors[name] for name in classes},
        load_perceptual(helpers.perceptual),
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / "deghost", progress=progress)
    write_weights(recipe.averaged["deghost"].state_dict(), work / "deghost")
    return write_figures(recipe.evaluate(), work / "deghost")


def load_diffcam(work: Path, start: FacePack | None) -> tuple[DiffCam, list[str]]:
    """Load the trained Diff-CAM of a work folder, or else a pack's, frozen, and its classes."""
    trained = (work / "diffcam" / "weights.safetensors").is_file()
    if not trained and start is not None and "diffcam" in start.files:
        network, classes = _load_classifier(
            load_part(start, "diffcam"), start.settings["diffcam_classes"]
        )
    else:
        network, classes = _load_classifier(read_weights(work / "diffcam"), classes_of(work))
    return freeze(network), classes


def _load_classifier(
    state: Mapping[str, Tensor], classes: Sequence[str]
) -> tuple[DiffCam, list[str]]:
    network = latent_diffcam(len(classes))
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network, list(classes)


def _load_bank(work: Path, start: FacePack | None) -> Bank:
    encoder, decoder, generator = frozen_networks(work, start)
    return Bank(encoder, generator, decoder)


def _vectors(work: Path, start: FacePack | None) -> Mapping[str, Tensor]:
    """Return the directions as they are shipped: those fitted here, or else the pack's."""
    if (work / "directions" / "directions.safetensors").is_file():
        found = shipped_directions(work)
    elif start is not None:
        found = {name: item.vector for name, item in load_directions(start).items()}
    else:
        found = {}
    if not found:
        raise MissingError(
            f"{work / 'directions'} holds no directions, expected some for Diff-CAM to name; run "
            "`vidinvert train directions` first, or take a pack's with --from"
        )
    return found
