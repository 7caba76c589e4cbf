"""A stand-in for CUDA graphs on the CPU: it plays a pass again, into the same tensors each time."""

import threading
import time


class Recorder:
    """Records as `vidinvert.methods.graphed.Capture` says; replays write into the same outputs.

    `stale`: replays return what was recorded, whatever their inputs. `refuses`: the shapes of first
    inputs that cannot be recorded. `slow`: seconds between writing the inputs and reading them.
    """

    def __init__(self, *, stale=False, refuses=(), slow=0.0):
        self.stale, self.refuses, self.slow = stale, refuses, slow
        self.recorded: list[tuple[int, ...]] = []
        self.inputs: list[tuple] = []
        self.played, self.broken = 0, False
        self._busy = threading.Lock()

    def __call__(self, function, inputs):
        shape = tuple(inputs[0].shape)
        if shape in self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        self.recorded.append(shape)
        self.inputs.append(inputs)
        outputs = tuple(one.clone() for one in function(*inputs))

        def replay(values):
            if self.broken:
                raise RuntimeError("an illegal memory access was encountered")
            assert self._busy.acquire(blocking=False), "two replays at once"
            try:
                for own, value in zip(inputs, values, strict=True):
                    own.copy_(value)
                time.sleep(self.slow)
                if not self.stale:
                    for kept, new in zip(outputs, function(*inputs), strict=True):
                        kept.copy_(new)
                self.played += 1
            finally:
                self._busy.release()
            return outputs

        return replay
