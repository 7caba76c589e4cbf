"""Fetch published files: resumed where they broke off, checked, and compared with the first time.

This is the only module that uses the network, and only when `vidinvert models pull` is called.
The standard library does it: pooch, the usual choice, does not resume, which a file of several
hundred megabytes needs, and would add three dependencies.
"""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from vidinvert.checkpoints.published import PUBLICATIONS, Publication, PublishedFile
from vidinvert.errors import CheckpointError, ChecksumError, MissingError
from vidinvert.version import VERSION

RECORD = "SHA256SUMS"  # in the format that `sha256sum -c` reads
ATTEMPTS = 4
PAUSE_SECONDS = 2.0  # before the second attempt; doubled before every further one
TIMEOUT_SECONDS = 30.0
CHUNK = 1 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Progress = Callable[[str, int, int | None], None]  # file, bytes done, bytes in all if known
Checked = Literal["published", "recorded", "first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is there.

    `checked` says with what its checksum was compared: with the one its authors publish, with the
    one recorded when it was first fetched, or with none, because this was the first time.
    """

    path: Path
    sha256: str
    checked: Checked


def find_publication(name: str) -> Publication:
    """Return what is published under a name.

    Raises:
        MissingError: nothing is.
    """
    for publication in PUBLICATIONS:
        if publication.name == name:
            return publication
    known = ", ".join(publication.name for publication in PUBLICATIONS)
    raise MissingError(f"Nothing called {name!r} can be pulled, expected one of: {known}.")


def fetch(file: PublishedFile, folder: Path, *, progress: Progress | None = None) -> Fetched:
    """Return a published file, fetched unless it is there already.

    What arrives is kept in `NAME.part` until it is whole, so a broken download goes on when it is
    asked for again.

    Args:
        file: which.
        folder: where it is kept.
        progress: called with the name, the bytes done and the bytes in all.

    Raises:
        MissingError: there is no network, or the file has to be fetched by hand.
        ChecksumError: it is not the file that is published or was fetched before.
        CheckpointError: the server does not give it.
    """
    path = folder / file.name
    if not path.is_file():
        if file.url is None:
            raise MissingError(
                f"{file.name} has to be fetched by hand: open {file.page}, and put the file into "
                f"{folder} as {file.name}. Then run this again."
            )
        _check_address(file.url)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{file.name}.part"
        _download(file, part, progress or (lambda name, done, total: None))
        try:
            fetched = _check(part, file, folder)
        except ChecksumError:
            part.unlink()
            raise
        finally:
            _notes(part).unlink(missing_ok=True)
        os.replace(part, path)
    else:
        fetched = _check(path, file, folder)
    if fetched.checked == "first":
        with (folder / RECORD).open("a", encoding="utf-8", newline="\n") as record:
            record.write(f"{fetched.sha256}  {file.name}\n")
    return Fetched(path=path, sha256=fetched.sha256, checked=fetched.checked)


def _check(path: Path, file: PublishedFile, folder: Path) -> Fetched:
    """Compare a file with what is published, or else with what was recorded."""
    with path.open("rb") as stream:
        seen = hashlib.file_digest(stream, "sha256").hexdigest()
    recorded = _read_record(folder).get(file.name)
    wanted, checked = (file.sha256, "published") if file.sha256 else (recorded, "recorded")
    if wanted is None:
        return Fetched(path=path, sha256=seen, checked="first")
    if seen != wanted:
        raise ChecksumError(
            f"{file.name} has sha256 {seen}, expected {wanted} as {checked}. "
            f"{'Fetch it again' if file.sha256 else 'If its authors have replaced it, remove it'}"
            f"{'.' if file.sha256 else f' and its line in {folder / RECORD}, and pull it again.'}"
        )
    return Fetched(path=path, sha256=seen, checked=checked)


def _read_record(folder: Path) -> dict[str, str]:
    path = folder / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.split("  ", 1) for line in lines if "  " in line]
    return {name: sha256 for sha256, name in pairs}


def _download(file: PublishedFile, part: Path, progress: Progress) -> None:
    """Fetch into `part`, going on where it ends, in a few attempts."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            reason = _attempt(file, part, progress)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the part is not of this file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise CheckpointError(
                    f"{file.url} answers {error.code} {error.reason}, expected the file "
                    f"{file.name}. Look at the authors' page for a new address."
                ) from error
            reason = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        if not reason:
            return
    done = part.stat().st_size if part.is_file() else 0
    raise MissingError(
        f"{file.name} could not be fetched ({reason}); {done} bytes are kept, and the next call "
        f"goes on from there. Without a network: fetch {file.url} elsewhere and put it into "
        f"{part.parent} as {file.name}."
    )


def _attempt(file: PublishedFile, part: Path, progress: Progress) -> str:
    """Fetch once; return what broke it off, or nothing when the file is whole."""
    assert file.url is not None
    done = part.stat().st_size if part.is_file() else 0
    notes = _read_notes(part)
    if notes.get("url") != file.url:
        done = 0
    elif done and notes.get("total") == done:
        return ""  # it was whole already, and only its name was not given
    headers = {"User-Agent": f"vidinvert/{VERSION}", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if notes.get("validator"):
            headers["If-Range"] = str(notes["validator"])
    request = urllib.request.Request(file.url, headers=headers)
    opener = urllib.request.build_opener(_CarefulRedirects())
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        start, total = _read_range(response)
        if start != done or (start and notes.get("total") not in (None, total)):
            start = 0
            if response.status == 206:  # a part of another file: begin anew
                part.unlink(missing_ok=True)
                return "the server holds another version of the file"
        _refuse_pages(response.headers.get("Content-Type", ""), file)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        strong = None if validator is None or validator.startswith("W/") else validator
        known = {"url": file.url, "validator": strong, "total": total}
        _notes(part).write_text(json.dumps(known), encoding="utf-8")
        with part.open("ab" if start else "wb") as target:
            size = _copy(response, target, file, start, total, progress)
    if total is not None and size < total:
        return f"the connection ended after {size} of {total} bytes"
    if total is not None and size > total:
        part.unlink()
        return f"the server gave {size} bytes instead of {total}"
    return ""


def _read_range(response: Any) -> tuple[int, int | None]:
    """Return from which byte on the response is, and how long the whole file is."""
    length = response.headers.get("Content-Length")
    if response.status == 206:
        match = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
        )
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    return 0, int(length) if length and length.isdigit() else None


def _copy(
    response: Any,
    target: IO[bytes],
    file: PublishedFile,
    start: int,
    total: int | None,
    progress: Progress,
) -> int:
    """Write what arrives; return the size of what is there then."""
    size = start
    progress(file.name, size, total)
    while chunk := response.read(CHUNK):
        if size == 0 and re.match(rb"\s*<(!doctype\s+html|html|head|\?xml)", chunk[:200], re.I):
            _refuse_pages("text/html", file)
        target.write(chunk)
        size += len(chunk)
        progress(file.name, size, total)
    target.flush()
    os.fsync(target.fileno())
    return size


def _refuse_pages(content_type: str, file: PublishedFile) -> None:
    if content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise CheckpointError(
            f"{file.url} answers with a web page, expected the file {file.name}. Open it in a "
            "browser: it may ask for a login or a consent; then put the file in place by hand."
        )


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_notes(part: Path) -> dict[str, Any]:
    """Return what is known of a part: its address, its version, its whole size."""
    try:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _check_address(url: str) -> None:
    """Allow https alone, and plain http to this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise CheckpointError(f"{url} is not an address with https, which is expected.")


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https addresses alone."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
