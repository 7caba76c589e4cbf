"""What happens inside a worker, whoever started it: carry out orders, and say how it goes."""

import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vidinvert.batch.orders import Order, Setup, hash_file
from vidinvert.errors import VidinvertError

if TYPE_CHECKING:
    from vidinvert.faces import FaceDetector

REPORT, RESULT, SEGMENTS, ANALYSIS = "report.json", "result", "segments", "analysis.npz"
THUMBNAILS = ("before.jpg", "after.jpg")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
"""Environment by which the libraries that a worker loads are told how many threads to use."""

# As mallopt(3): glibc keeps freed memory, which would be mapped and zeroed afresh for every tensor.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(256 << 20),
}

_OUT_OF_MEMORY = re.compile(
    r"can't allocate|cannot allocate|out of memory|bad_alloc", re.IGNORECASE
)
_TELL_SECONDS = 0.2  # progress is told at most this often

Tell = Callable[[str, int, int], None]  # stage, frames done, frames in all


class Job(Protocol):
    """What carries out an order: writes `result` in the directory `work`, returns the report."""

    def __call__(self, order: Order, *, work: Path, result: Path, tell: Tell) -> dict[str, Any]:
        """Carry the order out; what an earlier attempt left in `work` may be used."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An order for a worker, the directory for its unfinished work, and the file for its log."""

    order: Order
    work: Path
    log: Path

    @property
    def result(self) -> Path:
        """Where the job leaves the edited clip."""
        return self.work / f"{RESULT}{self.order.output.suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a worker says: it is `ready`, makes `progress`, `beat`s, is `done`, or has `failed`.

    `values` by kind: progress (stage, done, total), done (sha256, report), failed (kind, reason).
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)


Send = Callable[[Message], None]


def worker_environment(setup: Setup) -> dict[str, str]:
    """Return the environment that a worker process must be started with."""
    return dict.fromkeys(THREAD_VARIABLES, str(setup.threads)) | _KEEP_MEMORY


def load_job(setup: Setup, device: str) -> Job:
    """Load what the setup's `job` names."""
    module, _, name = setup.job.partition(":")
    return getattr(import_module(module), name)(setup, device)


