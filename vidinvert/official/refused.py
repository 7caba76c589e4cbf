"""Official files that are known and not read: what they are, why not, and what to do instead."""

from collections.abc import Iterable
from pathlib import Path

from vidinvert.errors import CheckpointError

# By what `models import` is told, or a file is found to be.
REASONS = {
    "diffcam": (
        "the published classifier of Diff-CAM (ResNet-101 in parts named shared, classifier and "
        "fc) is not read: vidinvert has no map of its parameters' names to check it against, and "
        "its authors state no licence. Train one for your pack with `vidinvert train diffcam`, or "
        "use --method diffcam with the pack mini, which has one"
    ),
    "deghost": (
        "the published deghosting network of Diff-CAM (parts named FCN and generator) is not "
        "read: it is bound to a copy of StyleGAN2 of its own, vidinvert has no map of its "
        "parameters' names to check it against, and its authors state no licence. Train one for "
        "your pack with `vidinvert train deghost`, or use --method diffcam with the pack mini, "
        "which has one"
    ),
}


def refuse_kind(kind: str) -> None:
    """Refuse a kind of file that is known and not read.

    Raises:
        CheckpointError: it is one; the message says why, and what to do.
    """
    if kind in REASONS:
        raise CheckpointError(f"The kind {kind!r} cannot be imported: {REASONS[kind]}.")


def refuse_file(path: Path, names: Iterable[str]) -> None:
    """Refuse a file whose names of tensors are those of a network that is not read.

    Raises:
        CheckpointError: they are; the message says why, and what to do.
    """
    first = {name.removeprefix("state_dict.").partition(".")[0] for name in names}
    if {"shared", "classifier", "fc"} <= first:
        kind = "diffcam"
    elif "FCN" in first:
        kind = "deghost"
    else:
        return
    raise CheckpointError(f"{path} cannot be imported: {REASONS[kind]}.")
