"""Masks corrected by the user: stretched, grown and softened by options, and painted by hand.

Painted masks are applied last and exactly: what was authored is neither smoothed nor reshaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidinvert import images
from vidinvert.errors import OpenError, PlanError
from vidinvert.geometry import blur, crop_frame, dilate
from vidinvert.media import decode, probe
from vidinvert.types import Alignment, Inversion, RenderPlan, VideoInfo

PICTURES = (".png", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of painted masks: formats that are lossless as a rule."""


def shape_mask(inversion: Inversion, plan: RenderPlan) -> Inversion:
    """Stretch, then grow or shrink, then soften a track's masks as the plan says.

    `mask_min` becomes 0 and `mask_max` becomes 1, linear between; a positive `mask_dilate` grows
    what is kept by a disc of that radius, a negative one shrinks it; `mask_blur` is the standard
    deviation of a Gaussian. Both lengths are shares of the crop's side.
    """
    ood = inversion.mask.ood  # (T, 1, h, w)
    if (plan.mask_min, plan.mask_max) != (0.0, 1.0):
        levels = images.mask_to_float(torch.arange(256, dtype=torch.uint8))
        stretched = (levels - plan.mask_min) / (plan.mask_max - plan.mask_min)
        table = images.mask_to_uint8(stretched.clamp(0.0, 1.0)).numpy()
        ood = torch.from_numpy(table[ood.numpy()])  # bytes to bytes: no float copy
    if plan.mask_dilate != 0.0 or plan.mask_blur > 0.0:
        side = ood.shape[-1]
        shaped = ood.numpy().copy()
        for mask in shaped[:, 0]:
            mask[...] = _reshape(mask, plan.mask_dilate * side, plan.mask_blur * side)
        ood = torch.from_numpy(shaped)
    return replace(inversion, mask=replace(inversion.mask, ood=ood))


