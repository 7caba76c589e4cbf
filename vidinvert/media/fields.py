"""Say of frames that they are interlaced, which encoders want to know frame by frame."""

from fractions import Fraction
from typing import Literal

from av.filter import Graph
from av.video.frame import VideoFrame

FieldOrder = Literal["progressive", "top first", "bottom first"]

_MODES: dict[FieldOrder, str] = {"top first": "tff", "bottom first": "bff"}
_BOTTOM_IS_SHOWN_FIRST = frozenset({3, 4})  # AVFieldOrder: BB, and TB, which is stored top first


def field_order(frame: VideoFrame, stream_order: int) -> FieldOrder:
    """Return which field of a frame is shown first; `stream_order` is FFmpeg's AVFieldOrder."""
    if not frame.interlaced_frame:
        return "progressive"
    return "bottom first" if stream_order in _BOTTOM_IS_SHOWN_FIRST else "top first"


class FieldMarker:
    """Mark frames of one size and layout as interlaced; PyAV can only do so by a filter."""

    def __init__(self, order: FieldOrder, *, template: VideoFrame, time_base: Fraction) -> None:
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=template.width,
            height=template.height,
            format=template.format,
            time_base=time_base,
        )
        marker = self._graph.add("setfield", f"mode={_MODES[order]}")
        sink = self._graph.add("buffersink")
        source.link_to(marker)
        marker.link_to(sink)
        self._graph.configure()

    def mark(self, frame: VideoFrame) -> VideoFrame:
        """Return the frame, marked; its time and colour stay."""
        self._graph.push(frame)
        marked = self._graph.pull()
        assert isinstance(marked, VideoFrame)
        return marked


def field_options(encoder: str, order: FieldOrder) -> dict[str, str]:
    """Return the options by which an encoder writes fields; empty where it needs none."""
    if order == "progressive":
        return {}
    if encoder == "libx264":
        return {"flags": "+ildct+ilme", "x264-params": f"{_MODES[order]}=1"}
    return {"flags": "+ildct+ilme"} if encoder in ("prores_ks", "ffv1") else {}