def carry_out(job: Job, assignment: Assignment, send: Send) -> None:
    """Carry out one order and send what came of it; what it prints goes to its log."""
    with _logged_to(assignment.log):
        try:
            send(_finish(job, assignment, send))
        except MemoryError:
            traceback.print_exc()
            send(_failure("memory", "It ran out of memory."))
        except VidinvertError as error:
            traceback.print_exc()
            send(_failure("error", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a clip does, the batch goes on
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"
            kind = "memory" if _OUT_OF_MEMORY.search(text) else "crash"
            send(_failure(kind, text))


def _failure(kind: str, reason: str) -> Message:
    return Message(kind="failed", values={"kind": kind, "reason": " ".join(reason.split())})


def _finish(job: Job, assignment: Assignment, send: Send) -> Message:
    report = assignment.work / REPORT
    if not report.is_file():  # else an earlier run ended between the result and the journal
        assignment.work.mkdir(parents=True, exist_ok=True)
        for rest in assignment.work.glob(".vidinvert-*.partial"):
            rest.unlink()  # of a run that was killed
        made = job(
            assignment.order,
            work=assignment.work,
            result=assignment.result,
            tell=_slowly(send),
        )
        made["sha256"] = hash_file(assignment.result)
        pending = report.with_suffix(".pending")
        pending.write_text(json.dumps(made), encoding="utf-8")
        pending.replace(report)
    made = json.loads(report.read_text(encoding="utf-8"))
    return Message(kind="done", values={"sha256": made.pop("sha256"), "report": made})


def _slowly(send: Send) -> Tell:
    """Send progress a few times a second, and always a stage's first and last."""
    last = 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _TELL_SECONDS or done >= total:
            last = now
            values = {"stage": stage, "done": done, "total": total}
            send(Message(kind="progress", values=values))

    return tell


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Send everything this process prints, C libraries included, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("w", buffering=1, encoding="utf-8", errors="backslashreplace") as stream:
        try:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            with redirect_stdout(stream), redirect_stderr(stream):
                yield
        finally:
            for descriptor, copy in enumerate(kept, start=1):
                os.dup2(copy, descriptor)
                os.close(copy)


def memory_bytes(process: int) -> int:
    """Return the resident memory of a process; 0 where /proc does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class Heart:
    """Beats from a thread of its own, so that a long step is told from a process that is stuck.

    Args:
        send: takes the beats; when it cannot, whoever started this process is gone, and the
            process ends.
        every_seconds: between two beats.
    """

    def __init__(self, send: Send, *, every_seconds: float = 1.0) -> None:
        self._send = send
        self._every = every_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                self._send(Message(kind="beat"))
            except OSError:
                os.kill(os.getpid(), signal.SIGKILL)

    def stop(self) -> None:
        """Stop beating."""
        self._stopped.set()
        self._thread.join()


def set_threads(threads: int) -> None:
    """Limit the networks' threads in this process; the environment must say the same."""
    import torch

    from vidinvert.geometry import limit_threads

    torch.set_num_threads(threads)
    limit_threads(1)  # the stages of an edit have threads of their own


def open_editor(setup: Setup, device: str) -> Job:
    """Load the face pack once, and return what edits one clip after the other.

    Raises:
        CheckpointError: the pack cannot be loaded.
    """
    from vidinvert.checkpoints import find_pack
    from vidinvert.media import divide_threads
    from vidinvert.pipeline import edit_video, load_pack
    from vidinvert.types import Plans

    workers, each = divide_threads(setup.threads, crop_size=find_pack(setup.pack).crop_size)
    set_threads(each)
    models = load_pack(
        setup.pack,
        method=setup.method,
        device=device,
        precision=setup.precision,
        cuda_graphs=setup.cuda_graphs,
        min_score=setup.min_score,
        min_size=setup.min_size,
        workers=workers,
    )

    def edit(order: Order, *, work: Path, result: Path, tell: Tell) -> dict[str, Any]:
        set_threads(each)  # where workers are threads, each has its own number
        plans = order.plans or Plans()
        kept = work / ANALYSIS
        known = kept.is_file()  # an earlier run was ended while it rendered
        report = edit_video(
            order.source,
            result,
            edits=order.edits,
            pack=models,
            plans=replace(plans, encode=replace(plans.encode, threads=setup.threads)),
            face=order.face,
            span=order.span,
            overwrite=True,
            allow_no_face=order.allow_no_face,
            analysis=kept if known else None,
            save_analysis=None if known else kept,
            segments=work / SEGMENTS,
            progress=tell,
        )
        written = write_thumbnails(order, report, work=work, result=result)
        metrics = {}
        if setup.metrics and report["tracks"] and report["salvage"] is None:
            metrics = measure_result(order, result, detector=models.detector, tell=tell)
        return {**report, "written": written, "metrics": metrics}

    return edit


def measure_result(
    order: Order, result: Path, *, detector: "FaceDetector", tell: Tell
) -> dict[str, float]:
    """Compare a result with its source; returns the figures of `vidinvert evaluate` by name."""
    from vidinvert.evaluation import evaluate_video
    from vidinvert.pipeline import Span

    span = order.span or Span()
    photo = order.face is None or Path(order.face).is_file()
    evaluation = evaluate_video(
        order.source,
        result,
        detector=detector,
        face="largest" if photo else str(order.face),
        start_seconds=span.start_seconds,
        end_seconds=span.end_seconds,
        progress=tell,
    )
    figures: dict[str, float] = {}
    for group in ("outside", "timing"):
        figures |= _numbers(evaluation.report[group], group)
    for face in evaluation.report["faces"]:
        figures |= _numbers(face, f"face {face['id']}")
    return figures


def _numbers(value: Any, name: str) -> dict[str, float]:
    """Return the numbers in nested figures, named by the path to them."""
    if isinstance(value, bool) or not isinstance(value, Mapping | int | float):
        return {}
    if not isinstance(value, Mapping):
        return {name: float(value)}
    return {
        key: number
        for inner, deeper in value.items()
        if inner not in ("id", "frames")
        for key, number in _numbers(deeper, f"{name}.{inner}").items()
    }


def write_thumbnails(order: Order, report: Mapping[str, Any], *, work: Path, result: Path) -> int:
    """Write small pictures of one frame before and after, for the batch's page.

    Returns:
        How many frames the result has.
    """
    from vidinvert import images
    from vidinvert.media import decode, probe
    from vidinvert.pipeline import Span, frame_range

    salvage = order.plans is not None and order.plans.salvage
    source, edited = probe(order.source, salvage=salvage), probe(result)
    first, _ = frame_range(source, order.span or Span())
    place = min(edited.frame_count // 2, 50)  # frames in front of it are decoded, too
    if report["tracks"]:
        place = max(0, min(edited.frame_count - 1, report["tracks"][0]["first_frame"] - first + 10))
    for name, info, index in ((0, source, first + place), (1, edited, place)):
        for batch in decode(info, batch_size=1, start=index, stop=index + 1):
            images.write_jpeg(work / THUMBNAILS[name], batch.frames[0], height=180)
    return edited.frame_count
