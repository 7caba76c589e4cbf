"""Points, quads, similarity transforms and warps. THE pixel-centre convention lives here.

Convention: the centre of the top left pixel is at (0, 0); a picture of width W covers
[-0.5, W - 0.5]. Points are (x, y), sizes (h, w). A transform is a (2, 3) float64 matrix and says in
its name what it maps: `crop_from_frame @ frame point = crop point`. Corner-based conventions
(FFHQ's crops, PIL's quads) are converted here and nowhere else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
# Which of the 68 landmarks (Multi-PIE) make up the eyes, the nose tip and the mouth's corners.
FIVE_OF_68 = (range(36, 42), range(42, 48), (30,), (48,), (54,))

FFHQ_EYE_SCALE = 2.0  # half the crop's side, in distances between the eyes (FFHQ, appendix)
FFHQ_MOUTH_SCALE = 1.8  # or in distances from eyes to mouth, whichever is larger
FFHQ_CENTRE_SHIFT = 0.1  # the centre lies this share of the way from the eyes to the mouth

SHRINK_FROM = 1.5  # a picture that shrinks by more than this is antialiased by area first
ENLARGE_FROM, ENLARGED = 2.5, 4  # one that grows by this much is first enlarged four times

Pixel = TypeVar("Pixel", bound=np.integer | np.floating)
Sample = TypeVar("Sample", bound=np.unsignedinteger)
Interpolation = Literal["linear", "cubic"]
_CV2_INTERPOLATION = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def transform_points(b_from_a: Float64Array, points_xy: Float64Array) -> Float64Array:
    """Map (..., 2) points by a (2, 3) transform."""
    return points_xy @ b_from_a[:, :2].T + b_from_a[:, 2]


def compose(c_from_b: Float64Array, b_from_a: Float64Array) -> Float64Array:
    """Chain two (2, 3) transforms into the one that maps a to c."""
    linear = c_from_b[:, :2] @ b_from_a[:, :2]
    shift = c_from_b[:, :2] @ b_from_a[:, 2] + c_from_b[:, 2]
    return np.concatenate([linear, shift[:, None]], axis=1)


def invert_similarity(b_from_a: Float64Array) -> Float64Array:
    """Return a_from_b for a (2, 3) transform that can be inverted.

    Raises:
        ValueError: the transform collapses the plane.
    """
    linear = b_from_a[:, :2]
    if abs(np.linalg.det(linear)) < 1e-12:
        raise ValueError("the transform cannot be inverted: its scale is zero")
    inverse = np.asarray(np.linalg.inv(linear), dtype=np.float64)
    return np.concatenate([inverse, -(inverse @ b_from_a[:, 2])[:, None]], axis=1)


def corner_transform(b_from_a: Float64Array) -> Float64Array:
    """Return a transform for points that are counted from the pictures' outer corner.

    Convention: the top left pixel's centre is at (0.5, 0.5) there, as on a canvas of a browser.
    """
    half = np.array([0.5, 0.5], dtype=np.float64)
    shift = b_from_a[:, 2] - b_from_a[:, :2] @ half + half
    return np.concatenate([b_from_a[:, :2], shift[:, None]], axis=1)


def scale_of(b_from_a: Float64Array) -> float:
    """Return how many pixels of b one pixel of a becomes."""
    return math.sqrt(abs(float(np.linalg.det(b_from_a[:, :2]))))


def five_of_68(landmarks: NDArray[Any]) -> NDArray[Any]:
    """Return the five key points that 68 landmarks (..., 68, 2) hold: (..., 5, 2)."""
    return np.stack([landmarks[..., list(rows), :].mean(axis=-2) for rows in FIVE_OF_68], axis=-2)


def smoothstep(share: Float64Array) -> Float64Array:
    """Rise from 0 to 1 along 3t² - 2t³; 0 below and 1 above."""
    share = np.clip(share, 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def fit_similarity(source_xy: Float64Array, target_xy: Float64Array) -> Float64Array:
    """Fit the similarity that maps `source_xy` to `target_xy`, both (K, 2), in least squares.

    Rotation, one scale and a shift, no reflection (Umeyama, PAMI 1991).

    Raises:
        ValueError: fewer than two points, different counts, or all source points coincide.
    """
    if source_xy.shape != target_xy.shape or source_xy.ndim != 2 or len(source_xy) < 2:
        raise ValueError(
            f"points have shapes {source_xy.shape} and {target_xy.shape}, "
            "expected two times (K, 2) with K >= 2"
        )
    source = source_xy - source_xy.mean(axis=0)
    target = target_xy - target_xy.mean(axis=0)
    spread = float((source**2).sum())
    if spread < 1e-18:
        raise ValueError("all source points coincide, expected points that are apart")
    cosine = float((source * target).sum()) / spread
    sine = float((source[:, 0] * target[:, 1] - source[:, 1] * target[:, 0]).sum()) / spread
    linear = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float64)
    shift = target_xy.mean(axis=0) - linear @ source_xy.mean(axis=0)
    return np.concatenate([linear, shift[:, None]], axis=1)


def ffhq_quads(landmarks_xy: Float64Array) -> Float64Array:
    """Return FFHQ's crop corners for five key points (methods.md, section 10).

    Args:
        landmarks_xy: (..., 5, 2): left eye, right eye, nose, left and right mouth corner.

    Returns:
        (..., 4, 2) corners: top left, bottom left, bottom right, top right.

    Convention: corners lie on the outer edge of the crop's border pixels, as in FFHQ.
    """
    eyes = landmarks_xy[..., :2, :].mean(axis=-2)
    mouth = landmarks_xy[..., 3:, :].mean(axis=-2)
    eye_to_eye = landmarks_xy[..., 1, :] - landmarks_xy[..., 0, :]
    eye_to_mouth = mouth - eyes
    turned = np.stack([-eye_to_mouth[..., 1], eye_to_mouth[..., 0]], axis=-1)
    x = eye_to_eye - turned
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    reach = np.maximum(
        FFHQ_EYE_SCALE * np.linalg.norm(eye_to_eye, axis=-1, keepdims=True),
        FFHQ_MOUTH_SCALE * np.linalg.norm(eye_to_mouth, axis=-1, keepdims=True),
    )
    x = x / np.maximum(length, 1e-12) * reach
    y = np.stack([-x[..., 1], x[..., 0]], axis=-1)
    centre = eyes + FFHQ_CENTRE_SHIFT * eye_to_mouth
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y], axis=-2)


def crop_from_quad(quad_xy: Float64Array, crop_size: int) -> Float64Array:
    """Return crop_from_frame (2, 3) for a square quad (4, 2) and a crop of `crop_size` pixels.

    Convention: the quad's corners are the outer edge of the crop, at -0.5 and crop_size - 0.5.
    """
    low, high = -0.5, crop_size - 0.5
    corners = np.array([[low, low], [low, high], [high, high], [high, low]], dtype=np.float64)
    return fit_similarity(quad_xy, corners)


def resized_crop(crop_from_frame: Float64Array, size: int, other_size: int) -> Float64Array:
    """Return where a crop's pixels lie if it has `other_size` pixels a side instead of `size`."""
    return compose(_area_shrink((other_size, other_size), (size, size)), crop_from_frame)


