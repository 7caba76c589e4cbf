"""Decode a clip: every frame once, upright, RGB, in order, in bounded memory.

decord reads the clips that pass the preflight of `probe`; PyAV reads the others, and all of them
where decord is not installed. decord 0.6 conceals damage and reads ahead without bound, so it is
given the clip one stretch between IDR pictures at a time (`segments`). PyAV decodes the same
stretch without turning it into RGB, for the times and the damage marks; its first and last picture
must equal decord's. If decord fails, PyAV takes over at the frame that is due.

Where a GPU may help, it decodes what was decoded before, and is checked (`hardware`).

Asked for what the file stores, frames come with their planes: PyAV's, which decoded them anyway.
"""

import importlib
import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.errors import DecodeError
from vidinvert.media.containers import (
    VideoPacket,
    damaged,
    decode_packet,
    decoded_frames,
    main_video_stream,
    open_input,
    pixel_bound,
    shown,
    video_packets,
)
from vidinvert.media.damage import pick
from vidinvert.media.hardware import HardwareDecoder, HardwareError
from vidinvert.media.planes import is_planar, read_planes
from vidinvert.media.segments import begins_afresh, cut, min_frames, write_segment
from vidinvert.types import FrameBatch, StoredFrame, UInt8Array, UInt16Array, VideoInfo


