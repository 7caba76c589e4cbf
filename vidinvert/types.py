"""The values that travel between rooms.

All are frozen; those that hold arrays compare by identity. `__post_init__` checks shapes, dtypes
and lengths, never pixels. Letters: T frames of a track or clip, N frames of a batch, L style
vectors, D width of a style vector, H and W a picture's height and width, R a crop's side.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import StabilizerPlan

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
UInt16Array = NDArray[np.uint16]

CompositeMode = Literal["warped", "residual", "generated"]
Hardware = Literal["cuda"]  # that decodes in place of the CPU
SeamMode = Literal["feather", "laplacian", "poisson"]


LARGEST_RESHAPE = 0.25  # share of the crop's side by which masks are grown or softened at most


def check_shape(name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `array` has the shape, `None` standing for any length."""
    seen = tuple(int(n) for n in array.shape)
    fits = len(seen) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, seen, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {seen}, expected ({wanted})")


def check_dtype(name: str, array: Any, dtype: Any) -> None:
    """Raise ValueError unless `array` has the dtype."""
    if array.dtype != dtype:
        raise ValueError(f"{name} has dtype {array.dtype}, expected {np.dtype(dtype)}")


def check_increasing(name: str, indices: Int64Array) -> None:
    """Raise ValueError unless `indices` is a strictly increasing int64 vector of numbers >= 0."""
    check_shape(name, indices, (None,))
    check_dtype(name, indices, np.int64)
    if len(indices) and (indices[0] < 0 or np.any(np.diff(indices) <= 0)):
        raise ValueError(f"{name} must be strictly increasing and >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorSpec:
    """How a video's YUV numbers are to be read: FFmpeg's enumeration values, 2 = unspecified.

    `range`: 1 = limited (16..235), 2 = full; 0 = unspecified.
    """

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HdrStatic:
    """What an HDR clip says of itself as a whole, in the words of x265's options.

    `mastering_display`: as `G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`, chromaticity in 1/50000 and light
    in 1/10000 cd/m²; `light_level`: as `1000,400`, the brightest pixel's and picture's cd/m².
    """

    mastering_display: str | None = None
    light_level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Salvage:
    """What was found of a damaged clip.

    `places` (T,): which of the frames that it decodes to are whole; `lost_frames`: pictures that
    the file holds or announces and that are not whole; `missing_seconds`: how early the file stops;
    `reasons`: the signs of damage, each with how often it was seen.
    """

    places: Int64Array
    lost_frames: int
    missing_seconds: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioStream:
    """One sound track: its index in the container, codec, sample rate in Hz, channels, language."""

    index: int
    codec: str
    sample_rate: int
    channels: int
    language: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoInfo:
    """What `probe` found out about a clip without keeping a picture of it.

    Attributes:
        path: absolute path.
        size_hw: height and width of a frame as displayed: after rotation, before the sample aspect.
        coded_size_hw: height and width as stored.
        time_base: seconds per tick of `pts`.
        frame_rate: average frames per second.
        pts: (T,) int64 presentation times in ticks, strictly increasing, in presentation order.
        durations: (T,) int64 ticks each frame is shown, 0 where the container does not say.
        rotation_deg: degrees counter-clockwise by which the stored picture is turned for display:
            0, 90, 180 or 270.
        color: colour tags.
        sample_aspect_ratio: width of a pixel over its height, 1 when unknown.
        codec: decoder's name, as `h264`.
        pixel_format: as stored, for instance `yuv420p`.
        bit_depth: bits per component.
        container: demuxer's name, as `mov,mp4,m4a,3gp,3g2,mj2`.
        audio: the sound tracks.
        field_order: which half of the lines is shown first, or `progressive`.
        hdr: what an HDR clip says of the screen it was made on; None = nothing.
        unwritten: what the pictures carry that cannot be written again, named for the user.
        salvage: what is left of a damaged clip, whose whole frames alone are listed; None = it is
            whole, or nobody asked for what is left.
        reader: who decodes: decord when the preflight passed, else PyAV.
        reader_reason: why, in one sentence.
    """

    path: Path
    size_hw: tuple[int, int]
    coded_size_hw: tuple[int, int]
    time_base: Fraction
    frame_rate: Fraction
    pts: Int64Array
    durations: Int64Array
    rotation_deg: int = 0
    color: ColorSpec = ColorSpec()
    sample_aspect_ratio: Fraction = Fraction(1)
    codec: str
    pixel_format: str
    bit_depth: int = 8
    container: str
    audio: tuple[AudioStream, ...] = ()
    field_order: Literal["progressive", "top first", "bottom first"] = "progressive"
    hdr: HdrStatic | None = None
    unwritten: tuple[str, ...] = ()
    salvage: Salvage | None = None
    reader: Literal["decord", "pyav"] = "pyav"
    reader_reason: str = ""

    def __post_init__(self) -> None:
        check_shape("pts", self.pts, (None,))
        check_dtype("pts", self.pts, np.int64)
        check_shape("durations", self.durations, (len(self.pts),))
        if len(self.pts) == 0:
            raise ValueError("pts is empty, expected at least one frame")
        if np.any(np.diff(self.pts) <= 0):
            raise ValueError("pts must be strictly increasing")
        if self.rotation_deg not in (0, 90, 180, 270):
            raise ValueError(f"rotation_deg is {self.rotation_deg}, expected 0, 90, 180 or 270")

    @property
    def frame_count(self) -> int:
        """Number of frames T."""
        return len(self.pts)

    @property
    def seconds(self) -> Float64Array:
        """(T,) float64 presentation times in seconds; the first frame is at 0."""
        ticks = (self.pts - self.pts[0]).astype(np.float64)
        return ticks * (self.time_base.numerator / self.time_base.denominator)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredFrame:
    """A frame as its file holds it, so that what is not edited can be written back unchanged.

    Attributes:
        pixel_format: FFmpeg's name of the layout, as `yuv420p10le`; planar, one array a plane.
        planes: (h, w) uint8, or uint16 for more than 8 bits; not turned for display, read-only.
        picture: (H, W, 3) the same frame in RGB and upright, as the networks and the paste see it:
            uint8, or uint16 with 65535 = white for more than 8 bits.
    """

    pixel_format: str
    planes: tuple[UInt8Array | UInt16Array, ...]
    picture: UInt8Array | UInt16Array

    def __post_init__(self) -> None:
        check_shape("picture", self.picture, (None, None, 3))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameBatch:
    """Consecutive frames: uint8 (N, H, W, 3) RGB upright, and their int64 (N,) 0-based indices.

    `stored`: N frames as their file holds them, before any edit; empty where nobody asked for them.
    `deep`: uint16 (N, H, W, 3), 65535 = white: the same frames where they have more than 8 bits;
    what is painted is painted there.
    """

    frames: UInt8Array
    indices: Int64Array
    stored: tuple[StoredFrame, ...] = ()
    deep: UInt16Array | None = None

    def __post_init__(self) -> None:
        check_shape("frames", self.frames, (None, None, None, 3))
        check_dtype("frames", self.frames, np.uint8)
        check_shape("indices", self.indices, (len(self.frames),))
        check_increasing("indices", self.indices)
        if len(self.stored) not in (0, len(self.frames)):
            raise ValueError(f"stored holds {len(self.stored)} frames, expected {len(self.frames)}")
        if self.deep is not None:
            check_shape("deep", self.deep, self.frames.shape)
            check_dtype("deep", self.deep, np.uint16)

    @property
    def canvas(self) -> UInt8Array | UInt16Array:
        """The frames at their own depth: what is painted on."""
        return self.frames if self.deep is None else self.deep

    def part(self, start: int, stop: int | None = None) -> "FrameBatch":
        """Return the frames at the places [start, stop) of this batch."""
        span = slice(start, stop)
        return FrameBatch(
            frames=self.frames[span],
            indices=self.indices[span],
            stored=self.stored[span],
            deep=None if self.deep is None else self.deep[span],
        )

    def painted(self, canvas: UInt8Array | UInt16Array) -> "FrameBatch":
        """Return the batch with another canvas; frames of 8 bits follow where a deep one changed.

        A pixel that was not painted keeps its 8 bits too: rounding it anew could move it by one.
        """
        if self.deep is None:
            return replace(self, frames=canvas)
        frames = self.frames
        if canvas is not self.deep:
            changed = canvas != self.deep
            frames = np.where(changed, np.rint(canvas / 257.0).astype(np.uint8), frames)
        return replace(self, frames=frames, deep=canvas)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """One face in one frame.

    `box_xyxy` (4,) and `landmarks_xy` (5, 2) float64 in frame pixels: left eye, right eye, nose
    tip, left and right mouth corner, left and right as seen in the picture. `score` in [0, 1];
    `identity` (512,) float32 of unit length, or None.
    """

    frame_index: int
    box_xyxy: Float64Array
    landmarks_xy: Float64Array
    score: float
    identity: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_shape("box_xyxy", self.box_xyxy, (4,))
        check_shape("landmarks_xy", self.landmarks_xy, (5, 2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceTrack:
    """One person over time: T detections at increasing frame indices; gaps are allowed.

    `landmarks_xy` (T, 5, 2), `boxes_xyxy` (T, 4), `score` (T,), all float64; a score of 0 marks a
    frame that was filled in. `identity`: unit vector, the mean of what was seen, or None.
    """

    track_id: int
    indices: Int64Array
    landmarks_xy: Float64Array
    boxes_xyxy: Float64Array
    score: Float64Array
    identity: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_increasing("indices", self.indices)
        count = len(self.indices)
        check_shape("landmarks_xy", self.landmarks_xy, (count, 5, 2))
        check_shape("boxes_xyxy", self.boxes_xyxy, (count, 4))
        check_shape("score", self.score, (count,))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alignment:
    """Where a track's face is cut out of the frames and pasted back.

    `crop_from_frame` (T, 2, 3) float64 similarity transforms, frame pixels to crop pixels, pixel
    centres at integers; `crop_size` R; `quads_xy` (T, 4, 2) the crop's corners in the frame (top
    left, bottom left, bottom right, top right).
    """

    crop_from_frame: Float64Array
    crop_size: int
    indices: Int64Array
    quads_xy: Float64Array

    def __post_init__(self) -> None:
        check_increasing("indices", self.indices)
        check_shape("crop_from_frame", self.crop_from_frame, (len(self.indices), 2, 3))
        check_dtype("crop_from_frame", self.crop_from_frame, np.float64)
        check_shape("quads_xy", self.quads_xy, (len(self.indices), 4, 2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """What a method took from a batch of crops: codes, and features from coarse to fine.

    `w_plus` (N, L, D) float32; `features` are the method's own and are never stored.
    """

    w_plus: Tensor
    features: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        check_shape("w_plus", self.w_plus, (None, None, None))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Synthesis:
    """What a method renders: `image` (N, 3, R, R) in [-1, 1], `ood` (N, 1, R, R) in [0, 1].

    `flows`: one (N, 2, r, r) per level from coarse to fine, (dx, dy) in units of half the width.
    """

    image: Tensor
    ood: Tensor
    flows: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        check_shape("image", self.image, (None, 3, None, None))
        count, _, height, width = self.image.shape
        check_shape("ood", self.ood, (count, 1, height, width))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latents:
    """The codes of a track: `w_plus` (T, L, D) float32 and the frame indices they belong to."""

    w_plus: Tensor
    indices: Int64Array

    def __post_init__(self) -> None:
        check_increasing("indices", self.indices)
        check_shape("w_plus", self.w_plus, (len(self.indices), None, None))
        if self.w_plus.dtype != torch.float32:
            raise ValueError(f"w_plus has dtype {self.w_plus.dtype}, expected torch.float32")

    def at(self, positions: Int64Array) -> Tensor:
        """Return the codes at some of the track's positions, (K, L, D)."""
        return self.w_plus[positions]

    @property
    def sha256(self) -> str:
        """The sha256 of the codes' bytes, as hexadecimal digits."""
        return hashlib.sha256(self.w_plus.numpy().tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovedLatents:
    """Codes moved along directions, made when they are asked for: a copy would cost as much again.

    `moves`: for each direction its strengths (T,) float32 and its vector (L, D).
    """

    latents: Latents
    moves: tuple[tuple[Tensor, Tensor], ...]

    def at(self, positions: Int64Array) -> Tensor:
        """Return the moved codes at some of the track's positions, (K, L, D)."""
        w_plus = self.latents.at(positions)
        for strength, vector in self.moves:
            w_plus = w_plus + strength[positions][:, None, None] * vector
        return w_plus


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPictures:
    """Sketches of a track's codes (`methods.sketch`), each a PNG file in memory: lossless.

    `encoded`: T files of (r, r, 3), empty where none was drawn; `codes_sha256`: of the codes
    (T, L, D) that they show.
    """

    encoded: tuple[bytes, ...]
    codes_sha256: str

    def fits(self, latents: Latents) -> bool:
        """Whether these are pictures of exactly these codes."""
        return self.codes_sha256 == latents.sha256

    def hold(self, positions: Int64Array) -> bool:
        """Whether there is a picture at each of these positions."""
        return all(len(self.encoded[int(position)]) > 0 for position in positions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteadiedMasks:
    """A track's masks smoothed over time: `ood` (T, 1, h, w) uint8, and the text of the filter."""

    ood: Tensor
    filter_text: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InvertibilityMask:
    """What the generator cannot explain: `ood` (T, 1, h, w), 1 = keep the source pixel.

    Stored as uint8, 255 = 1.0: 66 kB a frame at 256 px. `guide`: the crops' grey pictures, uint8 of
    the same shape, along whose motion the mask can be smoothed; None = not known. `measured` (T,)
    bool: False where the mask lies between two that were measured; None = all were. `steadied`:
    these masks smoothed already, as a kept analysis has them. `of_edit`: they say where an edit of
    steadied codes acts, and so move with the crop and not with what it shows.
    """

    ood: Tensor
    indices: Int64Array
    guide: Tensor | None = None
    measured: NDArray[np.bool_] | None = None
    steadied: SteadiedMasks | None = None
    of_edit: bool = False

    def __post_init__(self) -> None:
        check_increasing("indices", self.indices)
        check_shape("ood", self.ood, (len(self.indices), 1, None, None))
        if self.ood.dtype != torch.uint8:
            raise ValueError(f"ood has dtype {self.ood.dtype}, expected torch.uint8")
        if self.guide is not None:
            check_shape("guide", self.guide, tuple(self.ood.shape))
            if self.guide.dtype != torch.uint8:
                raise ValueError(f"guide has dtype {self.guide.dtype}, expected torch.uint8")
        if self.measured is not None:
            check_shape("measured", self.measured, (len(self.indices),))
            if self.measured.dtype != np.bool_:
                raise ValueError(f"measured has dtype {self.measured.dtype}, expected bool")
        if self.steadied is not None:
            check_shape("steadied", self.steadied.ood, tuple(self.ood.shape))
            dtype = self.steadied.ood.dtype
            if dtype != torch.uint8:
                raise ValueError(f"steadied has dtype {dtype}, expected torch.uint8")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inversion:
    """A track's latents and masks, and what made them."""

    latents: Latents
    mask: InvertibilityMask
    pack_sha256: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LandmarkMotion:
    """How a direction moves the landmarks that a pack reads out of its codes.

    `moves` (P, 2) float64: with 1.0 of the direction, in shares of the crop's side. `share` in
    [0, 1]: how much of the direction's vector is still needed where the landmarks are moved so: a
    whole one moves them once more, and paints where it cannot move.
    """

    moves: Float64Array
    share: float

    def __post_init__(self) -> None:
        check_shape("moves", self.moves, (None, 2))
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}, expected 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentDirection:
    """A direction in the codes: `vector` (L, D) float32, 1.0 = one standard deviation of `name`.

    `layers`: the levels it moves; `unit` and `source` say what 1.0 means and how it was found.
    `motion`: how landmarks move with it; None = the generator's pictures show all of it.
    `keeps_colour`: broad changes of colour and light that the pictures show are held back.
    """

    name: str
    vector: Tensor
    layers: tuple[int, ...]
    unit: str
    source: str
    motion: LandmarkMotion | None = None
    keeps_colour: bool = False

    def __post_init__(self) -> None:
        check_shape("vector", self.vector, (None, None))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LandmarkReadout:
    """Reads P landmarks out of codes linearly.

    `weight` (2 P, C) and `mean` (2 P,) float32, in shares of the crop's side; `columns`: how many
    of each style vector's first components are read, C in all.
    """

    weight: Tensor
    mean: Tensor
    columns: tuple[int, ...]

    def __post_init__(self) -> None:
        check_shape("weight", self.weight, (None, sum(self.columns)))
        check_shape("mean", self.mean, (self.weight.shape[0],))

    def __call__(self, w_plus: Tensor) -> Float64Array:
        """Return the landmarks of codes (N, L, D): (N, P, 2) in shares of the crop's side."""
        read = torch.cat([w_plus[:, k, :n] for k, n in enumerate(self.columns)], dim=1).float()
        points = read.cpu() @ self.weight.T + self.mean
        return points.reshape(len(w_plus), -1, 2).double().numpy()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceMotion:
    """How edits move a track's landmarks: `points`, `moves` (T, P, 2) in shares of the crop's side.

    The moves come on top of what the generator's pictures show.
    """

    points: Float64Array
    moves: Float64Array

    def __post_init__(self) -> None:
        check_shape("points", self.points, (None, None, 2))
        check_shape("moves", self.moves, tuple(self.points.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe:
    """A strength at a time in seconds from the clip's first frame."""

    seconds: float
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditTerm:
    """One direction with its strength, constant or by keyframes, for one face or (None) for all."""

    direction: LatentDirection
    keyframes: tuple[Keyframe, ...]
    face: int | None = None

    def __post_init__(self) -> None:
        if not self.keyframes:
            raise ValueError("keyframes is empty, expected at least one")
        times = [k.seconds for k in self.keyframes]
        if any(b <= a for a, b in pairwise(times)):
            raise ValueError("keyframes must be at strictly increasing times")

    def strength_at(self, seconds: Float64Array) -> Float64Array:
        """Interpolate the strength linearly at `seconds` (T,), constant before and after."""
        times = np.array([k.seconds for k in self.keyframes], dtype=np.float64)
        strengths = np.array([k.strength for k in self.keyframes], dtype=np.float64)
        return np.interp(seconds, times, strengths)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditPlan:
    """The edits to apply; `text` is what the user asked for, for the report."""

    terms: tuple[EditTerm, ...] = ()
    text: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderPlan:
    """How edited faces come back into the frames.

    Attributes:
        composite: `warped` moves the source's own pixels as the edit moves the generated face and
            adds the change that remains; `residual` adds the whole change without moving
            anything; `generated` shows the method's own picture where the mask lets it, and of a
            method that paints edits on the source what it changed there. None = `generated` for
            such a method, `warped` for others.
        seam: how the crop's border is hidden.
        feather: width of the soft border, as a share of the crop's side.
        mask_min: masks below this count as 0; raise it where an edit is held back.
        mask_max: masks above this count as 1; linear between.
        mask_dilate: grows what is kept by this share of the crop's side; below 0 it shrinks.
        mask_blur: softens the mask by a Gaussian; its standard deviation as a share of the crop's
            side.
        mask_override: painted masks, white = keep the source: a folder of pictures named by frame
            number, one such picture, or a video of masks; None = none.
        fade_seconds: how long an edit takes to set in where a face comes, and to go where it
            leaves; not at cuts and not at the clip's ends, where nothing pops.
        batch_size: crops per network pass.
    """

    composite: CompositeMode | None = None
    seam: SeamMode = "feather"
    feather: float = 0.08
    mask_min: float = 0.0
    mask_max: float = 1.0
    mask_dilate: float = 0.0
    mask_blur: float = 0.0
    mask_override: Path | None = None
    fade_seconds: float = 0.3
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.feather <= 0.5:
            raise ValueError(f"feather is {self.feather}, expected a share in (0, 0.5]")
        if not 0 <= self.mask_min < self.mask_max <= 1:
            raise ValueError(
                f"mask_min is {self.mask_min} and mask_max {self.mask_max}, "
                "expected 0 <= mask_min < mask_max <= 1"
            )
        if not -LARGEST_RESHAPE <= self.mask_dilate <= LARGEST_RESHAPE:
            raise ValueError(
                f"mask_dilate is {self.mask_dilate}, expected a share from -{LARGEST_RESHAPE} to "
                f"{LARGEST_RESHAPE}"
            )
        if not 0 <= self.mask_blur <= LARGEST_RESHAPE:
            raise ValueError(
                f"mask_blur is {self.mask_blur}, expected a share from 0 to {LARGEST_RESHAPE}"
            )
        if not self.fade_seconds >= 0:
            raise ValueError(f"fade_seconds is {self.fade_seconds}, expected a number >= 0")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """How the output is encoded; None keeps the source's own or the codec's usual value.

    Attributes:
        codec: an encoder's name, as `libx264`; None = the source's codec where it can be written.
        crf: constant rate factor, lower is better; None = 16 for x264, 18 for x265.
        preset: speed against size, as `medium`.
        pixel_format: as `yuv420p`; None = the source's.
        mark: write a metadata tag that says the clip was edited.
        allow_loss: write HDR where only 8 bits are left for it, or a part of its description.
        threads: of the encoder; None = as it likes, and the stream may differ from run to run.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pixel_format: str | None = None
    mark: bool = True
    allow_loss: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingPlan:
    """How faces are found and followed.

    Attributes:
        min_score: detections below are dropped.
        min_size: faces with a smaller side, in pixels, are dropped.
        max_gap_seconds: a face that is away for longer starts a new track.
        min_seconds: shorter tracks are dropped.
    """

    min_score: float = 0.5
    min_size: float = 24.0
    max_gap_seconds: float = 1.0
    min_seconds: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What an output is signed with, PEM files: certificates, the signer's own first, and a key."""

    certificates: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """Everything a run was asked for.

    `salvage`: of a damaged clip, edit what is whole. `credentials`: sign the output with a C2PA
    manifest; None = it is not signed. `hwaccel`: what decodes in all passes but the first, where it
    gives the same frames; None = the CPU.
    """

    edit: EditPlan = field(default_factory=EditPlan)
    tracking: TrackingPlan = TrackingPlan()
    stabilizer: StabilizerPlan = field(default_factory=StabilizerPlan)
    render: RenderPlan = RenderPlan()
    encode: EncodeSettings = EncodeSettings()
    salvage: bool = False
    credentials: Credentials | None = None
    hwaccel: Hardware | None = None


@dataclass(frozen=True, slots=True)
class Keymap:
    """From the parameter names of an official checkpoint to ours; every name is accounted for.

    Attributes:
        name: for messages.
        renames: their name to ours; every one must be in the file.
        dropped: their name, or a pattern with `*`, to the reason it is not read; may be absent.
    """

    name: str
    renames: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFile:
    """One file of a face pack.

    `path` is absolute; `format` is "vidinvert" for our parameter names, "official" for those of
    the network's authors.
    """

    path: Path
    sha256: str
    size_bytes: int
    format: Literal["vidinvert", "official"] = "vidinvert"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionMeta:
    """What a pack says of a direction: what 1.0 means, where it is from, the levels it moves.

    `keeps_colour`: see `LatentDirection`.
    """

    unit: str
    source: str
    layers: tuple[int, ...]
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    keeps_colour: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FacePack:
    """A directory of weights with its description, `pack.toml`.

    Attributes:
        name: as users ask for it.
        directory: absolute.
        version: of the pack.
        license: SPDX expression, or a word on it.
        summary: one sentence.
        generator: the kind of generator, which decides how its codes and files are read.
        crop_size: side R of the crops.
        style_count: L, style vectors of a code.
        style_width: D, width of a style vector.
        settings: what else the generator's kind needs, as in `[generator]`.
        files: by part, as `generator`.
        directions: by name; the vectors are in the part `directions`.
        provenance: how it was made.
        figures: what was measured of it.
        sha256: of `pack.toml`, which holds the checksums of all files.
    """

    name: str
    directory: Path
    version: str
    license: str
    summary: str
    generator: str
    crop_size: int
    style_count: int
    style_width: int
    settings: Mapping[str, Any]
    files: Mapping[str, PackFile]
    directions: Mapping[str, DirectionMeta]
    provenance: Mapping[str, Any]
    figures: Mapping[str, Any]
    sha256: str
