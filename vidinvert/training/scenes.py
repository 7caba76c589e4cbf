"""Draw the scenes on which the face detector learns: labelled faces set into backgrounds.

Faces are 5 to 110 % of the frame, turned by up to 45 degrees, none to three a scene, some partly
covered; then the whole scene is relit, blurred, made noisy, grey or JPEG as cameras and codecs do.
Only the given random numbers decide, so a scene can be drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from vidinvert.training.backgrounds import draw_background, erase_face, skin_colour
from vidinvert.training.face_labels import MIRRORED_POINTS, FaceLabels
from vidinvert.training.face_shapes import vary_shape

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
Draw = np.random.Generator

BORDER = 32  # pixels of a crop's mirrored surroundings that may show
SMALLEST_FACE = 9.0  # px; smaller ones are not taught
VARIED = 0.7  # of the faces get another shape
FACE_COUNTS = (0.12, 0.60, 0.20, 0.08)  # chances of 0, 1, 2 and 3 faces


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A picture (S, S, 3) uint8 RGB and its faces: boxes (K, 4) and points (K, 5, 2) in pixels."""

    image: UInt8Array
    boxes_xyxy: Float32Array
    points_xy: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneSource:
    """What scenes are made of: labelled aligned crops (at least one face each), photographs."""

    crops: Sequence[UInt8Array] | UInt8Array
    labels: Sequence[FaceLabels]
    photographs: Sequence[UInt8Array] = ()
    weights: Float64Array | None = None

    def __post_init__(self) -> None:
        if len(self.crops) != len(self.labels) or len(self.crops) == 0:
            raise ValueError(
                f"got {len(self.crops)} crops and {len(self.labels)} labels, expected as many "
                "labels as crops and at least one"
            )
        if any(len(label.boxes_xyxy) == 0 for label in self.labels):
            raise ValueError("a crop has no labelled face; leave such crops out")


def draw_scene(rng: Draw, size: int, source: SceneSource) -> Scene:
    """Draw one scene of `size` x `size` pixels with none to three labelled faces."""
    canvas = draw_background(
        rng,
        size,
        photographs=source.photographs,
        portraits=[source.crops[int(rng.integers(len(source.crops)))]],
    ).astype(np.float32)
    boxes: list[Float64Array] = []
    points: list[Float64Array] = []
    count = int(rng.choice(4, p=FACE_COUNTS))
    if count == 0 and rng.random() < 0.6:
        canvas = _paste_decoy(rng, canvas, source)
    for number in range(count):
        index = int(rng.choice(len(source.crops), p=source.weights))
        crop, labels = np.asarray(source.crops[index]), source.labels[index]
        if rng.random() < VARIED:
            crop, labels = vary_shape(rng, crop, labels)
        for _ in range(6):
            placement = _place(rng, size, labels, main=number == 0)
            found = _transform(labels, placement)
            if _is_free(found[0], boxes, size):
                break
        else:
            continue
        style: Literal["head", "crop"] = "crop" if rng.random() < 0.6 else "head"
        canvas = _paste(rng, canvas, crop, placement, style=style)
        keep = slice(0, 1) if style == "head" else slice(None)
        boxes.extend(found[0][keep])
        points.extend(found[1][keep])
        if rng.random() < 0.25:
            canvas = cover_face(rng, canvas, found[0][0])
    image = photograph(rng, np.clip(canvas, 0, 255))
    return _letterbox(rng, _labelled(image, boxes, points))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Placement:
    """Where a crop goes: (2, 3) affine, scene from crop, mirrored first if so."""

    scene_from_crop: Float64Array
    mirrored: bool


