"""Pictures between rooms: ranges, layouts, resizing, compositing.

Inside networks a picture is float in [-1, 1], NCHW; everywhere else uint8 in [0, 255], NHWC. Colour
is RGB. The only rounding rule is `round(clamp(...))`, and it undoes `to_float` exactly.
"""

from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vidinvert.errors import OpenError

Pixel = TypeVar("Pixel", np.uint8, np.float32)


def to_float(frames: NDArray[np.uint8], *, device: torch.device | str = "cpu") -> Tensor:
    """Turn uint8 (N, H, W, 3) in [0, 255] into float32 (N, 3, H, W) in [-1, 1], channels last.

    Raises:
        ValueError: `frames` is not uint8 with four axes and three channels.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}, expected uint8 (N, H, W, 3); "
            "convert or stack them first"
        )
    pixels = torch.as_tensor(np.ascontiguousarray(frames)).to(device)  # (N, H, W, 3)
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Turn float (N, 3, H, W) in [-1, 1] into uint8 (N, H, W, 3); values outside are clamped."""
    pixels = images.detach().to(torch.float32).add(1.0).mul(127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def mask_to_uint8(mask: Tensor) -> Tensor:
    """Turn a mask in [0, 1] into uint8 in [0, 255], 255 = 1.0."""
    return mask.detach().to(torch.float32).mul(255.0).round().clamp(0, 255).to(torch.uint8)


def mask_to_float(mask: Tensor) -> Tensor:
    """Turn a uint8 mask in [0, 255] into float32 in [0, 1]."""
    return mask.to(torch.float32).div(255.0)


def grey_to_uint8(images: Tensor) -> Tensor:
    """Turn float (N, 3, H, W) RGB in [-1, 1] into its luma (BT.601), uint8 (N, 1, H, W)."""
    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    luma = (images.detach() * weights).sum(dim=1, keepdim=True)  # (N, 1, H, W)
    return luma.to(torch.float32).add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor; to a CUDA device by pinned memory, so that the copy waits for nobody."""
    place = torch.device(device)
    if place.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(place)
    return tensor.pin_memory().to(place, non_blocking=True)


def resize(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) bilinearly; antialiased when it shrinks. Same size returns the input."""
    if tuple(images.shape[-2:]) == tuple(size_hw):
        return images
    shrinks = size_hw[0] < images.shape[-2] or size_hw[1] < images.shape[-1]
    return F.interpolate(
        images, size=size_hw, mode="bilinear", align_corners=False, antialias=shrinks
    )


def resize_picture(picture: NDArray[Pixel], size: int) -> NDArray[Pixel]:
    """Resize (H, W) or (H, W, C), uint8 or float32, to (size, size): by area when it shrinks."""
    if picture.shape[:2] == (size, size):
        return picture
    method = cv2.INTER_AREA if size < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (size, size), interpolation=method), picture.dtype)


