"""Clips are encoded once for all tests of the room."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clips import Clip, write_clip


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Clip], Path]:
    """Return the file of a clip; it must not be changed."""
    written: dict[str, Path] = {}

    def find(clip: Clip) -> Path:
        key = repr(clip)
        if key not in written:
            written[key] = write_clip(tmp_path_factory.mktemp("clip"), clip)
        return written[key]

    return find