def _reshape(mask: NDArray[np.uint8], radius: float, sigma: float) -> NDArray[np.uint8]:
    grown = dilate(mask, radius=radius)
    if sigma <= 0.0:
        return grown
    return np.rint(blur(grown.astype(np.float32), sigma=sigma)).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaintedMasks:
    """Masks in frame geometry by frame number: pictures, or the frames of one lossless video.

    `first` is the frame of the clip that the video's first frame belongs to.
    """

    path: Path
    pictures: Mapping[int, Path] = field(default_factory=dict[int, Path])
    video: VideoInfo | None = None
    first: int = 0

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield frame number, mask (H, W), 255 = keep the source, and opacity (H, W)."""
        for number, picture in self.pictures.items():
            yield number, *images.read_mask(picture)
        if self.video is None:
            return
        for batch in decode(self.video):
            for index, frame in zip(batch.indices.tolist(), batch.frames, strict=True):
                mask = np.ascontiguousarray(frame[..., 0])
                yield self.first + index, mask, np.full_like(mask, 255)


def find_painted(path: Path, *, info: VideoInfo, frames: range) -> PaintedMasks:
    """Find painted masks and check that they fit the clip.

    Args:
        path: a folder of pictures named by frame number (`000075.png` or `75.png`), one such
            picture, or a video of masks with as many frames as the part of the clip.
        info: the clip.
        frames: the part of the clip that is worked on.

    Raises:
        PlanError: nothing is there, a name is not a frame number of the clip, two pictures have the
            same number, or a picture or video has another size or length.
        OpenError: a file cannot be read as a picture or a video.
    """
    if path.is_file() and path.suffix.lower() not in PICTURES:
        return _find_video(path, info=info, frames=frames)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise PlanError(
            f"--mask-override {path} holds no painted mask, expected a folder of PNG pictures "
            "named by frame number, one such picture, or a video of masks; check the path."
        )
    pictures: dict[int, Path] = {}
    for picture in found:
        number = _frame_number(picture, info)
        if number in pictures:
            raise PlanError(
                f"{pictures[number]} and {picture.name} are both for frame {number}, expected one; "
                "remove one of them."
            )
        _check_size(picture, images.read_mask(picture)[0].shape, info)
        pictures[number] = picture
    return PaintedMasks(path=path, pictures=pictures)


def _frame_number(picture: Path, info: VideoInfo) -> int:
    if not (picture.stem.isascii() and picture.stem.isdecimal()):
        raise PlanError(
            f"{picture} is not named by a frame number, expected a name as 000075.png; rename it."
        )
    number = int(picture.stem)
    if number >= info.frame_count:
        raise PlanError(
            f"{picture} is for frame {number}, but {info.path.name} has the frames 0 to "
            f"{info.frame_count - 1}; rename or remove it."
        )
    return number


def _check_size(path: Path, size_hw: tuple[int, ...], info: VideoInfo) -> None:
    if tuple(size_hw) != tuple(info.size_hw):
        raise PlanError(
            f"{path} is {size_hw[1]}x{size_hw[0]}, expected {info.size_hw[1]}x{info.size_hw[0]} as "
            f"the frames of {info.path.name}; paint over a mask from `vidinvert preview --masks`."
        )


def _find_video(path: Path, *, info: VideoInfo, frames: range) -> PaintedMasks:
    try:
        video = probe(path)
    except OpenError as error:
        raise OpenError(
            f"{path} is neither a picture ({', '.join(PICTURES)}) nor a video that can be read "
            f"({error}), expected painted masks."
        ) from error
    _check_size(path, video.size_hw, info)
    if video.frame_count != len(frames):
        raise PlanError(
            f"{path} has {video.frame_count} masks, expected one for each of the {len(frames)} "
            "frames worked on; choose the same --start and --end as when it was made, or give a "
            "folder of pictures named by frame number."
        )
    return PaintedMasks(path=path, video=video, first=frames.start)


def paint_masks(
    inversions: Sequence[Inversion], alignments: Sequence[Alignment], painted: PaintedMasks
) -> list[Inversion]:
    """Replace the masks of the frames that were painted; where paint is transparent they stay.

    Args:
        inversions: one per face, its masks shaped already.
        alignments: where each face's crops lie.
        painted: in frame geometry; frames without a face are left out.

    Raises:
        PlanError: no painted frame shows a face.
        OpenError: a file cannot be read any more.
    """
    masks = [inversion.mask.ood.clone() for inversion in inversions]  # (T, 1, h, w) each
    used = False
    for number, mask, opacity in painted:
        for alignment, ood in zip(alignments, masks, strict=True):
            position = int(np.searchsorted(alignment.indices, number))
            if position < len(alignment.indices) and alignment.indices[position] == number:
                matrix = alignment.crop_from_frame[position]
                ood[position] = _painted(ood[position], mask, opacity, matrix, alignment.crop_size)
                used = True
    if not used:
        raise PlanError(
            f"--mask-override {painted.path} has masks only for frames without an edited face; "
            "`vidinvert preview` shows which frames have one."
        )
    return [
        replace(inversion, mask=replace(inversion.mask, ood=ood))
        for inversion, ood in zip(inversions, masks, strict=True)
    ]


def _painted(
    ood: Tensor,
    mask: NDArray[np.uint8],
    opacity: NDArray[np.uint8],
    crop_from_frame: NDArray[np.float64],
    crop_size: int,
) -> Tensor:
    """Lay one painted mask over a stored one (1, h, w)."""
    layers = np.stack([mask, opacity, opacity], axis=-1)  # (H, W, 3)
    crop = crop_frame(layers, crop_from_frame, crop_size)  # (R, R, 3)
    planes = images.mask_to_float(torch.from_numpy(crop)).permute(2, 0, 1)[None]
    small = images.resize(planes, (ood.shape[-2], ood.shape[-1]))[0]  # (3, h, w)
    share = small[1:2]
    return images.mask_to_uint8(share * small[:1] + (1.0 - share) * images.mask_to_float(ood))
