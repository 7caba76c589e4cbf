"""Workers as processes of this machine, each started afresh (spawn) and replaced when it dies."""

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from vidinvert.batch.locks import join_run
from vidinvert.batch.orders import Setup
from vidinvert.batch.work import (
    Assignment,
    Heart,
    Message,
    Send,
    carry_out,
    load_job,
    memory_bytes,
    worker_environment,
)
from vidinvert.errors import VidinvertError

_PR_SET_PDEATHSIG = 1  # prctl(2)


class LocalWorker:
    """One worker process, as the supervisor sees it."""

    def __init__(self, setup: Setup, *, slot: int, directory: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        device = setup.devices[slot % len(setup.devices)]
        self._process = context.Process(
            target=_serve,
            args=(theirs, setup, device, directory, os.getpid()),
            name=f"vidinvert-worker-{slot}",
            daemon=True,
        )
        with _environment(worker_environment(setup)):
            self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        """What becomes ready when the process ends."""
        return self._process.sentinel

    def submit(self, assignment: Assignment) -> None:
        """Hand over an order; that the process is gone is seen by `death`."""
        try:
            self.connection.send(assignment)
        except OSError:
            pass

    def messages(self) -> list[Message]:
        """Return what the worker said since the last call."""
        said: list[Message] = []
        try:
            while self.connection.poll():
                said.append(self.connection.recv())
        except (EOFError, OSError):
            pass  # it died; what it said before is kept
        return said

    def death(self) -> str | None:
        """Return how the process ended, None while it lives."""
        code = self._process.exitcode
        if code is None:
            return None
        if code >= 0:
            return f"The worker process ended with status {code}."
        name = signal.Signals(-code).name
        if name == "SIGKILL":
            return "The worker process was killed (SIGKILL), as the kernel does without memory."
        return f"The worker process crashed ({name})."

    def memory_bytes(self) -> int:
        """Return the process's resident memory."""
        return memory_bytes(self._process.pid or 0)

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self.connection.close()


class LocalEngine:
    """Starts worker processes on this machine."""

    def __init__(self, setup: Setup, *, directory: Path) -> None:
        self._setup = setup
        self._directory = directory

    def start(self, slot: int) -> LocalWorker:
        """Start a worker for one of the batch's slots."""
        return LocalWorker(self._setup, slot=slot, directory=self._directory)

    def wait(self, workers: Sequence[LocalWorker], *, seconds: float) -> None:
        """Return when a worker says something or dies, or the time is over."""
        waiting = [w for w in workers if w.death() is None]
        wait([x for w in waiting for x in (w.connection, w.sentinel)], timeout=seconds)

    def close(self) -> None:
        """Nothing outlives the workers."""


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a process that is started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, setup: Setup, device: str, directory: Path, parent: int) -> None:
    """Run a worker process until the supervisor hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    lock = join_run(directory)
    faulthandler.enable()
    send = _sender(connection)
    heart = Heart(send)
    try:
        job = load_job(setup, device)
        send(Message(kind="ready"))
        while True:
            carry_out(job, connection.recv(), send)
    except VidinvertError as error:
        send(Message(kind="unfit", values={"reason": str(error)}))
    except (EOFError, OSError):
        pass  # the supervisor hung up
    finally:
        heart.stop()
        lock.release()


def _sender(connection: Connection) -> Send:
    """Return a way to send that two threads may use."""
    turn = threading.Lock()

    def send(message: Message) -> None:
        with turn:
            connection.send(message)

    return send


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it ends."""
    if not sys.platform.startswith("linux"):
        return  # there the heart notices
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