def quad_from_crop(crop_from_frame: Float64Array, crop_size: int) -> Float64Array:
    """Return the crop's corners (4, 2) in the frame, the inverse of `crop_from_quad`."""
    return quad_of_box(crop_from_frame, (0, 0, crop_size, crop_size))


def quad_of_box(crop_from_frame: Float64Array, box: tuple[int, int, int, int]) -> Float64Array:
    """Return the corners (4, 2) in the frame of a crop's pixels [left, right) x [top, bottom)."""
    left, top, right, bottom = (edge - 0.5 for edge in box)
    corners = np.array([[left, top], [left, bottom], [right, bottom], [right, top]])
    return transform_points(invert_similarity(crop_from_frame), corners)


def box_of_change(*layers: NDArray[np.float32], reach: int) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of what is not 0 in layers (R, R, C), half open, or None.

    `reach`: pixels that are added all round, as far as the layers go.
    """
    size = layers[0].shape[0]
    touched = np.zeros(layers[0].shape[:2], np.bool_)
    for layer in layers:
        for channel in range(layer.shape[2]):  # numpy reduces over a short last axis slowly
            touched |= layer[..., channel] != 0
    rows, columns = (np.flatnonzero(touched.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return None
    (top, bottom), (left, right) = ((int(p[0]), int(p[-1]) + 1) for p in (rows, columns))
    low = (max(left - reach, 0), max(top - reach, 0))
    return (*low, min(right + reach, size), min(bottom + reach, size))


def warp(
    image: NDArray[np.generic],
    target_from_source: Float64Array,
    size_hw: tuple[int, int],
    *,
    interpolation: Interpolation = "linear",
    border: Literal["zero", "replicate"] = "zero",
) -> NDArray[np.generic]:
    """Resample a picture (H, W) or (H, W, C), uint8 or float32, into a target of `size_hw`.

    No antialiasing: use `crop_frame` where the target is much smaller than the source.
    """
    border_mode = cv2.BORDER_CONSTANT if border == "zero" else cv2.BORDER_REPLICATE
    return cv2.warpAffine(  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
        image,  # pyright: ignore[reportArgumentType]
        target_from_source,
        (size_hw[1], size_hw[0]),
        flags=_CV2_INTERPOLATION[interpolation],
        borderMode=border_mode,
    )


def crop_frame(
    frame: NDArray[np.uint8], crop_from_frame: Float64Array, crop_size: int
) -> NDArray[np.uint8]:
    """Cut a (crop_size, crop_size, 3) uint8 crop out of a frame (H, W, 3).

    Faces more than `SHRINK_FROM` times larger than the crop are first shrunk by area, so that fine
    texture does not alias and crawl from frame to frame. Outside the frame the nearest pixel is
    repeated.
    """
    shrink = 1.0 / scale_of(crop_from_frame)
    if shrink <= SHRINK_FROM:
        cropped = warp(frame, crop_from_frame, (crop_size, crop_size), border="replicate")
        return np.ascontiguousarray(cropped, dtype=np.uint8)
    quad = quad_from_crop(crop_from_frame, crop_size)
    height, width = frame.shape[:2]
    left, top = np.floor(quad.min(axis=0) - 2).astype(int)
    right, bottom = np.ceil(quad.max(axis=0) + 3).astype(int)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, width), min(bottom, height)
    if right - left < 2 or bottom - top < 2:
        return np.zeros((crop_size, crop_size, 3), np.uint8)
    region = frame[top:bottom, left:right]
    small_h = max(2, round((bottom - top) / shrink))
    small_w = max(2, round((right - left) / shrink))
    small = cv2.resize(region, (small_w, small_h), interpolation=cv2.INTER_AREA)
    region_from_small = _area_shrink((bottom - top, right - left), (small_h, small_w))
    frame_from_region = np.array([[1.0, 0.0, left], [0.0, 1.0, top]], dtype=np.float64)
    frame_from_small = compose(frame_from_region, region_from_small)
    crop_from_small = compose(crop_from_frame, frame_from_small)
    cropped = warp(small, crop_from_small, (crop_size, crop_size), border="replicate")
    return np.ascontiguousarray(cropped, dtype=np.uint8)


def paste_window(
    quad_xy: Float64Array, size_hw: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of the pixels a crop with these corners can touch, or None.

    Half open, within a frame of `size_hw`.
    """
    low = np.floor(quad_xy.min(axis=0) - 1.0).astype(int)
    high = np.ceil(quad_xy.max(axis=0) + 2.0).astype(int)
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), size_hw[1]), min(int(high[1]), size_hw[0])
    return (left, top, right, bottom) if right > left and bottom > top else None


