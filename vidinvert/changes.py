"""What an edit changes in a face's crop: how its pixels move, and what remains."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import (
    FlowFilter,
    GaussianFilter,
    Interval,
    Link,
    link_pictures,
    measured_positions,
    smooth_fields,
)
from vidinvert import images
from vidinvert.clock import Clock
from vidinvert.errors import AnalysisError
from vidinvert.geometry import (
    blur,
    displace,
    fine_flow,
    largest_channel,
    optical_flow,
    split_motion,
    to_grey,
)
from vidinvert.methods import Method, sketch
from vidinvert.mouths import OpenMouth, open_mouth, part_lips
from vidinvert.types import (
    Alignment,
    FaceMotion,
    Inversion,
    KeptPictures,
    Latents,
    MovedLatents,
)
from vidinvert.warps import spread_moves

FLOW_BLUR = 3 / 256  # of the crop's side: the flow's smoothing in space
TRUSTED_ERROR = 10.0  # grey levels between source and inversion that cost no trust
DOUBTED_ERROR = 7.0  # beyond it: at which trust falls to 1 / e
SMALL_CHANGE = 3.0  # grey levels; a remaining change much smaller than this is not shown
CHANGE_REACH = 2.5  # standard deviations after which a frame's change no longer counts
BLOCK = 64  # frames whose changes are steadied at once along the flow
# Blocks begin short, each twice as long as the one before, so that rendering begins soon; and none
# is longer than half of what is left, so that little is left to composite when all is drawn.
FIRST_BLOCK = 16
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G and B (BT.601)
COLOUR_SHARE = 0.2  # of a change of colour, where colours are kept
BROAD = 0.05  # of the crop's side: changes of light beyond this size are broad
SWEEP = 0.02  # of the crop's side: over which motion is averaged, where colours are kept
BROAD_LIGHT = 6.0  # grey levels at which a broad change of light is halved
LIPS_KEPT = 0.8  # of what an edit that keeps colours would change on lips: they stay as they are
APART = 0.21  # seconds, five frames of film: what an edit changes is found no farther apart
LEAD = 4.0  # time constants around a block that count: what is beyond weighs below 2 %


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedFace:
    """All that is needed to render one track.

    `strength` (T,): sum of the absolute edit strengths at each of the track's frames; frames where
    it is 0 are left alone unless the composite is `generated`. `presence` (T,) in [0, 1]: how far
    the generator's picture is shown where a face comes or goes; None = everywhere.
    `change_filter`: how the warped composite averages what an edit changes over time, at the
    track's `seconds` (T,) and within its unbroken `intervals`; None = each frame by itself.
    `unedited`: the generator's pictures of `inversion.latents`; None = drawn when they are needed.
    `motion`: how the landmarks are moved by the warped composite, which then compares the pictures
    of `beside_motion` and not of `edited`; None = only as the pictures show it.
    `mouth` (T, 2, 2): its corners as detected, in shares of the crop; None = as `motion` has them.
    `colour_kept` (T,) in [0, 1]: how far the warped composite holds broad changes of colour and
    light back (`keep_colour`) and moves in broad sweeps (`sweep`); None = nowhere.
    """

    alignment: Alignment
    inversion: Inversion
    edited: Latents | MovedLatents
    strength: NDArray[np.float64]
    presence: NDArray[np.float64] | None = None
    seconds: NDArray[np.float64] | None = None
    intervals: tuple[Interval, ...] = ()
    change_filter: GaussianFilter | FlowFilter | None = None
    unedited: KeptPictures | None = None
    motion: FaceMotion | None = None
    beside_motion: Latents | MovedLatents | None = None
    mouth: NDArray[np.float64] | None = None
    colour_kept: NDArray[np.float64] | None = None


class ChangeStream:
    """What an edit changes in a face's crop, steadied in time, frame by frame.

    An edit shall look the same from frame to frame, but the flow between two generated pictures and
    what remains after moving are estimated for every frame anew, and shake. So they are averaged
    over the frames around: in the crop, where the face nearly stands still, or along the flow of
    the crop's own pictures, so that the change stays on a cheek that turns and a lip that speaks.
    Changes are in proportion to the strength of the edit: they are averaged per unit of strength
    and scaled by the frame's own, so a strength over time stays as it was written. Only the changes
    that count are kept, and with a `pool` those of the next `ahead` batches. The same comes out
    wherever rendering began.

    Along flow, frames between others at most `APART` apart take their change from these
    (`drawn_positions`).
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
        clock: Clock | None = None,
    ) -> None:
        self._face, self._method, self._device = face, method, device
        self._batch_size = batch_size
        self._kept: dict[int, Tensor] = {}
        self._pool, self._ahead = pool, ahead
        self._clock = Clock() if clock is None else clock
        self._coming: dict[int, Future[dict[int, Tensor]]] = {}
        self._links: dict[int, Link] = {}
        self._block = range(0)
        self._steady = torch.empty(0)
        self._beside = None if pool is None else ThreadPoolExecutor(1, "steady")
        self._next: tuple[range, Future[Tensor]] | None = None
        self._motion, self._opening = face.motion, None
        self._opened: dict[int, OpenMouth] = {}  # of the last position alone
        if face.motion is not None:
            kept = 0.0 if face.colour_kept is None else face.colour_kept
            self._opening = part_lips(
                face.motion,
                face.inversion.mask.guide,
                corners=face.mouth,
                painted=1.0 - LIPS_KEPT * kept,
                seconds=face.seconds,
                intervals=face.intervals,
            )
        if self._opening is not None:
            self._motion = self._opening.rest
        follows = follows_pictures(face.change_filter, face.inversion) and face.seconds is not None
        self._guide = face.inversion.mask.guide if follows else None
        self._side = None if self._guide is None else int(self._guide.shape[-1])
        grid = drawn_positions(
            face.inversion, face.change_filter, seconds=face.seconds, intervals=face.intervals
        )
        self._grid = np.flatnonzero(grid)
        shows = face.strength > 0
        lonely = shows & ~(np.roll(shows, 1) & np.roll(shows, -1))  # to one side nothing shows
        self._counts = shows & (grid | lonely)

    @property
    def size(self) -> int:
        """The side R of the changes in pixels: the crop's, or that of the pictures followed."""
        return self._method.crop_size if self._side is None else self._side

    def close(self) -> None:
        """Stop what is computed ahead."""
        if self._beside is not None:
            self._beside.shutdown(wait=False, cancel_futures=True)

    def at(self, position: int) -> NDArray[np.float32]:
        """Return the change (R, R, 5) at one of the track's positions, as from `measure_change`.

        R is `size`, and the flow is in pixels of that picture.
        """
        change = self._average(position)
        kept = 0.0 if self._face.colour_kept is None else float(self._face.colour_kept[position])
        if kept > 0:
            flow = change[..., :2]
            flow += np.float32(kept) * (sweep(flow) - flow)
        mouth = None if self._opening is None else self._open(position)
        if mouth is not None:
            change *= mouth.painted
        if self._motion is not None:  # from steady codes: nothing in it shakes
            change[..., :2] += flow_of(self._motion, position, size=change.shape[0])
        if mouth is not None:
            change[..., :2] += mouth.flow
        return change

    def mouth_at(self, position: int) -> NDArray[np.float32] | None:
        """Return what is seen between lips that part, (R, R, 4) as for `paste`; None = nothing."""
        if self._opening is None or self._opening.gap[position] == 0:
            return None
        return self._open(position).inside

    def _open(self, position: int) -> OpenMouth:
        assert self._opening is not None
        if position not in self._opened:
            mouth = open_mouth(self._opening, position, size=self.size)
            self._opened = {position: mouth}
        return self._opened[position]

    def _average(self, position: int) -> NDArray[np.float32]:
        filter_ = self._face.change_filter
        if isinstance(filter_, FlowFilter) and self._guide is not None:
            return self._along_flow(position, filter_, self._guide)
        weights = self._weights(position)
        self._forget(min(weights))
        for place in weights:
            self._need(place)
        strength = self._face.strength
        total = sum(weight * strength[p] for p, weight in weights.items())
        steady = torch.zeros_like(self._kept[position])
        for place, weight in weights.items():
            share = weight * strength[position] / total
            steady.add_(self._kept[place], alpha=float(share))
        return steady.numpy()

    def _weights(self, position: int) -> dict[int, float]:
        """Return the frames that count at a position, within its run, and their weights."""
        face, filter_ = self._face, self._face.change_filter
        if not isinstance(filter_, GaussianFilter | FlowFilter) or face.seconds is None:
            return {position: 1.0}
        # Without pictures to follow, a Gaussian as wide as the kernel along the flow.
        still = filter_ if isinstance(filter_, GaussianFilter) else filter_.in_place()
        sigma = still.sigma_seconds
        if sigma == 0:
            return {position: 1.0}
        run = next(run for run in face.intervals if position in run)
        apart = (face.seconds[run.start : run.stop] - face.seconds[position]) / sigma
        near = np.flatnonzero((np.abs(apart) <= CHANGE_REACH) & self._shown(run))
        return {int(run.start + k): float(np.exp(-0.5 * apart[k] ** 2)) for k in near}

    def _shown(self, run: Interval) -> NDArray[np.bool_]:
        return self._face.strength[run.start : run.stop] > 0

    def _along_flow(self, position: int, filter_: FlowFilter, guide: Tensor) -> NDArray[np.float32]:
        """Take a position from the block of frames that was steadied together with it."""
        if position not in self._block:
            run = next(run for run in self._face.intervals if position in run)
            self._block = _block_of(run, position)
            self._steady = self._take_block(run, self._block, filter_, guide)
        steady = self._steady[position - self._block.start].permute(1, 2, 0).float()
        return np.ascontiguousarray(steady.numpy())

    def _take_block(
        self, run: Interval, block: range, filter_: FlowFilter, guide: Tensor
    ) -> Tensor:
        """Steady a block; with a pool, the one after it while this one is composited."""
        if self._beside is None:
            return self._steady_block(run, block, filter_, guide)
        if self._next is None or self._next[0] != block:
            future = self._beside.submit(self._steady_block, run, block, filter_, guide)
        else:
            future = self._next[1]
        steady = future.result()
        self._next = None
        if block.stop == run.stop:
            return steady
        after = _block_of(run, block.stop)
        if (self._face.strength[after.start : after.stop] > 0).any():
            ahead = self._beside.submit(self._steady_block, run, after, filter_, guide)
            self._next = after, ahead
        return steady

    @torch.inference_mode()
    def _steady_block(
        self, run: Interval, block: range, filter_: FlowFilter, guide: Tensor
    ) -> Tensor:
        """Average a block of changes, with as many around it as count: half (B, 5, h, w).

        They are averaged at the size of the pictures: the flow is known no finer.
        """
        face, seconds = self._face, self._face.seconds
        assert seconds is not None
        lead = LEAD * filter_.time_seconds
        ends = (seconds[block.start] - lead, seconds[block.stop - 1] + lead)
        first, last = (int(np.searchsorted(seconds, end)) for end in ends)
        around = range(max(first, run.start), min(last, run.stop))
        self._forget(around.start)
        # Asked for first: what is drawn ahead for later blocks would be done before them.
        links = self._link(
            [place for place in around[:-1] if place not in self._links], filter_, guide
        )
        side = int(guide.shape[-1])
        fields = torch.zeros(len(around), 5, side, side)
        for k, place in enumerate(around):
            if self._counts[place]:
                fields[k] = self._need(place).float().permute(2, 0, 1)
        self._links.update(links)
        steady = smooth_fields(
            fields,
            (face.strength * self._counts)[around.start : around.stop],
            seconds[around.start : around.stop],
            [self._links[place] for place in around[:-1]],
            time_seconds=filter_.time_seconds,
            displacements=2,
            interpolation="bicubic",
        )
        inside = slice(block.start - around.start, block.stop - around.start)
        strength = torch.as_tensor(face.strength[block.start : block.stop]).float()
        return (steady[inside] * strength[:, None, None, None]).half()

    def _link(
        self, places: list[int], filter_: FlowFilter, guide: Tensor
    ) -> Iterator[tuple[int, Link]]:
        """Join the pictures at some places to the next ones, several at once with a pool."""

        def link(place: int) -> Link:
            pair = guide[place, 0].numpy(), guide[place + 1, 0].numpy()
            return link_pictures(*pair, fine_flow, levels=filter_.levels)

        at_once = map if self._pool is None else self._pool.map
        return zip(places, at_once(link, places), strict=True)

    def _forget(self, first: int) -> None:
        for kept in (self._kept, self._links):
            for gone in [place for place in kept if place < first]:
                del kept[gone]

    def _need(self, position: int) -> Tensor:
        """Return one frame's change (R, R, 5); half and of the pictures' size along the flow."""
        if position not in self._kept:
            self._generate(position)
        return self._kept[position]

    def _generate(self, position: int) -> None:
        """Generate the batch that a position belongs to, the same one wherever rendering began."""
        place = int(np.searchsorted(self._grid, position))
        if place == len(self._grid) or self._grid[place] != position:
            self._kept.update(self._measure(np.array([position])))
            return
        number = place // self._batch_size
        if self._pool is None:
            self._kept.update(self._measure(self._batch(number)))
            return
        last = min(number + self._ahead, (len(self._grid) - 1) // self._batch_size)
        for coming in range(number, last + 1):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self._measure, self._batch(coming))
        self._kept.update(self._coming.pop(number).result())

    def _batch(self, number: int) -> NDArray[np.int64]:
        return self._grid[number * self._batch_size : (number + 1) * self._batch_size]

    @torch.inference_mode()
    def _measure(self, batch: NDArray[np.int64]) -> dict[int, Tensor]:
        """Return the changes at those positions of a batch where the edit shows."""
        face = self._face
        shows = face.strength[batch] > 0
        if not shows.any():
            return {}
        shown = batch[shows]
        moved = face.edited if face.beside_motion is None else face.beside_motion
        before, after = self._unedited(batch)[shows], self._draw(moved.at(shown))
        guide = face.inversion.mask.guide
        changes: dict[int, Tensor] = {}
        for k, place in enumerate(shown.tolist()):
            source = None if guide is None else guide[place, 0].numpy()
            kept = 0.0 if face.colour_kept is None else float(face.colour_kept[place])
            with self._clock.measure("measure change"):
                if self._side is None:
                    change = measure_change(before[k], after[k], source, colour_kept=kept)
                    changes[place] = torch.as_tensor(change)
                    continue
                # Averaged along a flow it is known no finer than the pictures that are followed.
                small = [images.resize_picture(one[k], self._side) for one in (before, after)]
                change = measure_change(*small, source, fine=True, colour_kept=kept)
                changes[place] = torch.as_tensor(change).half()
        return changes

    def _unedited(self, batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pictures of a batch's unedited codes: kept ones are the same to the last bit.

        So they are drawn by themselves, as `draw_unedited` draws them.
        """
        kept = self._face.unedited if self._side is not None else None  # they are sketches
        if kept is not None and kept.hold(batch):
            return read_pictures(kept, batch)
        return self._draw(self._face.inversion.latents.at(batch))

    def _draw(self, codes: Tensor) -> NDArray[np.uint8]:
        """Return pictures (N, R, R, 3) of codes; sketches of them where flow is followed."""
        codes = images.to_device(codes, self._device)
        drawn = self._method.generate(codes) if self._side is None else sketch(self._method, codes)
        return images.to_uint8(drawn)


def _block_of(run: Interval, position: int) -> range:
    """Return the block of a run's positions that one belongs to, wherever rendering began."""
    start, least = run.start, min(FIRST_BLOCK, BLOCK)
    longest = least
    while True:
        left = run.stop - start
        size = left if left <= 3 * least // 2 else min(longest, max(least, left // 2))
        if position < start + size:
            return range(start, start + size)
        start, longest = start + size, min(2 * longest, BLOCK)


def drawn_positions(
    inversion: Inversion,
    filter_: GaussianFilter | FlowFilter | None,
    *,
    seconds: NDArray[np.float64] | None,
    intervals: Sequence[Interval],
) -> NDArray[np.bool_]:
    """Return (T,): True at the positions of a track whose pictures are drawn whatever the edit is.

    Args:
        inversion: the track's.
        filter_: of changes over time, see `EditedFace`.
        seconds: (T,) presentation times of the track's frames.
        intervals: the track's unbroken runs.
    """
    if not follows_pictures(filter_, inversion) or seconds is None:
        return np.ones(len(inversion.latents.indices), np.bool_)
    return measured_positions(seconds, intervals, apart_seconds=APART)


def follows_pictures(filter_: GaussianFilter | FlowFilter | None, inversion: Inversion) -> bool:
    """Whether changes are averaged along the flow of the track's own pictures.

    Then they are measured on sketches, at a part of the frames; otherwise on whole pictures of all.
    """
    flows = isinstance(filter_, FlowFilter) and filter_.time_seconds > 0
    return flows and inversion.mask.guide is not None


@torch.inference_mode()
def draw_unedited(
    latents: Latents,
    method: Method,
    *,
    batch_size: int,
    positions: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
) -> KeptPictures:
    """Sketch the pictures of a track's codes that every edit of it starts from, and keep them.

    Args:
        latents: the codes as they are rendered: steadied.
        method: what made them.
        batch_size: as for rendering: the last bits of a picture depend on it.
        positions: which of the T to draw, in order; None = all.
        device: where the networks live.
    """
    count = len(latents.indices)
    positions = np.arange(count) if positions is None else positions
    encoded = [b""] * count
    for start in range(0, len(positions), batch_size):
        batch = positions[start : start + batch_size]
        pictures = images.to_uint8(sketch(method, latents.at(batch).to(device)))
        for position, picture in zip(batch.tolist(), pictures, strict=True):
            encoded[position] = images.encode_png(picture)
    return KeptPictures(encoded=tuple(encoded), codes_sha256=latents.sha256)


def read_pictures(kept: KeptPictures, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the kept pictures at K of the track's positions: (K, r, r, 3).

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
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    source: NDArray[np.uint8] | None,
    *,
    fine: bool = False,
    colour_kept: float = 0.0,
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
        fine: match every pixel: for pictures that were made smaller, which it costs little and
            which then lose nothing.
        colour_kept: how far `keep_colour` is applied to what remains after moving.

    Returns:
        (R, R, 5): the flow in pixels, edited(p) comes from unedited(p + flow(p)), and the rest
        in grey levels, to be added after moving.
    """
    size = before.shape[0]
    estimate = fine_flow if fine else optical_flow
    flow, rest = split_motion(before, after, sigma=FLOW_BLUR * size, estimate=estimate)
    if colour_kept > 0:
        rest = rest + np.float32(colour_kept) * (keep_colour(rest) - rest)
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


def keep_colour(rest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hold broad changes of colour and light (R, R, 3), in grey levels, back.

    What a generator has learnt of age is also how pictures of old and young people are lit and
    toned, and at large strengths that becomes patches. Of colour `COLOUR_SHARE` stays; of light all
    fine changes, as wrinkles, and of broad ones ever less beyond `BROAD_LIGHT`.
    """
    light = np.asarray(rest @ LUMA, np.float32)
    broad = blur(light, sigma=BROAD * light.shape[0])
    fine = light - broad * (np.abs(broad) / (np.float32(BROAD_LIGHT) + np.abs(broad)))
    colour = rest - light[..., None]
    return np.asarray(np.float32(COLOUR_SHARE) * colour + fine[..., None], np.float32)


def sweep(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what is broad of a flow (R, R, 2).

    Who is older or younger has another shape of face, not another expression. Where a jaw moves
    over a neck that stays, the flow between two pictures of the generator tears, and the skin of a
    source that is not quite that picture would show it.
    """
    return blur(np.ascontiguousarray(flow), sigma=SWEEP * flow.shape[0])


def flow_of(motion: FaceMotion, position: int, *, size: int) -> NDArray[np.float32]:
    """Return the flow (R, R, 2) of a track's landmarks at one position, as in `measure_change`."""
    moves = size * motion.moves[position]
    return -spread_moves(size * motion.points[position] + moves, moves, size=size)


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
