"""What a batch is asked to do: one order a clip, and the key by which a result is recognised.

Nothing here loads torch: the process that supervises needs none.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidinvert.version import VERSION

if TYPE_CHECKING:
    from vidinvert.methods import Graphs
    from vidinvert.pipeline import Span
    from vidinvert.types import Plans


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One clip to edit.

    `output` is relative to the batch's directory. `span` and `plans` None mean the pipeline's own
    defaults. `plans.edit` stays empty: `edits` are read where the face pack is loaded.
    """

    source: Path
    output: Path
    edits: tuple[str, ...] = ()
    face: str | None = None
    span: "Span | None" = None
    allow_no_face: bool = False
    plans: "Plans | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every worker loads before its first clip, and how many threads it may use.

    Attributes:
        job: `module:function`; called once a worker with this setup and the worker's device, it
            returns what carries out one order (see `vidinvert.batch.work.Job`).
        pack: face pack, a name or a directory.
        pack_sha256: of the pack, for the keys.
        method: how faces are inverted.
        devices: dealt out to the workers in turn.
        precision: of the networks' features.
        cuda_graphs: whether the networks' passes are recorded, see `vidinvert.load_pack`.
        min_score: detections below are dropped.
        min_size: faces with a smaller side, in pixels, are dropped.
        threads: CPU threads of one worker.
        metrics: compare every result with its source.
    """

    job: str = "vidinvert.batch.work:open_editor"
    pack: str = "mini"
    pack_sha256: str = ""
    method: str = "samm"
    devices: tuple[str, ...] = ("cpu",)
    precision: str = "fp32"
    cuda_graphs: "Graphs" = "off"
    min_score: float = 0.5
    min_size: float = 24.0
    threads: int = 1
    metrics: bool = False


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def result_key(order: Order, setup: Setup, *, content_sha256: str) -> str:
    """Return the key of a result: content, settings, pack and version; 64 hexadecimal digits.

    Names play no part, so a clip that was renamed keeps its key; only the output's suffix, which
    chooses the container, does. Of devices it matters whether they are GPUs, not which.
    """
    settings = {
        "content": content_sha256,
        "container": order.output.suffix.lower(),
        "edits": order.edits,
        "face": _hash_named(order.face),
        "span": repr(order.span),
        "allow_no_face": order.allow_no_face,
        "plans": repr(order.plans),
        "masks": _hash_named(order.plans.render.mask_override if order.plans else None),
        "certificates": _hash_named(
            order.plans.credentials.certificates
            if order.plans and order.plans.credentials
            else None
        ),
        "pack": setup.pack_sha256,
        "method": setup.method,
        "precision": setup.precision,
        "device": setup.devices[0].partition(":")[0],
        "min_score": setup.min_score,
        "min_size": setup.min_size,
        "metrics": setup.metrics,
        "job": setup.job,
        "version": VERSION,
    }
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_named(name: str | Path | None) -> str:
    """Return a file's hash, that of all files in a directory, or the name if it is neither."""
    path = Path(name or "")
    if name is None or not path.exists():
        return str(name)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return " ".join(f"{file.name}:{hash_file(file)}" for file in files)


def work_name(order: Order, setup: Setup, *, key: str) -> str:
    """Return the name of the directory for a clip's unfinished work.

    It belongs to one output, and to one number of threads: an encoder's stream depends on it.
    """
    identity = f"{key} {setup.threads} ".encode() + os.fsencode(order.output)
    return hashlib.sha256(identity).hexdigest()[:24]


def clip_name(output: Path) -> str:
    """Return a short name for a clip's thumbnails and logs, safe in any file system."""
    return hashlib.sha256(os.fsencode(output)).hexdigest()[:16]
