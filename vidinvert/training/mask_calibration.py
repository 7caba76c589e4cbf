"""Calibrate SAMM's masks when it is trained: how sure it must be, level by level.

Training weighs the blend against areas and known masks, and ends with masks that are smaller or
larger than they may be. Here a gain and an offset of each level's logits are searched, on training
faces, that make the blend best while the mean mask, the mask on bare faces and the planted things
stay within limits. They go into the weights, so nothing else has to know of them.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidinvert import images as pictures
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_samm import align_decoder, source_features
from vidinvert.networks.samm import SAMM, Level, combine_masks
from vidinvert.training.data import FaceSet, generator_at, sampling_weights
from vidinvert.training.samm import draw_planted, face_prior, measure_masks

FACES = 32  # training faces, every second one with something planted
SEED = 11
STEPS = (0.4, 0.2)  # of offsets and of the gains' logarithms, coarse then fine
SHARPER = 0.4  # by how much the coarsest level is sharper when the search begins
LEAST_GAIN = 0.01  # dB that a change must bring
MOST_TRIES = 60  # a blend that gets better without end has nothing to do with its masks
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the masks must keep to while the blend is made better.

    Attributes:
        mean_ood: of all pictures, at most; where it is more already, at most that.
        face_rise: by how much the mask on bare inner faces may rise.
        planted_fall: by how much the IoU with what was planted may fall.
    """

    mean_ood: float = 0.32
    face_rise: float = 0.005
    planted_fall: float = 0.006


@dataclass(frozen=True, slots=True)
class Calibration:
    """Of every level, coarse to fine: its logits become `gain * logit + offset`."""

    gains: tuple[float, ...]
    offsets: tuple[float, ...]


def shifted(samm: SAMM, calibration: Calibration) -> SAMM:
    """Return a copy of SAMM whose mask logits are stretched and shifted; flows stay.

    The logits are a sum of two normalised maps, each with a scale and a shift of its own: the gain
    goes into all four numbers, the offset into one.
    """
    made = copy.deepcopy(samm)
    with torch.no_grad():
        for level, gain, offset in zip(
            made.levels, calibration.gains, calibration.offsets, strict=True
        ):
            assert isinstance(level, Level)
            head = level.align.head
            for norm in (head.norm_out, head.shortcut_norm):
                norm.weight[2] *= gain
                norm.bias[2] *= gain
            head.norm_out.bias[2] += offset
    return made


def calibrate(
    samm: SAMM,
    faces: FaceSet,
    encoder: FaceEncoder,
    decoder: FaceDecoder,
    generator: EigenGenerator,
    *,
    limits: Limits | None = None,
    count: int = FACES,
    seed: int = 0,
    progress: Callable[[Figures], None] | None = None,
) -> tuple[SAMM, Calibration, Figures]:
    """Search the calibration, and return SAMM with it, the numbers, and figures on those faces.

    Args:
        samm: trained, on the device of the other networks.
        faces: of which training faces are looked at.
        encoder: the pack's.
        decoder: the pack's.
        generator: the pack's.
        limits: None for those of the shipped pack.
        count: faces.
        seed: of their choice.
        progress: told the figures of each try.
    """
    measure = _Measure(faces, encoder, decoder, generator, count=count, seed=seed)

    def look(calibration: Calibration) -> Figures:
        found = measure(shifted(samm, calibration))
        if progress is not None:
            progress(found)
        return found

    neutral = (1.0,) * len(samm.levels), (0.0,) * len(samm.levels)
    best, figures = search(look, Calibration(*neutral), limits=limits or Limits())
    return shifted(samm, best), best, figures


