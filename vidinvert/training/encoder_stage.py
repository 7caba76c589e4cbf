"""The stages `e4e`, `restyle`, `indomain` and `force-indomain`: one encoder each, in its folder."""

from pathlib import Path

from vidinvert.checkpoints import load_part, select
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator, restore_bases
from vidinvert.training.autoencoder import freeze, load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.encoders import ENCODERS, EncoderRecipe
from vidinvert.training.loop import Progress, Schedule, channels_last, train
from vidinvert.training.stages import (
    Helpers,
    load_autoencoder,
    load_generator,
    write_figures,
    write_weights,
)
from vidinvert.types import FacePack


def train_encoder(
    name: str,
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    start: FacePack | None = None,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train one of `ENCODERS` into `work/NAME`; returns its figures on validation faces.

    Args:
        name: as `e4e`.
        work: the stages' folder.
        faces: what it is trained on.
        helpers: of these the perceptual network is looked at.
        schedule: how long.
        start: a pack whose autoencoder and generator stand in where `work` has no generator.
        device: where it is trained.
        progress: told after every step.

    Raises:
        MissingError: there is no pack to start from, and the stages before this one are not done.
    """
    encoder, decoder, generator = frozen_networks(work, start)
    recipe = EncoderRecipe(
        faces,
        encoder,
        decoder,
        generator,
        load_perceptual(helpers.perceptual),
        settings=ENCODERS[name],
        seed=schedule.seed,
        device=device,
    )
    train(recipe, schedule, work / name, progress=progress)
    weights = {f"encoder.{k}": v for k, v in recipe.averaged["encoder"].state_dict().items()}
    if name == "force-indomain":  # how far a code looks drawn is a figure of the method
        judge = recipe.modules["codes"].state_dict()
        weights |= {f"discriminator.{k}": v for k, v in judge.items()}
    write_weights(weights, work / name)
    return write_figures(recipe.evaluate(), work / name)


def frozen_networks(
    work: Path, start: FacePack | None
) -> tuple[FaceEncoder, FaceDecoder, EigenGenerator]:
    """Load autoencoder and generator, frozen: those trained in `work`, else those of the pack."""
    if start is None or (work / "generator" / "weights.safetensors").is_file():
        encoder, decoder = load_autoencoder(work)
        return encoder, decoder, load_generator(work)
    encoder, decoder = FaceEncoder(), FaceDecoder()
    generator = EigenGenerator(
        [int(count) for count in start.settings["components"]], style_width=start.style_width
    )
    autoencoder = load_part(start, "autoencoder")
    for module, state in (
        (encoder, select(autoencoder, "encoder.")),
        (decoder, select(autoencoder, "decoder.")),
        (generator, restore_bases(load_part(start, "generator"))),
    ):
        module.load_state_dict({key: value.float() for key, value in state.items()})
        freeze(channels_last(module))
    return encoder, decoder, generator