class _DecordFailedError(Exception):
    """decord did not deliver the frame that is due."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Picture:
    """One frame in RGB (H, W, 3), and as PyAV decoded it where that is wanted."""

    rgb: UInt8Array
    decoded: VideoFrame | None = None


def load_decord() -> ModuleType | None:
    """Import decord, None where it is not installed or does not load."""
    try:
        decord = importlib.import_module("decord")
    except (ImportError, OSError, RuntimeError):  # RuntimeError: its shared library is missing
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def decode(
    info: VideoInfo,
    *,
    batch_size: int = 8,
    start: int = 0,
    stop: int | None = None,
    stored: bool = False,
    hardware: HardwareDecoder | None = None,
) -> Iterator[FrameBatch]:
    """Yield the frames [start, stop) in batches of `batch_size`, the last one shorter.

    Closing the iterator early releases the file and the decoder.

    Args:
        info: the clip, as `probe` found it.
        batch_size: frames per batch.
        start: index of the first frame.
        stop: index behind the last frame, None = the end of the clip.
        stored: give the frames as the file holds them as well (`FrameBatch.stored`), and at their
            own depth where that is more than 8 bits; not for layouts such as palettes.
        hardware: decodes in place of the CPU what this clip's passes before have decoded.

    Raises:
        ValueError: `batch_size` or the range makes no sense for this clip.
        OpenError: the file is gone or is no longer a video.
        DecodeError: a frame is damaged or missing, or the file has changed since `probe`.
    """
    end = info.frame_count if stop is None else stop
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    if not 0 <= start <= end <= info.frame_count:
        raise ValueError(
            f"frames [{start}, {end}) were asked for, expected a range within "
            f"[0, {info.frame_count})"
        )
    frames = _frames(info, start, end, stored=stored, hardware=hardware)
    return _batches(info, frames, batch_size=batch_size, start=start, stop=end)


def _batches(
    info: VideoInfo,
    pictures: Generator[_Picture, None, None],
    *,
    batch_size: int,
    start: int,
    stop: int,
) -> Generator[FrameBatch, None, None]:
    if start == stop:
        return
    with closing(pictures) as frames:
        for first in range(start, stop, batch_size):
            indices = np.arange(first, min(first + batch_size, stop), dtype=np.int64)
            stack = np.empty((len(indices), *info.size_hw, 3), dtype=np.uint8)  # (N, H, W, 3)
            kept: list[StoredFrame] = []
            for place in range(len(indices)):
                picture = next(frames)
                stack[place] = _upright(picture.rgb, info)
                if picture.decoded is not None:
                    kept.append(_store(picture.decoded, info, stack[place]))
            if first + batch_size >= stop:
                next(frames, None)  # at the clip's end: were these all?
            deep = _stack_deep(kept) if kept and info.bit_depth > 8 else None
            if deep is not None:  # the batch's own array, so that an unpainted frame is known
                kept = [replace(one, picture=deep[k]) for k, one in enumerate(kept)]
            yield FrameBatch(frames=stack, indices=indices, stored=tuple(kept), deep=deep)


def _stack_deep(stored: list[StoredFrame]) -> UInt16Array:
    return np.stack([np.asarray(one.picture, dtype=np.uint16) for one in stored])


def _frames(
    info: VideoInfo, start: int, stop: int, *, stored: bool, hardware: HardwareDecoder | None
) -> Generator[_Picture, None, None]:
    """Yield frames; by a GPU where it may, else by the CPU, from where the GPU failed."""
    due = start
    stored = stored and is_planar(info.pixel_format)
    if hardware is not None and hardware.knows(start, stop):
        try:
            with closing(hardware.read(start, stop)) as decoded:
                for one in decoded:
                    rgb = _to_rgb(one, info, due)
                    hardware.accept(due, rgb)
                    yield _Picture(rgb=rgb, decoded=one if stored else None)
                    due += 1
            return
        except HardwareError:
            pass  # the CPU goes on with the frame that is due
    by_cpu = _frames_by_cpu(info, due, stop, stored=stored, hardware=hardware)
    with closing(by_cpu) as frames:
        for index, picture in enumerate(frames, start=due):
            if hardware is not None:
                hardware.note_picture(index, picture.rgb)
            yield picture


def _frames_by_cpu(
    info: VideoInfo, start: int, stop: int, *, stored: bool, hardware: HardwareDecoder | None
) -> Generator[_Picture, None, None]:
    """Yield frames; decord first where it was chosen, PyAV from where it failed."""
    due = start
    decord = load_decord() if info.reader == "decord" else None
    if decord is not None:
        try:
            by_decord = _frames_by_decord(decord, info, due, stop, stored=stored, hardware=hardware)
            with closing(by_decord) as frames:
                for frame in frames:
                    yield frame
                    due += 1
            return
        except _DecordFailedError:
            pass  # PyAV is the reader of record and goes on with the frame that is due
    with closing(_frames_by_pyav(info, due, stop, stored=stored, hardware=hardware)) as frames:
        yield from frames


def _upright(frame: UInt8Array, info: VideoInfo) -> UInt8Array:
    return np.rot90(frame, k=info.rotation_deg // 90) if info.rotation_deg else frame


def _store(decoded: VideoFrame, info: VideoInfo, picture: UInt8Array) -> StoredFrame:
    """Keep a frame's planes beside its upright picture, which has 16 bits where 8 are too few."""
    if info.bit_depth == 8:
        return StoredFrame(
            pixel_format=decoded.format.name, planes=read_planes(decoded), picture=picture
        )
    deep = np.asarray(decoded.to_ndarray(format="rgb48le"), dtype=np.uint16)
    return StoredFrame(
        pixel_format=decoded.format.name,
        planes=read_planes(decoded),
        picture=np.rot90(deep, k=info.rotation_deg // 90),
    )


def _frames_by_pyav(
    info: VideoInfo, start: int, stop: int, *, stored: bool, hardware: HardwareDecoder | None
) -> Generator[_Picture, None, None]:
    """Yield frames as stored; the ones before `start` are decoded but not converted.

    Seeking is not used: it lands on the wrong frame in open groups of pictures, fragmented MP4 and
    transport streams.
    """
    count = 0
    with _opened(info) as container:
        stream = _video(container, info)
        found = (
            decoded_frames(container, stream, info.path)
            if info.salvage is None
            else pick(container, stream, info.salvage.places)
        )
        with closing(found) as frames:
            for frame in frames:
                if count == info.frame_count:
                    raise _other_count(info, "more frames")
                if count >= start:
                    rgb = _to_rgb(frame, info, count)
                    if hardware is not None:
                        hardware.note(count, frame)
                    yield _Picture(rgb=rgb, decoded=frame if stored else None)
                count += 1
                if count == stop and stop < info.frame_count:
                    return
    if count != info.frame_count:
        raise _other_count(info, f"only {count} frames, {count} to {info.frame_count - 1} missing")


def _frames_by_decord(
    decord: ModuleType,
    info: VideoInfo,
    start: int,
    stop: int,
    *,
    stored: bool,
    hardware: HardwareDecoder | None,
) -> Generator[_Picture, None, None]:
    """Yield frames as stored, one segment at a time."""
    first = 0
    frame_bytes = 3 * info.size_hw[0] * info.size_hw[1]
    with _opened(info) as container, _scratch_directory() as directory:
        stream = _video(container, info)
        begins = begins_afresh(stream)
        if begins is None:
            raise _DecordFailedError
        packets = video_packets(container, stream, info.path)
        for segment in cut(packets, begins, at_least=min_frames(frame_bytes)):
            behind = first + len(segment)
            if behind > start:
                decoded = _verified(segment, stream, info, first, keep=stored, hardware=hardware)
                frames = _segment_frames(
                    decord, segment, stream, info, first, directory, decoded, stored=stored
                )
                with closing(frames):
                    for index, frame in enumerate(frames, start=first):
                        if index >= stop:
                            return
                        if index >= start:
                            yield frame
            first = behind
            if first >= stop and stop < info.frame_count:
                return
    if first != info.frame_count:
        raise _other_count(info, f"{first} frames")


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    try:
        directory = TemporaryDirectory(prefix="vidinvert-", ignore_cleanup_errors=True)
    except OSError as error:  # no room there: decord cannot be used
        raise _DecordFailedError from error
    with directory as name:
        yield Path(name)


def _segment_frames(
    decord: ModuleType,
    packets: list[VideoPacket],
    stream: VideoStream,
    info: VideoInfo,
    first: int,
    directory: Path,
    decoded: dict[int, VideoFrame],
    *,
    stored: bool,
) -> Generator[_Picture, None, None]:
    """Yield a segment's frames by decord, its first and last one compared with PyAV's.

    Where their planes are wanted, `decoded` holds all frames of the segment, at most half of
    READ_AHEAD_BYTES, and lets go of those that were yielded.
    """
    last = len(packets) - 1
    expected = [_to_rgb(decoded[place], info, first + place) for place in (0, last)]
    path = directory / f"{first}.mp4"
    reader = None
    try:
        write_segment(packets, stream, path)
        # One thread: VP9 dies with more. The tolerance makes a replaced frame an error.
        reader = decord.VideoReader(os.fspath(path), num_threads=1, fault_tol=1e-9)
        if len(reader) != len(packets):
            raise _DecordFailedError
        for place in range(len(packets)):  # in order only: its seeking is not exact
            frame = reader[place].asnumpy()
            if place == 0 and not np.array_equal(frame, expected[0]):
                raise _DecordFailedError
            if place == len(packets) - 1 and not np.array_equal(frame, expected[1]):
                raise DecodeError(
                    f"Frame {first + place} of {shown(info.path)} differs between decord and PyAV, "
                    "expected the same picture; uninstall decord, PyAV then reads alone"
                )
            yield _Picture(rgb=frame, decoded=decoded.pop(place) if stored else None)
    except (decord.DECORDError, av.error.FFmpegError, RuntimeError, OSError, IndexError) as error:
        raise _DecordFailedError from error
    finally:
        del reader  # ends its threads before the file goes
        path.unlink(missing_ok=True)


def _verified(
    packets: list[VideoPacket],
    stream: VideoStream,
    info: VideoInfo,
    first: int,
    *,
    keep: bool,
    hardware: HardwareDecoder | None,
) -> dict[int, VideoFrame]:
    """Decode a segment by PyAV, check times and damage; return its first and last frame, or all."""
    count = len(packets)
    seen = 0
    frames: dict[int, VideoFrame] = {}
    for packet in [*packets, None]:
        for frame in decode_packet(stream, packet, info.path, first + seen):
            index = first + seen
            if index >= info.frame_count or frame.pts != info.pts[index]:
                raise _DecordFailedError
            if hardware is not None:
                hardware.note(index, frame)
            if not keep and seen > 1:
                frames.pop(seen - 1, None)
            frames[seen] = frame
            seen += 1
    stream.codec_context.flush_buffers()
    if seen != count:
        raise damaged(info.path, f"frames {first + seen} to {first + count - 1}")
    return frames


def _to_rgb(frame: VideoFrame, info: VideoInfo, index: int) -> UInt8Array:
    if (frame.height, frame.width) != info.coded_size_hw:
        height, width = info.coded_size_hw
        raise DecodeError(
            f"Frame {index} of {shown(info.path)} is {frame.width}x{frame.height}, expected "
            f"{width}x{height} throughout; convert the clip to one size first"
        )
    return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def _opened(info: VideoInfo) -> InputContainer:
    return open_input(info.path, max_pixels=pixel_bound(info))


def _video(container: InputContainer, info: VideoInfo) -> VideoStream:
    return main_video_stream(container, info.path, max_pixels=pixel_bound(info))


def _other_count(info: VideoInfo, seen: str) -> DecodeError:
    return DecodeError(
        f"{shown(info.path)} decodes to {seen}, expected {info.frame_count} frames as when it was "
        "opened; get an undamaged copy, or run again if the file was still being written"
    )
