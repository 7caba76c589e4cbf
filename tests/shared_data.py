"""Where the shared faces, clips and parity files lie, for the tests that need them."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("VIDINVERT_SHARED", REPOSITORY.parent / "shared"))


def shared_path(relative: str) -> Path:
    """Return a path in the shared data; skips the calling test, by name, where it is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared data is not here: {relative}")
    return path