def resample(
    image: NDArray[np.float32],
    target_from_source: Float64Array,
    size_hw: tuple[int, int],
    *,
    growing: Interpolation = "cubic",
) -> NDArray[np.float32]:
    """Warp a float picture (H, W, C): antialiased when it shrinks, cubic when it grows.

    Zero outside the source. One that grows much is first enlarged to `ENLARGED` times its size,
    which costs little; between its pixels then a straight line is as good as the cubic, whose
    every pixel costs twice as much. `growing`: what has been smoothed loses nothing by `linear`.
    """
    scale, (height, width) = scale_of(target_from_source), image.shape[:2]
    interpolation: Interpolation = growing if scale > 1.0 else "linear"
    between, method = (height, width), cv2.INTER_AREA
    if scale < 1 / SHRINK_FROM:
        between = (max(2, round(height * scale)), max(2, round(width * scale)))
    elif scale >= ENLARGE_FROM and growing == "cubic":
        between, method = (ENLARGED * height, ENLARGED * width), cv2.INTER_CUBIC
        interpolation = "linear"
    if between != (height, width):
        source_from_between = _area_shrink((height, width), between)
        resized = cv2.resize(image, between[::-1], interpolation=method)
        image = np.asarray(resized, dtype=np.float32)
        target_from_source = compose(target_from_source, source_from_between)
    warped = warp(image, target_from_source, size_hw, interpolation=interpolation)
    return np.asarray(warped, dtype=np.float32).reshape(*size_hw, -1)


