"""Write a file so that it is either there whole or not there at all."""

import hashlib
import os
import platform
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import av.error

from vidinvert.errors import EncodeError
from vidinvert.media.containers import shown
from vidinvert.types import VideoInfo

MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Container of an output by its suffix."""


@contextmanager
def encode_errors(target: Path) -> Iterator[None]:
    """Turn a failure of the disc or of FFmpeg into an EncodeError about `target`."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EncodeError(
            f"{shown(target)} could not be written ({reason}), expected room and permission for "
            "it; free some space or choose another place, and run again"
        ) from error


def check_target(target: str | Path, *, like: VideoInfo, overwrite: bool = False) -> None:
    """Check that an output for the clip `like` could be created, and leave nothing behind.

    Raises:
        EncodeError: see `PendingFile`.
    """
    PendingFile(target, source=like.path, overwrite=overwrite)


class PendingFile:
    """A temporary file beside `target` that takes its name at the end.

    The constructor checks everything that can be known before any work is done; `create` makes the
    file, `commit` renames it, `discard` removes it.

    Args:
        target: the output.
        source: the clip that it is made from, which it must not replace.
        overwrite: replace an existing file.
        suffixes: those that the target's name may have.

    Attributes:
        path: of the temporary file.
        format: the muxer's name; empty where the file is no clip.

    Raises:
        EncodeError: the suffix is unknown, the directory is missing or takes no file, `target` is
            the source, a directory, or exists and may not be replaced.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        source: Path,
        overwrite: bool,
        suffixes: Collection[str] = tuple(MUXERS),
    ) -> None:
        self.target = Path(os.path.abspath(target))
        self._overwrite = overwrite
        with encode_errors(self.target):
            self._check(source, suffixes)
        self.format = MUXERS.get(self.target.suffix.lower(), "")
        own = f".vidinvert-{_digest(self.target.name)}-{_digest(platform.node())}"
        self.path = self.target.parent / f"{own}-{os.getpid()}-{secrets.token_hex(4)}.partial"
        with encode_errors(self.target):
            _sweep(self.target.parent, own)
        self.create()  # rights do not tell all: read-only discs, quotas, what is no disc
        self.discard()

    def _check(self, source: Path, suffixes: Collection[str]) -> None:
        name = shown(self.target)
        directory = self.target.parent
        if self.target.suffix.lower() not in suffixes:
            raise EncodeError(
                f"{name} ends in {self.target.suffix!r}, expected one of {', '.join(suffixes)}; "
                "choose a name with such a suffix"
            )
        if not directory.is_dir():
            raise EncodeError(
                f"{shown(directory)} is not a directory, expected the place of the output; "
                "create it first"
            )
        if not os.access(directory, os.W_OK | os.X_OK):
            raise EncodeError(
                f"{shown(directory)} may not be written to, expected a place for the output; "
                "choose another or change its permissions"
            )
        if self.target.is_dir():
            raise EncodeError(f"{name} is a directory, expected a file; add a file name to it")
        if self.target == source or (
            self.target.exists() and source.exists() and os.path.samefile(self.target, source)
        ):
            raise EncodeError(
                f"{name} is the source itself, expected another file; choose another output"
            )
        self._check_free()

    def _check_free(self) -> None:
        if not self._overwrite and os.path.lexists(self.target):
            raise EncodeError(
                f"{shown(self.target)} exists already, expected a new file; "
                "choose another name, or allow it to be replaced with --force"
            )

    def create(self) -> None:
        """Make the empty temporary file."""
        with encode_errors(self.target):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def rewrite(self, change: Callable[[Path, Path], None]) -> None:
        """Let `change` make a new file out of the temporary one, which it replaces."""
        changed = self.path.with_name(f"{self.path.stem}-changed{self.path.suffix}")
        try:
            with encode_errors(self.target):
                change(self.path, changed)
                os.replace(changed, self.path)
        finally:
            changed.unlink(missing_ok=True)

    def commit(self) -> None:
        """Bring the temporary file safely to the disc and give it its name."""
        with encode_errors(self.target):
            _sync(self.path)
            self._check_free()
            os.replace(self.path, self.target)
        try:
            _sync(self.target.parent)
        except OSError:
            pass  # the output is whole; Windows and some network discs do not sync directories

    def discard(self) -> None:
        """Remove the temporary file if it is there."""
        self.path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _sweep(directory: Path, own: str) -> None:
    """Remove what runs on this machine that were killed have left of the same target."""
    for rest in directory.glob(f"{own}-*.partial"):
        process = rest.name.removeprefix(f"{own}-").partition("-")[0]
        if process.isdecimal() and not _lives(int(process)):
            rest.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if os.name != "posix":  # there a signal of 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
