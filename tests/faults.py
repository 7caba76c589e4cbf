"""Make the Nth operation on a file fail, wherever it is: opening, muxing, syncing, renaming."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import av
import numpy as np
import pytest

from vidinvert.media import encode, grey, targets

FAULTS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Fuse:
    """Counts operations and lets one of them fail; `burnt` says whether that happened."""

    def __init__(self, *, at: int, number: int) -> None:
        self._left, self._number = at, number
        self.burnt: str | None = None

    def pass_through(self, what: str) -> None:
        self._left -= 1
        if self._left == 0:
            self.burnt = what
            raise OSError(self._number, os.strerror(self._number))

    def wrap(self, what: str, original: Callable) -> Callable:
        def call(*arguments, **options):
            self.pass_through(what)
            return original(*arguments, **options)

        return call


class _Output:
    """An output container whose `mux` and `close` pass the fuse."""

    def __init__(self, container, fuse: Fuse) -> None:
        self._container, self._fuse = container, fuse

    def mux(self, packet):
        self._fuse.pass_through("mux")
        return self._container.mux(packet)

    def close(self):
        self._container.close()  # whatever comes, the file is let go
        self._fuse.pass_through("close")

    def __getattr__(self, name):
        return getattr(self._container, name)


@contextmanager
def fused(*, at: int, number: int) -> Iterator[Fuse]:
    """Let operation `at`, counted from 1, fail with an error number within the block."""
    fuse = Fuse(at=at, number=number)

    def open_output(path, mode="r", **options):
        if mode == "r" or path == f"file:{os.devnull}":  # a rehearsal writes nothing
            return av.open(path, mode, **options)
        fuse.pass_through("open")
        return _Output(av.open(path, mode, **options), fuse)

    faulty = {n: fuse.wrap(n, getattr(os, n)) for n in ("open", "fsync", "replace")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "os", SimpleNamespace(**{**vars(os), **faulty}))
        for module in (encode, grey):
            patch.setattr(module, "av", SimpleNamespace(open=open_output, error=av.error))
        patch.setattr(np, "savez_compressed", fuse.wrap("savez", np.savez_compressed))
        yield fuse