def search(
    look: Callable[[Calibration], Figures], start: Calibration, *, limits: Limits
) -> tuple[Calibration, Figures]:
    """Change a little at a time as long as the blend gets better within the limits.

    The search begins where the coarsest level, which decides what may be masked at all, is sharper:
    that bares faces, and leaves room for masks that grow elsewhere. Where it leads to no better
    blend than the masks had at first, they stay as they were.

    At most about `MOST_TRIES` are looked at.

    Args:
        look: measures a calibration: `psnr`, `mean_ood`, `mean_ood_face`, `planted_iou`.
        start: where to begin; the limits on faces and planted things are set by its figures.
        limits: what must be kept to.
    """
    given = figures = look(start)
    most = max(limits.mean_ood, figures["mean_ood"])
    bare = figures["mean_ood_face"] + limits.face_rise
    planted = figures["planted_iou"] - limits.planted_fall

    def allowed(found: Figures) -> bool:
        return (
            found["mean_ood"] <= most
            and found["mean_ood_face"] <= bare
            and found["planted_iou"] >= planted
        )

    best, tries = sharpened(start, SHARPER), 1
    figures = look(best)
    for step in STEPS:
        improved = True
        while improved and tries < MOST_TRIES:
            improved = False
            for candidate in neighbours(best, step):
                found, tries = look(candidate), tries + 1
                if allowed(found) and found["psnr"] > figures["psnr"] + LEAST_GAIN:
                    best, figures, improved = candidate, found, True
    if not allowed(figures) or figures["psnr"] <= given["psnr"]:
        return start, given
    return best, figures


def sharpened(known: Calibration, step: float) -> Calibration:
    """Return a calibration whose coarsest level is sharper by a step, and as much larger."""
    return neighbours(known, step)[1]


def neighbours(known: Calibration, step: float) -> list[Calibration]:
    """Return the calibrations one step away that may mask more or more sharply, level by level.

    Sharper and larger at once leaves the faces bare: that is tried first, of all levels together
    and of each.
    """
    count, factor = len(known.gains), float(np.exp(step))
    changes = [(factor, step, levels) for levels in (range(count), *([k] for k in range(count)))]
    changes += [(gain, 0.0, [k]) for k in range(count) for gain in (factor, 1.0 / factor)]
    changes += [(1.0, sign * step, [k]) for k in range(count) for sign in (1.0, -1.0)]
    return [
        Calibration(
            tuple(g * gain if k in levels else g for k, g in enumerate(known.gains)),
            tuple(o + offset if k in levels else o for k, o in enumerate(known.offsets)),
        )
        for gain, offset, levels in changes
    ]


class _Measure:
    """Figures of a SAMM on training faces, of which all that does not depend on it is kept."""

    @torch.inference_mode()
    def __init__(
        self,
        faces: FaceSet,
        encoder: FaceEncoder,
        decoder: FaceDecoder,
        generator: EigenGenerator,
        *,
        count: int,
        seed: int,
    ) -> None:
        device = next(decoder.parameters()).device
        rng, rows = generator_at(seed, SEED), faces.rows("train")
        chosen = rng.choice(rows, min(count, len(rows)), False, p=sampling_weights(faces, rows))
        crops, planted = draw_planted(faces, chosen, np.arange(len(chosen)) % 2 == 1, rng)
        self._decoder = decoder
        self._planted = torch.from_numpy(planted)
        self._face = face_prior(crops.shape[1])
        self._parts: list[tuple[Tensor, Tensor, tuple[Tensor, ...]]] = []
        for start in range(0, len(crops), 8):
            source = pictures.to_float(crops[start : start + 8], device=device)
            encoded = encoder(source)
            inverted = generator(generator.basis.codes(encoded.latents)).latents
            self._parts.append((source, inverted, source_features(encoded, source)))

    @torch.inference_mode()
    def __call__(self, samm: SAMM) -> dict[str, float]:
        masks, blends = [], []
        for source, inverted, features in self._parts:
            aligned = align_decoder(self._decoder, samm, inverted, features)
            image = self._decoder.stage_image(aligned.features)
            masks.append(combine_masks(aligned.fields, size=source.shape[-1]).cpu())
            blend = pictures.composite(source=source, generated=image, ood=masks[-1].to(source))
            blends.append(blend.clamp(-1, 1).cpu())
        sources = torch.cat([source.cpu() for source, _, _ in self._parts])
        return measure_masks(
            torch.cat(masks),
            torch.cat(blends),
            source=sources,
            planted=self._planted,
            face=self._face,
        )
