"""The stage `samm`: trained on the finished generator, or gone on with from a pack's."""

from dataclasses import replace
from pathlib import Path

from vidinvert.checkpoints import load_part
from vidinvert.training.autoencoder import load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.encoder_stage import frozen_networks
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.samm import SammRecipe, SammSettings
from vidinvert.training.stages import Helpers, write_earlier, write_figures, write_weights
from vidinvert.types import FacePack

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
    write_weights(recipe.averaged["samm"].state_dict(), work / "samm")
    return write_figures(recipe.evaluate(), work / "samm")