def _place(rng: Draw, size: int, labels: FaceLabels, *, main: bool) -> _Placement:
    box = labels.boxes_xyxy[0].astype(np.float64)
    if not main:
        share = float(np.exp(rng.uniform(np.log(0.06), np.log(0.40))))
    elif (kind := rng.random()) < 0.50:
        share = float(rng.uniform(0.20, 0.80))
    elif kind < 0.80:
        share = float(np.exp(rng.uniform(np.log(0.05), np.log(0.40))))
    else:
        share = float(rng.uniform(0.70, 1.10))
    angle = rng.uniform(-45, 45) if rng.random() < 0.2 else np.clip(rng.normal(0, 11), -45, 45)
    scale = share * size / float(max(box[2] - box[0], box[3] - box[1]))
    mirrored = bool(rng.random() < 0.5)
    middle = (box[:2] + box[2:]) / 2
    if mirrored:
        middle[0] = 255.0 - middle[0]
    room = max(0.5 - 0.42 * share, 0.06)
    target = size * (0.5 + rng.uniform(-room, room, 2))
    matrix = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), float(angle), scale)
    matrix = np.asarray(matrix, dtype=np.float64)
    # Squeezed and sheared faces stand in for turned ones, which aligned portraits rarely show.
    shape = np.array([[np.exp(rng.normal(0, 0.09)), rng.normal(0, 0.07)], [0.0, 1.0]])
    matrix[:, :2] = matrix[:, :2] @ shape
    matrix[:, 2] = target - matrix[:, :2] @ middle
    return _Placement(scene_from_crop=matrix, mirrored=mirrored)


def _transform(labels: FaceLabels, placement: _Placement) -> tuple[Float64Array, Float64Array]:
    """Return boxes and points in the scene; a box becomes that of its turned inscribed ellipse."""
    boxes, points = labels.boxes_xyxy.astype(np.float64), labels.points_xy.astype(np.float64)
    if placement.mirrored:
        boxes = boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (255, 0, 255, 0)
        points = points[:, MIRRORED_POINTS] * (-1, 1) + (255, 0)
    linear, offset = placement.scene_from_crop[:, :2], placement.scene_from_crop[:, 2]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear.T + offset
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    reach = np.sqrt((half**2) @ (linear**2).T)
    return np.concatenate([middle - reach, middle + reach], axis=1), points @ linear.T + offset


def _is_free(boxes: Float64Array, others: list[Float64Array], size: int) -> bool:
    """Say whether the main box is mostly inside the scene and covers none of the others."""
    clipped = np.clip(boxes[0], 0, size)
    area = np.prod(boxes[0, 2:] - boxes[0, :2])
    if np.prod(clipped[2:] - clipped[:2]) < 0.62 * area:
        return False
    for other in others:
        overlap = np.minimum(boxes[0, 2:], other[2:]) - np.maximum(boxes[0, :2], other[:2])
        # heads are about 1.6 times as large as faces; leave that room
        margin = 0.30 * (boxes[0, 2:] - boxes[0, :2] + other[2:] - other[:2]) / 2
        if np.all(overlap > -margin):
            return False
    return True