def _area_shrink(size_hw: tuple[int, int], small_hw: tuple[int, int]) -> Float64Array:
    """Return source_from_small for a picture of another size: outer edges stay."""
    scale_y, scale_x = size_hw[0] / small_hw[0], size_hw[1] / small_hw[1]
    return np.array(
        [[scale_x, 0.0, 0.5 * scale_x - 0.5], [0.0, scale_y, 0.5 * scale_y - 0.5]],
        dtype=np.float64,
    )


def limit_threads(threads: int) -> None:
    """Let OpenCV use this many threads in this process; optical flow depends on their number."""
    cv2.setNumThreads(threads)


def optical_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Estimate where each pixel of `first` lies in `second`, both (H, W, 3) RGB or (H, W) grey.

    Dense inverse search (Kroeger et al., ECCV 2016), OpenCV's medium preset.

    Returns:
        (H, W, 2) displacements (dx, dy) in pixels: first(p) is second(p + flow(p)).
    """
    # OpenCV's stubs do not know the estimator.
    estimator = cast(Any, cv2).DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [to_grey(picture) for picture in (first, second)]
    start = np.zeros((*grey[0].shape, 2), np.float32)
    return np.asarray(estimator.calc(grey[0], grey[1], start), dtype=np.float32)


def fine_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Estimate flow as `optical_flow` does, on small grey pictures (H, W) and down to every pixel.

    The presets stop at half the size or less. Between pictures of 128 pixels this leaves 18 % less
    than OpenCV's medium preset for twice its time; what is carried from frame to frame needs that.
    """
    return _search_densely(first, second, finest=0)


def quick_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Estimate flow as `optical_flow` does, on small grey pictures (H, W), in half its time.

    Patches of 8 pixels, 4 apart, at half the size and more; between pictures of 128 pixels it
    leaves 3 % less than OpenCV's medium preset.
    """
    return _search_densely(first, second, finest=1)


def _search_densely(
    first: NDArray[np.uint8], second: NDArray[np.uint8], *, finest: int
) -> NDArray[np.float32]:
    """Dense inverse search that ends at 1 / 2**`finest` of the size; one step of refinement."""
    # OpenCV's stubs do not know the estimator.
    estimator = cast(Any, cv2).DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    estimator.setFinestScale(finest)
    estimator.setPatchStride(4)
    estimator.setGradientDescentIterations(8)
    estimator.setVariationalRefinementIterations(1)
    start = np.zeros((*first.shape, 2), np.float32)
    return np.asarray(estimator.calc(first, second, start), dtype=np.float32)


def to_grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luma of (H, W, 3) RGB as uint8 (H, W); a grey picture as it is."""
    if picture.ndim == 2:
        return picture
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def blur(
    field: NDArray[np.float32], *, sigma: float, window: int | None = None
) -> NDArray[np.float32]:
    """Smooth a float field (H, W) or (H, W, C) in space with a Gaussian of `sigma` pixels.

    `window`: odd side of the kernel in pixels; None = as wide as it counts.
    """
    size = (0, 0) if window is None else (window, window)
    return np.asarray(cv2.GaussianBlur(field, size, sigma), dtype=np.float32)


