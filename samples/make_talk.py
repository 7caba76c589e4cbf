"""Draw the sample clip: a portrait that talks, blinks, sways, and holds a microphone for a second.

The picture is NASA's public-domain portrait of Eileen Collins as scikit-image carries it
(`skimage.data.astronaut`); motion and sound are computed here, nothing was recorded. Run

    python samples/make_talk.py [TARGET]

to write the file again; the default target is `talk.mp4` beside this script.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

SIZE = 512
FRAME_RATE = 25
SAMPLE_RATE = 44_100
SECONDS = 5.0
FRAME_COUNT = round(SECONDS * FRAME_RATE)

# What is said: start in seconds, length, vowel. The gaps are pauses for breath.
SYLLABLES = (
    (0.25, 0.22, "e"), (0.48, 0.26, "o"), (0.78, 0.20, "a"), (1.00, 0.24, "i"), (1.26, 0.32, "a"),
    (1.85, 0.20, "u"), (2.06, 0.24, "a"), (2.32, 0.20, "e"), (2.54, 0.30, "o"), (2.88, 0.22, "a"),
    (3.12, 0.20, "i"), (3.60, 0.24, "a"), (3.86, 0.22, "o"), (4.10, 0.22, "e"), (4.34, 0.38, "a"),
)  # fmt: skip
# First three formants in Hz, how far the jaw opens, how much narrower the mouth gets.
VOWELS = {
    "a": ((850.0, 1400.0, 2800.0), 1.00, 0.02),
    "e": ((580.0, 2100.0, 2850.0), 0.62, -0.02),
    "i": ((330.0, 2600.0, 3200.0), 0.42, -0.03),
    "o": ((520.0, 950.0, 2700.0), 0.80, 0.12),
    "u": ((360.0, 800.0, 2600.0), 0.50, 0.15),
}
BLINK_SECONDS = (0.72, 2.42, 4.52)
MICROPHONE_SECONDS = (2.7, 4.1)

# Measured in the upscaled portrait, in pixels (x, y).
MOUTH_CENTRE, MOUTH_HALF_WIDTH, MOUTH_SAG = (243.0, 306.8), 43.0, 20.5
CHIN_Y, COLLAR_Y = 345.0, 384.0
EYES = (((181.0, 207.0), (223.0, 212.0)), ((270.0, 215.0), (316.0, 213.0)))
NECK = (245.0, 400.0)


def smoothstep(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rise smoothly from 0 at 0 to 1 at 1."""
    x = np.clip(values, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def portrait() -> UInt8Array:
    """Return head and shoulders of the portrait, (512, 512, 3) uint8 RGB, sharpened."""
    crop = np.ascontiguousarray(skimage.data.astronaut()[0:250, 105:355])
    large = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    sharp = cv2.addWeighted(large, 1.5, cv2.GaussianBlur(large, (0, 0), 2.0), -0.5, 0)
    return np.asarray(sharp, dtype=np.uint8)


# --- sound -------------------------------------------------------------------------------------


def loudness(seconds: Float64Array) -> Float64Array:
    """Return how loud the voice is, 0..1: one soft hill per syllable."""
    hills = [
        smoothstep((seconds - start) / 0.06) * smoothstep((start + length - seconds) / 0.09)
        for start, length, _ in SYLLABLES
    ]
    return np.max(hills, axis=0)


def vowel_track(seconds: Float64Array, values: dict[str, float]) -> Float64Array:
    """Interpolate one number of the vowels along the syllables' middles."""
    middles = [start + length / 2 for start, length, _ in SYLLABLES]
    return np.interp(seconds, middles, [values[vowel] for _, _, vowel in SYLLABLES])


def voice() -> Float32Array:
    """Babble with three formants over a gliding pitch, (samples,) float32 in [-1, 1]."""
    seconds = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    pitch_hz = 195 + 18 * np.sin(2 * np.pi * 0.55 * seconds + 0.4) - 9 * seconds
    pitch_hz += 3 * np.sin(2 * np.pi * 5.3 * seconds)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    formants_hz = [
        vowel_track(seconds, {vowel: data[0][n] for vowel, data in VOWELS.items()})
        for n in range(3)
    ]
    tone = np.zeros_like(seconds)
    for harmonic in range(1, 20):
        hz = harmonic * pitch_hz
        gain = sum(
            weight / (1 + ((hz - formant) / width) ** 2)
            for formant, weight, width in zip(
                formants_hz, (1.0, 0.5, 0.2), (90.0, 120.0, 160.0), strict=True
            )
        )
        tone += (gain + 0.05) / harmonic**0.4 * np.sin(harmonic * phase)
    noise = np.random.default_rng(7).standard_normal(len(seconds))
    hiss = noise - np.roll(noise, 1)
    onsets = sum(
        np.exp(-(((seconds - start - 0.01) / 0.02) ** 2)) for start, _, v in SYLLABLES if v in "eiu"
    )
    sound = tone * loudness(seconds) + 0.10 * hiss * onsets + 0.002 * noise
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


# --- motion ------------------------------------------------------------------------------------


def jaw_opening(seconds: float) -> float:
    """Return how far the lower lip is below its place in the portrait, px; < 0 is closed."""
    window = seconds + np.linspace(-0.04, 0.04, 9)
    openness = vowel_track(window, {vowel: data[1] for vowel, data in VOWELS.items()})
    return float(-6.0 + 24.0 * np.mean(loudness(window) * openness))


def lip_narrowing(seconds: float) -> float:
    """Return by what share the mouth is narrower than in the portrait."""
    window = seconds + np.linspace(-0.08, 0.08, 9)
    narrowing = vowel_track(window, {vowel: data[2] for vowel, data in VOWELS.items()})
    return float(np.mean(loudness(window) * narrowing))


def eye_closing(seconds: float) -> float:
    """Return how far the eyes are shut, 0..1."""
    return max(
        float(smoothstep(np.array((t + 0.09 - seconds) / 0.09 + 0.4)))
        * float(smoothstep(np.array((seconds - t + 0.07) / 0.07)))
        for t in BLINK_SECONDS
    )


def head_transform(seconds: float) -> Float64Array:
    """Return the head's pose at a time: (2, 3) similarity about the neck."""
    angle_deg = 2.4 * np.sin(2 * np.pi * 0.31 * seconds) + 0.7 * np.sin(2 * np.pi * 0.9 * seconds)
    scale = 1.0 + 0.012 * np.sin(2 * np.pi * 0.42 * seconds + 1.0)
    pose = np.asarray(cv2.getRotationMatrix2D(NECK, angle_deg, scale), dtype=np.float64)
    pose[0, 2] += 3.5 * np.sin(2 * np.pi * 0.23 * seconds + 0.5)
    pose[1, 2] += 2.5 * np.sin(2 * np.pi * 0.62 * seconds)
    return pose


# --- drawing -----------------------------------------------------------------------------------


def pixel_grid() -> tuple[Float64Array, Float64Array]:
    """Return the x and y of every pixel centre, each (512, 512)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    return x, y


def undo_sway(x: Float64Array, y: Float64Array, seconds: float) -> tuple[Float64Array, ...]:
    """Return where in the unmoved head each point comes from; the picture's border stays."""
    radius = np.hypot((x - 250.0) / 250.0, (y - 200.0) / 260.0)
    weight = smoothstep((1.0 - radius) / 0.35) * smoothstep(y / 34.0)
    weight = weight * smoothstep((455.0 - y) / 110.0)
    inverse = cv2.invertAffineTransform(head_transform(seconds))
    moved_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    moved_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    return x + weight * (moved_x - x), y + weight * (moved_y - y)


def undo_mouth(x: Float64Array, y: Float64Array, seconds: float) -> tuple[Float64Array, ...]:
    """Return where each point of the talking face comes from, and what is inside the mouth.

    The mouth splits along the upper teeth's lower edge; what is below moves down with the jaw.

    Returns:
        x and y in the portrait; coverage 0..1 of the opening; depth 0..1 inside it from the teeth.
    """
    opening = jaw_opening(seconds)
    near = np.exp(-(((x - MOUTH_CENTRE[0]) / 70.0) ** 2) - ((y - 302.0) / 42.0) ** 2)
    x = MOUTH_CENTRE[0] + (x - MOUTH_CENTRE[0]) * (1.0 + lip_narrowing(seconds) * near)
    across = (x - MOUTH_CENTRE[0]) / MOUTH_HALF_WIDTH
    line_y = MOUTH_CENTRE[1] - MOUTH_SAG * across**2
    lip_drop = opening * np.clip(1.0 - across**2, 0.0, None) ** 0.8
    jaw_drop = 0.75 * opening * np.exp(-((across / 1.5) ** 2))
    below_lip = smoothstep((y - line_y - lip_drop) / 34.0)
    drop = lip_drop + (jaw_drop - lip_drop) * below_lip
    drop = drop * smoothstep((COLLAR_Y - y) / (COLLAR_Y - CHIN_Y + 22.0))
    inside = np.clip(y - line_y + 0.5, 0.0, 1.0) * np.clip(line_y + lip_drop - y + 0.5, 0.0, 1.0)
    inside = np.where(np.abs(across) < 1.0, inside * np.clip(lip_drop, 0.0, 1.0), 0.0)
    depth = np.clip((y - line_y) / np.maximum(lip_drop, 1.0), 0.0, 1.0)
    moved = np.where(y > line_y + np.minimum(lip_drop, 0.0), y - drop, y)
    return x, moved, inside, depth


def undo_blink(x: Float64Array, y: Float64Array, seconds: float) -> tuple[Float64Array, ...]:
    """Return the y in the portrait of the upper lids' skin as they come down, and its coverage."""
    closing, lids, cover = eye_closing(seconds), y, np.zeros_like(y)
    for (left_x, left_y), (right_x, right_y) in EYES:
        share = (x - left_x) / (right_x - left_x)
        almond = np.clip(4.0 * share * (1.0 - share), 0.0, None)
        corner_y = left_y + (right_y - left_y) * share
        brow_y, lid_y = corner_y - 9.0 - 12.0 * np.sqrt(almond), corner_y - 7.0 * almond
        edge_y = lid_y + closing * 13.0 * almond
        stretched = brow_y + (y - brow_y) * (lid_y - brow_y) / (edge_y - brow_y)
        near = (almond > 0) & (y > brow_y) & (y < edge_y + 2.0)
        lids = np.where(near, stretched, lids)
        cover = np.where(near, np.clip((edge_y - y + 1.0) / 2.0, 0.0, 1.0), cover)
    return lids, cover


def draw_head(source: UInt8Array, seconds: float) -> Float32Array:
    """Return the frame without the microphone, (512, 512, 3) float32 in [0, 255]."""
    x, y = undo_sway(*pixel_grid(), seconds)
    x, y, inside, depth = undo_mouth(x, y, seconds)
    lids_y, lids = undo_blink(x, y, seconds)
    map_x = x.astype(np.float32)
    face, shut = (
        cv2.remap(source, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        for map_y in (y.astype(np.float32), lids_y.astype(np.float32))
    )
    face = face * (1.0 - lids[..., None]) + shut * lids[..., None]
    tongue = smoothstep((depth - 0.45) / 0.5)[..., None]
    mouth = np.array([38.0, 14.0, 14.0]) + tongue * np.array([104.0, 44.0, 46.0])
    cover = cv2.GaussianBlur(inside, (0, 0), 0.8)[..., None]
    return (face * (1.0 - cover) + mouth * cover).astype(np.float32)


def draw_microphone(frame: Float32Array, seconds: float) -> Float32Array:
    """Return the frame with a hand microphone raised before the chin, and its soft shadow."""
    start, stop = MICROPHONE_SECONDS
    rise = smoothstep(np.array((seconds - start) / 0.35))
    raised = float(rise * smoothstep(np.array((stop - seconds) / 0.35)))
    if raised <= 0.0:
        return frame
    x, y = pixel_grid()
    sway = 2.5 * np.sin(2 * np.pi * 1.1 * seconds)
    head_x, head_y = 392.0 - 128.0 * raised + sway, 585.0 - 264.0 * raised
    along = (x - head_x) * 0.42 + (y - head_y) * 0.9075
    across = (x - head_x) * 0.9075 - (y - head_y) * 0.42
    radius, half_width = 27.0, np.clip(20.0 - along * 0.02, 14.0, None)
    ball = np.clip(radius - np.hypot(along, across) + 0.5, 0.0, 1.0)
    handle = np.clip(half_width - np.abs(across) + 0.5, 0.0, 1.0) * np.clip(along - 18.0, 0.0, 1.0)
    cover = np.maximum(ball, handle)
    shadow = cv2.GaussianBlur(np.roll(cover, (10, -9), axis=(0, 1)), (0, 0), 7.0)
    height = np.sqrt(np.clip(1.0 - (along**2 + across**2) / radius**2, 0.0, 1.0))
    light = np.clip(0.55 * height - 0.4 * across / radius - 0.4 * along / radius, 0.0, 1.0)
    mesh = 0.8 + 0.2 * np.sin(along * 1.3) * np.sin(across * 1.3)
    metal = (52.0 + 150.0 * light) * mesh
    turned = np.clip(across / half_width, -1.0, 1.0)
    barrel = 26.0 + 60.0 * np.exp(-(((turned + 0.45) / 0.25) ** 2))
    ring = np.exp(-(((along - 25.0) / 4.0) ** 2)) * 90.0
    grey = np.where(ball > handle, metal, barrel + ring)
    colour = grey[..., None] * np.array([0.98, 1.0, 1.04])
    shaded = frame * (1.0 - 0.30 * shadow[..., None])
    return (shaded + (colour - shaded) * cover[..., None]).astype(np.float32)


def draw_frame(source: UInt8Array, index: int) -> UInt8Array:
    """Return frame `index`, (512, 512, 3) uint8 RGB, with a little sensor noise."""
    seconds = index / FRAME_RATE
    frame = draw_microphone(draw_head(source, seconds), seconds)
    noise = np.random.default_rng(1000 + index).standard_normal((SIZE, SIZE, 1)) * 1.2
    return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


# --- file --------------------------------------------------------------------------------------


def write_clip(target: Path) -> None:
    """Write the clip: H.264 with one thread, so that the same libraries give the same file."""
    source, sound = portrait(), voice()
    with av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=FRAME_RATE)
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        video.options = {"crf": "20", "preset": "slow"}
        audio = container.add_stream("aac", rate=SAMPLE_RATE)
        audio.layout = "mono"
        audio.bit_rate = 96_000
        for index in range(FRAME_COUNT):
            picture = av.VideoFrame.from_ndarray(draw_frame(source, index), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        for start in range(0, len(sound), 1024):
            block = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound[None, start : start + 1024]), "fltp", "mono"
            )
            block.sample_rate, block.pts = SAMPLE_RATE, start
            block.time_base = Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(block))
        container.mux(audio.encode())


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("talk.mp4")
    write_clip(Path(chosen))
    print(chosen)
