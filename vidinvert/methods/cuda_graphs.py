"""Recording passes as CUDA graphs; what is recorded, and when, `methods.graphed` decides."""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vidinvert.methods.graphed import Pass, Replay

WARM_UPS = 2  # libraries choose algorithms and take their workspace before anything is recorded
_ONE_AT_A_TIME = threading.Lock()  # torch records one graph in a process at once


class CudaCapture:
    """Records passes on one device; implements `vidinvert.methods.graphed.Capture`.

    All graphs of one object share a pool of memory for what lies between inputs and outputs, which
    is why no two may be played at once, and why a replay's outputs are to be copied before the next
    one. Each replay waits on the device for what the last one's caller had begun by then.

    While one thread records, others may go on working on the device (`thread_local`); only what the
    recording thread does is forbidden to wait for the device.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing touches the device before the first pass is recorded."""
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._last: torch.cuda.Stream | None = None  # on which the last replay was played

    def __call__(self, function: Pass, inputs: tuple[Tensor, ...]) -> Replay:
        """Record `function(*inputs)` after running it on a stream of its own.

        Raises:
            RuntimeError: a step waits for the device, or copies from or to the CPU; or the memory
                does not suffice.
        """
        with _ONE_AT_A_TIME, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream()
            if self._stream is None:
                self._stream = torch.cuda.Stream()
                self._pool = torch.cuda.graph_pool_handle()
            stream = self._stream
            stream.wait_stream(caller)
            try:
                with torch.cuda.stream(stream):
                    for _ in range(WARM_UPS):
                        function(*inputs)
                caller.wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
                ):
                    outputs = function(*inputs)
            except RuntimeError:
                # The allocator may go on counting this one as being recorded to.
                self._pool = torch.cuda.graph_pool_handle()
                raise
            finally:
                torch.cuda.set_stream(caller)  # a recording that fails leaves its own in place

        def replay(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            with torch.cuda.device(self._device):
                here = torch.cuda.current_stream()
                if self._last is not None:
                    here.wait_stream(self._last)
                self._last = here
                for own, value in zip(inputs, values, strict=True):
                    own.copy_(value)
                graph.replay()
            return outputs

        return replay
