"""The stages `stylegan2` and `stylegan2-encoder`, and the pack of kind stylegan2 that they make."""

from pathlib import Path

from vidinvert.training.autoencoder import load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.stages import Helpers, write_figures, write_weights
from vidinvert.training.stylegan2 import StyleGAN2Recipe, settings_for

GENERATOR, ENCODER = "stylegan2", "stylegan2-encoder"


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
    recipe = StyleGAN2Recipe(
        faces,
        load_perceptual(helpers.perceptual),
        settings=settings_for(size),
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / GENERATOR, progress=progress)
    write_weights(recipe.averaged["generator"].state_dict(), work / GENERATOR)
    return write_figures(recipe.evaluate(), work / GENERATOR)