def fill_quads(quads_xy: Sequence[Float64Array], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (H, W): True where a pixel may be touched by a crop with one of the corners (4, 2).

    Two pixels are added all round: as far as interpolation reaches.
    """
    covered = np.zeros(size_hw, np.uint8)
    for quad_xy in quads_xy:
        corners = np.round(quad_xy).astype(np.int32)
        cv2.fillConvexPoly(covered, corners, 1)
        cv2.polylines(covered, [corners], isClosed=True, color=1, thickness=5)
    return covered.astype(np.bool_)


def largest_channel(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest absolute value over the channels of (H, W, C), as (H, W).

    Channel by channel: a reduction over a short last axis takes numpy ten times as long.
    """
    largest = np.abs(field[..., 0])
    for channel in range(1, field.shape[2]):
        np.maximum(largest, np.abs(field[..., channel]), out=largest)
    return largest


def squared_difference(
    first: NDArray[np.uint8], second: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> float:
    """Return the sum of squared differences of two pictures (H, W, 3), exactly.

    `where`: (H, W), the pixels that count; None = all.
    """
    mask = None if where is None else where.view(np.uint8)
    # OpenCV squares a root here; the sum is a whole number.
    return float(round(cv2.norm(first, second, cv2.NORM_L2SQR, mask)))


def copy_where(source: NDArray[Sample], where: NDArray[np.uint8], target: NDArray[Sample]) -> None:
    """Copy the pixels of (H, W, 3) where `where` (H, W) is not 0 to a contiguous target."""
    cv2.copyTo(source, where, target)


def add_levels(picture: NDArray[Sample], levels: NDArray[np.float32], out: NDArray[Sample]) -> None:
    """Write picture + levels (H, W, 3) to `out`, to the nearest number within its range."""
    depth = cv2.CV_8U if picture.dtype == np.uint8 else cv2.CV_16U
    out[...] = cv2.add(picture, levels, dtype=depth)


def within(planes: Sequence[NDArray[np.float32]], limit: float) -> NDArray[np.uint8]:
    """Return (H, W): not 0 where every one of the planes (H, W) is within +-`limit`."""
    inside = cv2.inRange(planes[0], -limit, limit)  # pyright: ignore
    for plane in planes[1:]:
        inside = cv2.bitwise_and(inside, cv2.inRange(plane, -limit, limit))  # pyright: ignore
    return np.asarray(inside, np.uint8)


def turn_vectors(field: NDArray[np.float32], linear: Float64Array) -> NDArray[np.float32]:
    """Apply a (2, 2) matrix to every vector of a field (H, W, 2)."""
    return np.asarray(cv2.transform(field, linear.astype(np.float32)), dtype=np.float32)


def dilate(mask: NDArray[np.uint8], *, radius: float) -> NDArray[np.uint8]:
    """Grow what is bright in a mask (H, W) by a disc of `radius` pixels; shrink it below 0."""
    reach = math.floor(abs(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    change = cv2.dilate if radius >= 0 else cv2.erode
    return np.asarray(change(mask, disc), dtype=np.uint8)


def displace(
    image: NDArray[Pixel],
    flow: NDArray[np.float32],
    *,
    interpolation: Interpolation = "linear",
) -> NDArray[Pixel]:
    """Sample a picture at p + flow(p).

    Where the flow is 0 the pixel itself comes out, exactly. Beyond the border its pixels repeat.
    """
    return displace_by(image, flow[..., 0], flow[..., 1], interpolation=interpolation)


def displace_by(
    image: NDArray[Pixel],
    flow_x: NDArray[np.float32],
    flow_y: NDArray[np.float32],
    *,
    corner_xy: tuple[int, int] = (0, 0),
    interpolation: Interpolation = "linear",
) -> NDArray[Pixel]:
    """Sample a picture as `displace` does, by a flow that comes in two planes (H, W).

    They are of the window of their size whose corner is given, left and top.
    """
    height, width = flow_x.shape
    x = np.arange(corner_xy[0], corner_xy[0] + width, dtype=np.float32)[None, :]
    y = np.arange(corner_xy[1], corner_xy[1] + height, dtype=np.float32)[:, None]
    moved = cv2.remap(
        image,
        x + flow_x,
        y + flow_y,
        _CV2_INTERPOLATION[interpolation],
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(moved, dtype=image.dtype)


def split_motion(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    *,
    sigma: float,
    estimate: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]] = optical_flow,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split what differs between two pictures (H, W, 3) into motion and what it cannot explain.

    Args:
        before: the first picture.
        after: the second.
        sigma: smoothing of the flow in space, in pixels.
        estimate: finds the flow between two grey pictures.

    Returns:
        The flow (H, W, 2) in pixels, and the rest (H, W, 3) in grey levels, so that after(p) is
        before(p + flow(p)) + rest(p).
    """
    flow = blur(estimate(to_grey(after), to_grey(before)), sigma=sigma)
    return flow, after - displace(before.astype(np.float32), flow)