def same_picture(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    """Say whether two pictures (H, W, C) or (C, H, W) are equal; a few pixels tell most apart."""
    few = (slice(None), slice(None, None, 16))
    return np.array_equal(first[few], second[few]) and np.array_equal(first, second)


def changed_pixels(
    before: NDArray[np.unsignedinteger], after: NDArray[np.unsignedinteger]
) -> NDArray[np.bool_]:
    """Return (H, W): True where two pictures (H, W, 3) differ.

    A reduction over a short last axis takes numpy ten times as long.
    """
    same = cv2.inRange(cv2.absdiff(before, after), (0, 0, 0), (0, 0, 0))
    return same == 0


def composite(*, source: Tensor, generated: Tensor, ood: Tensor) -> Tensor:
    """Blend where the generator can explain the picture: ood * source + (1 - ood) * generated.

    Args:
        source: (N, 3, R, R) in [-1, 1], the crop.
        generated: (N, 3, R, R) in [-1, 1].
        ood: (N, 1, R, R) in [0, 1], 1 = keep the source pixel (SAMM, section 3.3).
    """
    return ood * source + (1.0 - ood) * generated


def read_mask(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read a painted mask: its grey (H, W), 255 = white, and how opaque it is (H, W).

    Colours become their luma (BT.601); 16 bits become 8; without transparency all is opaque.

    Raises:
        OpenError: the file is not a picture of 8 or 16 bits a channel.
    """
    pixels = _decode(path, cv2.IMREAD_UNCHANGED)
    if pixels is None or str(pixels.dtype) not in ("uint8", "uint16"):
        raise OpenError(
            f"{path} cannot be read as a picture, expected a mask of 8 or 16 bits a channel; "
            "save it as PNG"
        )
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257.0).astype(np.uint8)
    if pixels.ndim == 2:
        return np.asarray(pixels, np.uint8), np.full(pixels.shape, 255, np.uint8)
    grey = np.asarray(cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2GRAY), np.uint8)
    opacity = pixels[..., 3] if pixels.shape[2] == 4 else np.full(grey.shape, 255, np.uint8)
    return grey, np.ascontiguousarray(opacity, np.uint8)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture file as uint8 (H, W, 3) RGB, turned as its camera says; transparency is lost.

    Raises:
        OpenError: the file is not a picture that can be read.
    """
    pixels = _decode(path, cv2.IMREAD_COLOR)
    if pixels is None:
        raise OpenError(f"{path} cannot be read as a picture, expected a PNG or JPEG file")
    return np.ascontiguousarray(pixels[..., ::-1], np.uint8)


def _decode(path: Path, flags: int) -> NDArray[Any] | None:
    """Read a picture file; None where it is none.

    OpenCV refuses pictures of more pixels than its environment allows, 2 ** 30 unless the command
    line has lowered that: a file of a megabyte can hold as many.

    Raises:
        OpenError: it is larger than that.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8) if path.is_file() else np.zeros(0, np.uint8)
    try:
        return cv2.imdecode(data, flags) if len(data) else None
    except cv2.error as error:
        if "MAX_IMAGE" not in str(error):  # also of the width and the height alone
            return None
        raise OpenError(
            f"{path} claims more pixels than are read, expected a picture as cameras take them; "
            "scale it down first"
        ) from error


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W) grey or (H, W, 3) RGB losslessly.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(encode_png(picture))


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Return uint8 (H, W) grey or (H, W, 3) RGB as a PNG file, lossless."""
    pixels = picture if picture.ndim == 2 else np.ascontiguousarray(picture[..., ::-1])
    return cv2.imencode(".png", pixels)[1].tobytes()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """Read uint8 (H, W, 3) RGB back from `encode_png`.

    Raises:
        ValueError: the bytes are not a picture in three colours.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"{len(data)} bytes are not a PNG picture of 8 bits in three colours")
    return np.ascontiguousarray(pixels[..., ::-1], np.uint8)


def write_jpeg(path: Path, picture: NDArray[np.uint8], *, height: int) -> None:
    """Write uint8 (H, W, 3) RGB as a small JPEG, `height` pixels high at most.

    Raises:
        OSError: the file cannot be written.
    """
    scale = min(1.0, height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    path.write_bytes(data.tobytes())


def encode_webp(picture: NDArray[np.uint8], *, quality: int) -> bytes:
    """Return uint8 (H, W, 3) RGB as a lossy WebP file; `quality` from 1 to 100."""
    pixels = np.ascontiguousarray(picture[..., ::-1])
    return cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def shrink(picture: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 (H, W, 3) to (h, w, 3) by area, for pictures to look at."""
    if picture.shape[:2] == tuple(size_hw):
        return picture
    resized = cv2.resize(picture, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def draw_text(text: str, *, height: int, width: int) -> NDArray[np.uint8]:
    """Write one line of plain ASCII, light on dark, into a strip (height, width, 3)."""
    strip = np.full((height, width, 3), 24, np.uint8)
    at = (4, round(0.72 * height))
    cv2.putText(
        strip, text, at, cv2.FONT_HERSHEY_SIMPLEX, height / 44, (235, 235, 235), 1, cv2.LINE_AA
    )
    return strip