def _paste(
    rng: Draw,
    canvas: Float32Array,
    crop: UInt8Array,
    placement: _Placement,
    *,
    style: Literal["head", "crop"],
) -> Float32Array:
    """Return the canvas with the crop on it: all of it with a soft border, or its head alone."""
    size = canvas.shape[0]
    padded = cv2.copyMakeBorder(
        np.ascontiguousarray(crop[:, ::-1]) if placement.mirrored else crop,
        BORDER,
        BORDER,
        BORDER,
        BORDER,
        cv2.BORDER_REFLECT_101,
    )
    side = padded.shape[0]
    mask = np.zeros((side, side), np.float32)
    if style == "head":
        centre = (side // 2, side // 2 - 4)
        axes = (int(rng.uniform(90, 112)), int(rng.uniform(118, 134)))
        cv2.ellipse(mask, centre, axes, 0, 0, 360, (1.0,), -1)
        mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(2, 9)))
    else:
        inset = int(rng.integers(2, BORDER + 4))
        mask[inset:-inset, inset:-inset] = 1.0
        mask = cv2.blur(mask, (1 + 2 * int(rng.integers(0, 3 + inset // 3)),) * 2)
    matrix = placement.scene_from_crop.copy()
    matrix[:, 2] -= matrix[:, :2] @ (BORDER, BORDER)
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink < 0.6:  # average before sampling sparsely
        padded = cv2.GaussianBlur(padded, (0, 0), 0.45 / shrink)
    patch = cv2.warpAffine(padded, matrix, (size, size), flags=cv2.INTER_LINEAR)
    cover = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_LINEAR)[..., None]
    return (canvas + (patch - canvas) * cover).astype(np.float32)


def _paste_decoy(rng: Draw, canvas: Float32Array, source: SceneSource) -> Float32Array:
    """Return the canvas with a head whose face was erased: nothing to find."""
    index = int(rng.integers(len(source.crops)))
    if len(source.labels[index].boxes_xyxy) > 1:  # somebody else's face would stay
        return canvas
    placement = _place(rng, canvas.shape[0], source.labels[index], main=True)
    crop = erase_face(rng, np.asarray(source.crops[index]))
    if placement.mirrored:
        crop = np.ascontiguousarray(crop[:, ::-1])
    return _paste(rng, canvas, crop, placement, style="crop")


def cover_face(rng: Draw, canvas: Float32Array, box: Float64Array) -> Float32Array:
    """Return the canvas with something before a part of the face: a hand, a bar, a flat thing."""
    layer = np.zeros(canvas.shape[:2], np.float32)
    width, height = box[2:] - box[:2]
    x, y = box[0] + rng.uniform(-0.1, 1.1) * width, box[1] + rng.uniform(0.45, 1.15) * height
    reach = rng.uniform(0.12, 0.34) * height
    kind = rng.integers(3)
    middle = (round(float(x)), round(float(y)))
    if kind == 0:  # a palm with fingers
        cv2.circle(layer, middle, max(1, int(reach)), (1.0,), -1)
        for angle in rng.uniform(-2.6, -0.5, 4):
            tip = (x + 2 * reach * np.cos(angle), y + 2 * reach * np.sin(angle))
            end = (round(float(tip[0])), round(float(tip[1])))
            cv2.line(layer, middle, end, (1.0,), max(1, int(0.45 * reach)))
    elif kind == 1:
        far = (round(float(x + rng.normal(0, width))), round(float(y + 1.5 * height)))
        cv2.line(layer, middle, far, (1.0,), max(1, int(0.8 * reach)))
    else:
        corner = (round(float(x + 2 * reach)), round(float(y + 2 * reach)))
        cv2.rectangle(layer, middle, corner, (1.0,), -1)
    layer = cv2.GaussianBlur(layer, (0, 0), max(0.6, 0.02 * float(height)))[..., None]
    skin = rng.random() < 0.5
    colour = skin_colour(rng) if skin else tuple(int(v) for v in rng.integers(0, 256, 3))
    grain = 6.0 * rng.standard_normal((*canvas.shape[:2], 1), dtype=np.float32)
    return (canvas + (np.array(colour, np.float32) + grain - canvas) * layer).astype(np.float32)


def photograph(rng: Draw, canvas: Float32Array) -> UInt8Array:
    """Return the scene as a camera and a codec would show it."""
    gain = np.exp(rng.normal(0, 0.10, 3) + rng.normal(0, 0.22))
    contrast = np.exp(rng.normal(0, 0.15))
    lift = canvas.mean() * (1.0 - contrast) * gain + rng.normal(0, 10)
    image = canvas * (contrast * gain).astype(np.float32) + lift.astype(np.float32)
    if rng.random() < 0.12:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.3:
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        image = image + np.float32(rng.uniform(1, 9)) * grain
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 90))
        _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return pixels


def _labelled(image: UInt8Array, boxes: list[Float64Array], points: list[Float64Array]) -> Scene:
    """Return the scene with the faces that are large enough and whose middle is inside."""
    box_rows = np.array(boxes, np.float32).reshape(-1, 4)
    point_rows = np.array(points, np.float32).reshape(-1, 5, 2)
    middle = (box_rows[:, :2] + box_rows[:, 2:]) / 2
    keep = np.all((middle >= 0) & (middle < image.shape[0]), axis=1)
    keep &= (box_rows[:, 2:] - box_rows[:, :2]).max(axis=1, initial=0.0) >= SMALLEST_FACE
    return Scene(image=image, boxes_xyxy=box_rows[keep], points_xy=point_rows[keep])


def _letterbox(rng: Draw, scene: Scene) -> Scene:
    """Return the scene with a black bar at the right or the bottom, as frames are padded."""
    axis, size = int(rng.integers(2)), scene.image.shape[0]
    taken = scene.boxes_xyxy[:, 2 + axis].max(initial=0.4 * size)
    if rng.random() < 0.65 or taken > 0.97 * size:
        return scene
    start = int(rng.uniform(taken, size))
    image = scene.image.copy()
    if axis == 0:
        image[:, start:] = 0
    else:
        image[start:] = 0
    return replace(scene, image=image)
