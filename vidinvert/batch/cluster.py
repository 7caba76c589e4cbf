"""Workers as Ray actors, on this machine or on a cluster; the only place that knows Ray.

The supervisor does what it does with processes of its own: it retries, gives up and keeps the
journal. Ray restarts nothing by itself, for its default would try a clip that crashes for ever.
Sources and outputs must be reachable under the same paths from every node.
"""

import faulthandler
import importlib
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from vidinvert.batch.locks import Lock, join_run
from vidinvert.batch.orders import Setup
from vidinvert.batch.work import (
    Assignment,
    Job,
    Message,
    carry_out,
    load_job,
    memory_bytes,
    worker_environment,
)
from vidinvert.errors import BatchError, VidinvertError

LOOPBACK = "127.0.0.1"


class RayEngine:
    """Starts Ray actors; without an address, in a Ray of its own that only this machine reaches.

    Args:
        setup: what every worker loads.
        directory: the batch's directory of state.
        workers: how many there will be, for the size of a Ray of its own.
        address: of a running cluster, `HOST:PORT` or `auto`; None = start one here.

    Raises:
        BatchError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self, setup: Setup, *, directory: Path, workers: int, address: str | None = None
    ) -> None:
        self._setup = setup
        self._directory = directory.resolve()
        self._local = address is None
        if self._local:  # read when Ray is imported; by itself it would listen on every interface
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self._ray = _load_ray()
        gpu = setup.devices[0].startswith("cuda")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._local:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {
                "address": "local",
                "num_cpus": workers * setup.threads,
                "num_gpus": len(setup.devices) if gpu else 0,
                "include_dashboard": False,
                "_node_ip_address": LOOPBACK,
                "object_store_memory": 80 * 2**20,  # only orders and messages travel
            }
        else:
            options["address"] = address
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise BatchError(
                f"Ray cannot be started or reached at {address or LOOPBACK} ({error}), expected a "
                "running cluster's HOST:PORT; check --ray-address, or use --engine local"
            ) from error
        place = self._ray.util.get_node_ip_address()
        if self._local and place != LOOPBACK:
            self.close()
            raise BatchError(
                f"Ray would listen on {place}, expected {LOOPBACK} alone; it was imported before "
                "the batch: start the batch in a process of its own"
            )

    def start(self, slot: int) -> "RayWorker":
        """Start an actor; Ray finds it a node with cores, and a GPU if the setup asks for one."""
        del slot
        gpu = self._setup.devices[0].startswith("cuda")
        setup = replace(self._setup, devices=("cuda:0",)) if gpu else self._setup  # the one it gets
        variables = worker_environment(setup)
        if self._local:
            variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        actor = (
            self._ray.remote(_Actor)
            .options(
                num_cpus=setup.threads,
                num_gpus=1 if gpu else 0,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=2,  # one carries out, one answers
                runtime_env={"env_vars": variables},
            )
            .remote(setup, self._directory)
        )
        return RayWorker(self._ray, actor)

    def wait(self, workers: Sequence["RayWorker"], *, seconds: float) -> None:
        """Ask every actor what it did, and wait for the first answer."""
        asked = [worker.ask() for worker in workers]
        if not asked:
            time.sleep(seconds)
            return
        began = time.monotonic()
        self._ray.wait(asked, num_returns=len(asked), timeout=seconds, fetch_local=False)
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))

    def close(self) -> None:
        """Leave the cluster; a Ray of its own ends."""
        self._ray.shutdown()


def _load_ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BatchError(
            "Ray is not installed, expected it for --engine ray; pip install 'vidinvert[ray]', or "
            "use --engine local"
        ) from error


class RayWorker:
    """One actor, as the supervisor sees it."""

    def __init__(self, ray: ModuleType, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._answer: Any = None
        self._said: list[Message] = []
        self._memory = 0
        self._death: str | None = None

    def ask(self) -> Any:
        """Return the pending answer of the actor to what it did since it was asked last."""
        if self._answer is None:
            self._answer = self._actor.report.remote()
        return self._answer

    def submit(self, assignment: Assignment) -> None:
        """Hand over an order; what comes of it is among the messages."""
        paths = {"work": assignment.work.resolve(), "log": assignment.log.resolve()}
        self._actor.run.remote(replace(assignment, **paths))

    def messages(self) -> list[Message]:
        """Return what the worker said since the last call."""
        self._collect()
        said, self._said = self._said, []
        return said

    def _collect(self) -> None:
        if self._answer is None or self._death is not None:
            return
        if not self._ray.wait([self._answer], timeout=0)[0]:
            return
        answer, self._answer = self._answer, None
        try:
            said, self._memory = self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            self._death = _cause(str(error))
        else:
            self._said.extend(said)

    def death(self) -> str | None:
        """Return how the actor ended, None while it lives."""
        self._collect()
        return self._death

    def memory_bytes(self) -> int:
        """Return the resident memory of the actor's process, as it said last."""
        return self._memory

    def stop(self) -> None:
        """End the actor at once."""
        self._ray.kill(self._actor, no_restart=True)


def _cause(text: str) -> str:
    """Return in one sentence why an actor died, from the page that Ray writes about it."""
    found = re.search(r"exit detail: (.*?\.)\s", text) or re.search(r"^(.+?)$", text, re.M)
    return f"The Ray actor died. {found.group(1) if found else ''}".strip()


class _Actor:
    """Runs in a process of Ray's: one thread carries out an order, another answers."""

    def __init__(self, setup: Setup, directory: Path) -> None:
        faulthandler.enable()
        self._lock: Lock = join_run(directory)
        self._said: deque[Message] = deque()
        self._job: Job | None = None
        try:
            self._job = load_job(setup, setup.devices[0])
        except VidinvertError as error:
            self._said.append(Message(kind="unfit", values={"reason": str(error)}))
        else:
            self._said.append(Message(kind="ready"))

    def run(self, assignment: Assignment) -> None:
        """Carry out an order."""
        if self._job is not None:
            carry_out(self._job, assignment, self._said.append)

    def report(self) -> tuple[list[Message], int]:
        """Return what was said since the last call, and this process's resident memory."""
        said = [Message(kind="beat")]
        while self._said:
            said.append(self._said.popleft())
        return said, memory_bytes(os.getpid())
