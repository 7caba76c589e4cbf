"""What an edit changes in a face's crop: how its pixels move, and what remains."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import Interval
from vidinvert import images
from vidinvert.errors import AnalysisError
from vidinvert.geometry import blur, displace, largest_channel, optical_flow, to_grey
from vidinvert.methods import Method
from vidinvert.types import Alignment, Inversion, KeptPictures, Latents, MovedLatents

FLOW_BLUR = 3 / 256  # of the crop's side: the flow's smoothing in space
TRUSTED_ERROR = 10.0  # grey levels between source and inversion that cost no trust
DOUBTED_ERROR = 7.0  # beyond it: at which trust falls to 1 / e
SMALL_CHANGE = 3.0  # grey levels; a remaining change much smaller than this is not shown
CHANGE_REACH = 2.5  # standard deviations after which a frame's change no longer counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedFace:
    """All that is needed to render one track.

    `strength` (T,): sum of the absolute edit strengths at each of the track's frames; frames where
    it is 0 are left alone unless the composite is `generated`. `presence` (T,) in [0, 1]: how far
    the generator's picture is shown where a face comes or goes; None = everywhere.
    `change_sigma_seconds`: over what time the warped composite averages what an edit changes, at
    the track's `seconds` (T,) and within its unbroken `intervals`; 0 = each frame by itself.
    `unedited`: the generator's pictures of `inversion.latents`; None = drawn when they are needed.
    """

    alignment: Alignment
    inversion: Inversion
    edited: Latents | MovedLatents
    strength: NDArray[np.float64]
    presence: NDArray[np.float64] | None = None
    seconds: NDArray[np.float64] | None = None
    intervals: tuple[Interval, ...] = ()
    change_sigma_seconds: float = 0.0
    unedited: KeptPictures | None = None


class ChangeStream:
    """What an edit changes in a face's crop, steadied in time, frame by frame.

    An edit shall look the same from frame to frame, but the flow between two generated pictures and
    what remains after moving are estimated for every frame anew, and shake. So they are averaged
    in the crop, where the face stands still, over the frames around. Changes are in proportion to
    the strength of the edit: they are averaged per unit of strength and scaled by the frame's own,
    so a strength over time stays as it was written. Only the changes within the kernel are kept,
    and with a `pool` those of the next `ahead` batches.
    """

    def __init__(
        self,
        face: EditedFace,
        method: Method,
        *,
        batch_size: int,
        device: torch.device | str,
        pool: Executor | None = None,
        ahead: int = 0,
    ) -> None:
        self._face, self._method, self._device = face, method, device
        self._batch_size = batch_size
        self._kept: dict[int, Tensor] = {}
        self._pool, self._ahead = pool, ahead
        self._coming: dict[int, Future[dict[int, Tensor]]] = {}

    def at(self, position: int) -> NDArray[np.float32]:
        """Return the change at one of the track's positions, as from `measure_change`."""
        weights = self._weights(position)
        first = min(weights)
        for gone in [p for p in self._kept if p < first]:
            del self._kept[gone]
        for place in weights:
            if place not in self._kept:
                self._generate(place)
        strength = self._face.strength
        total = sum(weight * strength[p] for p, weight in weights.items())
        steady = torch.zeros_like(self._kept[position])
        for place, weight in weights.items():
            share = weight * strength[position] / total
            steady.add_(self._kept[place], alpha=float(share))
        return steady.numpy()

    def _weights(self, position: int) -> dict[int, float]:
        """Return the frames that count at a position, within its run, and their weights."""
        face = self._face
        if face.change_sigma_seconds == 0 or face.seconds is None:
            return {position: 1.0}
        run = next(run for run in face.intervals if position in run)
        apart = (face.seconds[run.start : run.stop] - face.seconds[position]) / (
            face.change_sigma_seconds
        )
        near = np.flatnonzero((np.abs(apart) <= CHANGE_REACH) & self._shown(run))
        return {int(run.start + k): float(np.exp(-0.5 * apart[k] ** 2)) for k in near}

    def _shown(self, run: Interval) -> NDArray[np.bool_]:
        return self._face.strength[run.start : run.stop] > 0

    def _generate(self, position: int) -> None:
        """Generate the batch that a position belongs to, the same one wherever rendering began."""
        start = position - position % self._batch_size
        if self._pool is not None:
            last = min(start + self._ahead * self._batch_size, len(self._face.strength) - 1)
            for coming in range(start, last + 1, self._batch_size):
                if coming not in self._coming:
                    self._coming[coming] = self._pool.submit(self._measure, coming)
            self._kept.update(self._coming.pop(start).result())
        else:
            self._kept.update(self._measure(start))

    @torch.inference_mode()
    def _measure(self, start: int) -> dict[int, Tensor]:
        """Return the changes at the positions of a batch where the edit shows."""
        face = self._face
        batch = np.arange(start, min(start + self._batch_size, len(face.strength)))
        shown = batch[face.strength[batch] > 0]
        if len(shown) == 0:
            return {}
        before = self._unedited(batch)[shown - start]
        after = self._draw(face.edited.at(shown))
        guide = face.inversion.mask.guide
        changes: dict[int, Tensor] = {}
        for k, place in enumerate(shown.tolist()):
            source = None if guide is None else guide[place, 0].numpy()
            changes[place] = torch.as_tensor(measure_change(before[k], after[k], source))
        return changes

    def _unedited(self, batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        kept = self._face.unedited
        if kept is None:
            return self._draw(self._face.inversion.latents.at(batch))
        return read_pictures(kept, batch)

    def _draw(self, codes: Tensor) -> NDArray[np.uint8]:
        return images.to_uint8(self._method.generate(codes.to(self._device)))


@torch.inference_mode()
def draw_unedited(
    latents: Latents, method: Method, *, batch_size: int, device: torch.device | str = "cpu"
) -> KeptPictures:
    """Draw the pictures of a track's codes that every edit of it starts from, and keep them.

    Args:
        latents: the codes as they are rendered: steadied.
        method: what made them.
        batch_size: as for rendering: the last bits of a picture depend on it.
        device: where the networks live.
    """
    encoded: list[bytes] = []
    for start in range(0, len(latents.indices), batch_size):
        batch = np.arange(start, min(start + batch_size, len(latents.indices)))
        pictures = images.to_uint8(method.generate(latents.at(batch).to(device)))
        encoded.extend(images.encode_png(picture) for picture in pictures)
    return KeptPictures(encoded=tuple(encoded), codes_sha256=latents.sha256)


def read_pictures(kept: KeptPictures, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the kept pictures at K of the track's positions: (K, R, R, 3).

    Raises:
        AnalysisError: one of them is damaged.
    """
    try:
        return np.stack([images.decode_png(kept.encoded[k]) for k in positions.tolist()])
    except ValueError as error:
        raise AnalysisError(
            f"The analysis holds a damaged picture ({error}); analyse the clip again with "
            "--save-analysis."
        ) from error


def measure_change(
    before: NDArray[np.uint8], after: NDArray[np.uint8], source: NDArray[np.uint8] | None
) -> NDArray[np.float32]:
    """Split what an edit changes in a generated face into motion and what motion cannot explain.

    Moving the source's own pixels keeps their detail, and does not leave the old mouth or contour
    behind the new one, as adding the whole change would.

    Args:
        before: (R, R, 3) the generator's picture, unedited.
        after: (R, R, 3) the same, edited.
        source: the crop itself, (R, R, 3) or grey of any size; where the unedited picture is far
            from it, what remains after moving belongs to another mouth or brow and is faded out.
            None trusts the picture everywhere.

    Returns:
        (R, R, 5): the flow in crop pixels, edited(p) comes from unedited(p + flow(p)), and the rest
        in grey levels, to be added after moving.
    """
    size = before.shape[0]
    sigma = FLOW_BLUR * size
    flow = blur(optical_flow(after, before), sigma=sigma)
    rest = after - displace(before.astype(np.float32), flow)
    if source is not None:
        if source.ndim == 3:
            error = np.abs(before.astype(np.float32) - source).mean(axis=2)
        else:
            seen = images.resize_picture(to_grey(before), source.shape[0])
            error = np.abs(seen.astype(np.float32) - source)
        beyond = blur(error, sigma=2 * FLOW_BLUR * error.shape[0]) - np.float32(TRUSTED_ERROR)
        doubt = np.square(np.maximum(beyond, 0.0) / np.float32(DOUBTED_ERROR))
        trust = images.resize_picture(np.exp(-doubt), size)
        rest = rest * displace(trust, flow)[..., None]
    return np.concatenate([flow, rest], axis=2, dtype=np.float32)


def drop_small(change: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fade what hardly changes (R, R, 3), in grey levels: faint patterns on a plain wall.

    A change as large as `SMALL_CHANGE` around a pixel is halved, three times as large is kept by
    nine tenths.
    """
    size = blur(largest_channel(change), sigma=FLOW_BLUR * change.shape[0])
    power = np.square(size)
    share = power / (power + SMALL_CHANGE**2)
    return np.multiply(change, share[..., None], dtype=np.float32)


@cache
def head_window(size: int) -> NDArray[np.float32]:
    """Return (size, size) in [0, 1]: 1 on a head in FFHQ framing with its hair, 0 well outside."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    radius = np.hypot((axis[None, :] - 0.5) / 0.36, (axis[:, None] - 0.52) / 0.47)
    return np.clip((1.2 - radius) / 0.3, 0.0, 1.0).astype(np.float32)


def show_change(
    change: NDArray[np.float32], share: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hold a change back in the mask, off the head, and where it is faint.

    Args:
        change: (R, R, 5) as from `measure_change`.
        share: (R, R, 1) in [0, 1], how far the edit shall be visible.

    Returns:
        The flow (R, R, 2) and the rest (R, R, 3), both 0 where the share is 0.
    """
    share = share * head_window(share.shape[0])[..., None]
    soft = blur(share[..., 0], sigma=FLOW_BLUR * share.shape[0])[..., None]
    # Nothing moves on the crop's border or inside what is kept.
    flow = np.multiply(change[..., :2] * soft, share, dtype=np.float32)
    return flow, np.multiply(drop_small(change[..., 2:]), share, dtype=np.float32)
