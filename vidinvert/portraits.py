"""In-Domain inversion's tools on pictures: interpolation, style mixing, semantic diffusion.

Every method does the first two; the third asks that its generator has gradients, which all have.
Pictures are crops of the largest face, in FFHQ framing.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidinvert import images
from vidinvert.errors import NoFaceError, PlanError
from vidinvert.faces import align, crop_batch
from vidinvert.methods import Follower, Method, Refiner
from vidinvert.methods.optimisation import OptimisationPlan, optimise_codes
from vidinvert.pipeline import Models
from vidinvert.types import FaceTrack, FrameBatch

# Where In-Domain's demonstration takes the target's face from, by the side of the crop: centred at
# (125, 145) of 256, 110 x 110 (Zhu et al., ECCV 2020).
DIFFUSION_BOX = (70 / 256, 90 / 256, 110 / 256, 110 / 256)
DIFFUSION_PLAN = OptimisationPlan(code_weight=0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Diffusion:
    """What semantic diffusion made: pictures (1, 3, R, R) in [-1, 1], codes (1, L, D).

    `stitched` is the target's part pasted on the context, `inverted` the picture of its codes, and
    `image` that after optimisation; `losses` as in `OptimisedCodes`.
    """

    stitched: Tensor
    inverted: Tensor
    image: Tensor
    w_plus: Tensor
    losses: Tensor


def read_portrait(path: Path, models: Models, *, aligned: bool = False) -> Tensor:
    """Read a picture and cut out its largest face: (1, 3, R, R) in [-1, 1].

    Args:
        path: PNG or JPEG.
        models: whose detector finds the face, and whose method says how large a crop is.
        aligned: the picture is such a crop already; it is resized alone, and must be square.

    Raises:
        OpenError: the file is not a picture.
        NoFaceError: it shows no face.
        PlanError: it is said to be aligned and is not square.
    """
    picture = images.read_picture(path)
    size = models.method.crop_size
    if aligned:
        if picture.shape[0] != picture.shape[1]:
            raise PlanError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, expected a square "
                "crop. Leave --aligned out, and the face is looked for."
            )
        return images.resize(images.to_float(picture[None]), (size, size)).to(models.device)
    batch = FrameBatch(frames=picture[None], indices=np.zeros(1, np.int64))
    faces = models.detector.detect(batch)[0]
    if not faces:
        raise NoFaceError(
            f"No face found in {path}. Choose a picture that shows one from the front, lower "
            "--min-score, or say --aligned if it is a crop in FFHQ framing."
        )
    largest = max(faces, key=lambda face: float(np.prod(face.box_xyxy[2:] - face.box_xyxy[:2])))
    track = FaceTrack(
        track_id=0,
        indices=batch.indices,
        landmarks_xy=largest.landmarks_xy[None],
        boxes_xyxy=largest.box_xyxy[None],
        score=np.array([largest.score]),
    )
    return crop_batch(batch, align(track, crop_size=size))[1].to(models.device)


@torch.inference_mode()
def find_codes(crop: Tensor, method: Method) -> Tensor:
    """Invert one crop (1, 3, R, R) to codes (1, L, D), with the method's refinement, if any."""
    embedding = method.embed(crop)
    if isinstance(method, Refiner):
        embedding = method.refine(crop, embedding, None)
    return embedding.w_plus


def interpolate(first: Tensor, second: Tensor, *, count: int) -> Tensor:
    """Return codes (count, L, D) on the line from one (1, L, D) to the other, ends included.

    Raises:
        ValueError: `count` is below 2.
    """
    if count < 2:
        raise ValueError(f"count is {count}, expected 2 or more: both ends are among them")
    share = torch.linspace(0, 1, count, device=first.device)[:, None, None]
    return torch.lerp(first, second, share)


def mix(content: Tensor, style: Tensor, *, layers: range) -> Tensor:
    """Take some style vectors from one code (1, L, D) and the others from another.

    Raises:
        PlanError: `layers` reach beyond the codes.
    """
    count = content.shape[1]
    if not 0 <= layers.start < layers.stop <= count:
        raise PlanError(
            f"Layers {layers.start} to {layers.stop - 1} are to be replaced, expected some of 0 to "
            f"{count - 1}, which the pack's codes have. Choose other --layers."
        )
    mixed = content.clone()
    mixed[:, layers.start : layers.stop] = style[:, layers.start : layers.stop]
    return mixed


def diffuse(
    target: Tensor,
    context: Tensor,
    method: Method,
    *,
    box: tuple[float, float, float, float] = DIFFUSION_BOX,
    plan: OptimisationPlan = DIFFUSION_PLAN,
) -> Diffusion:
    """Blend a part of one face into another's surroundings by inverting the two stitched together.

    The codes start from those of the stitched picture; then pixels and, where the method has them,
    features are fitted within the target's part alone, so that the generator makes the rest fit.

    Args:
        target: (1, 3, R, R) in [-1, 1], whose part is kept.
        context: (1, 3, R, R), whose surroundings are.
        method: what inverts and renders.
        box: left, top, width and height of the part, as shares of the crop's side.
        plan: of the optimisation.

    Raises:
        PlanError: the box reaches out of the crop.
    """
    left, top, width, height = box
    if min(left, top) < 0 or min(width, height) <= 0 or max(left + width, top + height) > 1 + 1e-9:
        raise PlanError(
            f"The box {left:g},{top:g},{width:g},{height:g} reaches out of the crop, expected "
            "LEFT,TOP,WIDTH,HEIGHT as shares of its side, within 0 to 1."
        )
    size = method.crop_size
    x, y = round(left * size), round(top * size)
    part = (slice(y, y + round(height * size)), slice(x, x + round(width * size)))
    region = target.new_zeros(1, 1, size, size)
    region[0, 0][part] = 1.0
    stitched = torch.lerp(context, target, region)
    with torch.inference_mode():
        # Without an encoder the face is found by optimisation alone.
        lost = isinstance(method, Follower)
        start = find_codes(stitched, method) if lost else method.embed(stitched).w_plus
        inverted = method.generate(start)
    done = optimise_codes(
        stitched,
        start,
        generate=method.generate,
        find_features=getattr(method, "find_features", None),
        plan=replace(plan, code_weight=0.0),
        region=region,
    )
    with torch.inference_mode():
        image = method.generate(done.w_plus)
    return Diffusion(
        stitched=stitched,
        inverted=inverted,
        image=image,
        w_plus=done.w_plus,
        losses=done.losses,
    )


def strip(pictures: Tensor) -> NDArray[np.uint8]:
    """Put pictures (N, 3, R, R) in [-1, 1] side by side: uint8 (R, N R, 3)."""
    return np.concatenate(list(images.to_uint8(pictures)), axis=1)
