"""Two runs must not work in one directory: advisory locks that the kernel drops with a process."""

import os
import sys
import time
from pathlib import Path

from vidinvert.errors import BatchError

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, shared: bool) -> bool:
        del shared  # there are only exclusive ones: workers do without
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, *, shared: bool) -> bool:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


ORPHAN_SECONDS = 20.0  # how long a new run waits for the workers of one that was killed


class Lock:
    """An open file with a lock on it, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, *, shared: bool = False, seconds: float = 0.0) -> bool:
        """Try for a while to take the lock; returns whether it is held."""
        until = time.monotonic() + seconds
        while not _try_lock(self._descriptor, shared=shared):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        return True

    def write_owner(self) -> None:
        """Leave this process's number in the file, for the message to whom it keeps out."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def owner(self) -> str:
        """Return what the holder left in the file."""
        return os.pread(self._descriptor, 32, 0).decode("ascii", "replace")

    def release(self) -> None:
        """Give the lock up."""
        os.close(self._descriptor)


def lock_run(directory: Path) -> Lock:
    """Take the lock of a batch directory, once the workers of a killed run are gone.

    Raises:
        BatchError: another run holds it, or workers of an earlier one do not end.
    """
    lock = Lock(directory / "run.lock")
    if not lock.take():
        owner = lock.owner() or "unknown"
        lock.release()
        raise BatchError(
            f"{directory.parent} is being worked on by another run (process {owner}), expected one "
            "run at a time; wait for it, end it, or choose another --output"
        )
    lock.write_owner()
    workers = Lock(directory / "workers.lock")
    gone = workers.take(seconds=ORPHAN_SECONDS)
    workers.release()
    if not gone:
        lock.release()
        raise BatchError(
            f"Workers of an earlier run in {directory.parent} are still alive, expected them to "
            "end with it; end these processes and run again"
        )
    return lock


def join_run(directory: Path) -> Lock:
    """Mark this process as a worker of the run in a batch directory, for as long as it lives."""
    lock = Lock(directory / "workers.lock")
    lock.take(shared=True, seconds=ORPHAN_SECONDS)
    return lock
