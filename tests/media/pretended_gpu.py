"""A stand-in for a GPU that decodes: the CPU's frames, with chroma interleaved as a GPU's are."""

import sys

import av.error
import numpy as np
from av.video.frame import VideoFrame

from vidinvert.media.containers import decoded_frames
from vidinvert.media.planes import view_planes

hardware_module = sys.modules["vidinvert.media.hardware"]


def interleave(frame: VideoFrame, *, bare: bool = False) -> VideoFrame:
    """nv12 of 8 bits, p010le of 10, sample by sample; `bare` loses times and tags."""
    planes = view_planes(frame)
    deep = planes[0].dtype == np.uint16
    given = "p010le" if deep else "nv12"
    made = VideoFrame(frame.width, frame.height, given) if bare else frame.reformat(format=given)
    luma, chroma = (
        np.frombuffer(memoryview(plane), dtype="<u2" if deep else "u1").reshape(plane.height, -1)
        for plane in made.planes
    )
    shift = 6 if deep else 0
    luma[:, : frame.width] = planes[0] << shift
    width = planes[1].shape[1]
    chroma[:, : 2 * width : 2] = planes[1] << shift
    chroma[:, 1 : 2 * width : 2] = planes[2] << shift
    return made


class PretendedGpu:
    """Put in the place of the hardware by `install`; counts the frames that it decoded.

    `wrong`, `ends`, `fails`: the frame that has one other sample, that does not come any more, at
    which the driver gives an error. `bare`: frames come without tags.
    """

    def __init__(self, *, wrong=-1, ends=-1, fails=-1, bare=False):
        self.wrong, self.ends, self.fails, self.bare = wrong, ends, fails, bare
        self.decoded = 0

    def install(self, monkeypatch):
        monkeypatch.setattr(hardware_module, "check_hardware", lambda kind, *, device="": None)
        monkeypatch.setattr(hardware_module, "_accelerator", lambda kind, device: None)
        monkeypatch.setattr(hardware_module, "decoded_frames", self._frames)
        return self

    def _frames(self, container, stream, path):
        for index, frame in enumerate(decoded_frames(container, stream, path)):
            if index == self.ends:
                return
            if index == self.fails:
                raise av.error.ExternalError(542398533, "Generic error in an external library")
            made = interleave(frame, bare=self.bare)
            if index == self.wrong:
                samples = np.frombuffer(memoryview(made.planes[1]), dtype=np.uint8)
                samples[1] ^= 128
            self.decoded += 1
            yield made
