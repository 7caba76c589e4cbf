"""What was done: an SQLite file that survives a kill at any moment.

States of a clip: `waiting`, `running`, `finished` (the result is whole, but not yet in its place),
`done`, `failed`. Every change is one transaction in write-ahead logging, on the disc before the
next step is taken. File names are kept as bytes: not every name is text.
"""

import json
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vidinvert.batch.orders import hash_file
from vidinvert.errors import BatchError

SCHEMA = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS sources (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT);
CREATE TABLE IF NOT EXISTS clips (
    output BLOB PRIMARY KEY, source BLOB NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, kind TEXT, reason TEXT, log TEXT,
    sha256 TEXT, size INTEGER, mtime_ns INTEGER, report TEXT);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, output BLOB NOT NULL, event TEXT NOT NULL,
    detail TEXT);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A clip as the journal knows it; `sha256`, `size` and `mtime_ns` are of the output."""

    output: Path
    source: Path
    key: str
    state: str
    attempts: int = 0
    kind: str | None = None
    reason: str | None = None
    log: str | None = None
    sha256: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    report: dict[str, Any] | None = None


class Journal:
    """The journal of one batch directory; a context manager.

    Raises:
        BatchError: the file is not a journal, or of another schema.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            (schema,) = self._database.execute("PRAGMA user_version").fetchone()
            if schema not in (0, SCHEMA):
                raise BatchError(
                    f"{path} has schema {schema}, expected {SCHEMA}; go on with the vidinvert that "
                    "wrote it, or choose another --output"
                )
            self._database.executescript(_TABLES)
            self._database.execute(f"PRAGMA user_version={SCHEMA}")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise BatchError(
                f"{path} cannot be read as a journal ({error}), expected one of vidinvert; "
                "remove its directory to begin anew, or choose another --output"
            ) from error
        except BatchError:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def known_hash(self, source: Path) -> str | None:
        """Return the content hash of a file that has not changed since it was hashed."""
        stat = source.stat()
        row = self._database.execute(
            "SELECT sha256 FROM sources WHERE path = ? AND size = ? AND mtime_ns = ?",
            (os.fsencode(source), stat.st_size, stat.st_mtime_ns),
        ).fetchone()
        return None if row is None else row[0]

    def remember_hash(self, source: Path, sha256: str) -> None:
        """Keep a file's content hash for the next run."""
        stat = source.stat()
        self._database.execute(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)",
            (os.fsencode(source), stat.st_size, stat.st_mtime_ns, sha256),
        )

    def entry(self, output: Path) -> Entry | None:
        """Return what is known of an output."""
        cursor = self._database.execute(
            "SELECT output, source, key, state, attempts, kind, reason, log, sha256, size, "
            "mtime_ns, report FROM clips WHERE output = ?",
            (os.fsencode(output),),
        )
        row = cursor.fetchone()
        if row is None:
            return None
        names = [column[0] for column in cursor.description]
        values = dict(zip(names, row, strict=True))
        values["output"] = Path(os.fsdecode(values["output"]))
        values["source"] = Path(os.fsdecode(values["source"]))
        values["report"] = json.loads(values["report"]) if values["report"] else None
        return Entry(**values)

    def begin(self, output: Path, source: Path, key: str) -> None:
        """Forget what was known of an output, and put the clip among those that wait."""
        with self._change(output, "waiting", key[:12]):
            self._database.execute(
                "INSERT OR REPLACE INTO clips (output, source, key, state) VALUES (?, ?, ?, ?)",
                (os.fsencode(output), os.fsencode(source), key, "waiting"),
            )

    def start(self, output: Path) -> None:
        """Record that a worker takes a clip up."""
        self._update(output, "running", None, attempts_more=1)

    def interrupt(self, output: Path) -> None:
        """Record that an attempt ended with the run: it does not count."""
        self._update(output, "waiting", "the run ended", attempts_more=-1)

    def retry(self, output: Path, reason: str) -> None:
        """Record that an attempt failed and the clip waits for another."""
        self._update(output, "waiting", reason)

    def finish(self, output: Path, *, sha256: str, report: dict[str, Any]) -> None:
        """Record that a result is whole, before it is put in its place."""
        text = json.dumps(report)
        self._update(output, "finished", None, sha256=sha256, report=text)

    def done(self, output: Path, *, size: int, mtime_ns: int) -> None:
        """Record that a result is in its place."""
        self._update(output, "done", None, size=size, mtime_ns=mtime_ns)

    def fail(self, output: Path, *, kind: str, reason: str, log: str | None) -> None:
        """Record that a clip was given up, and why."""
        self._update(output, "failed", reason, kind=kind, reason=reason, log=log)

    def _update(
        self,
        output: Path,
        state: str,
        detail: str | None,
        *,
        attempts_more: int = 0,
        **columns: Any,
    ) -> None:
        names = "".join(f", {name} = ?" for name in columns)
        with self._change(output, state, detail):
            self._database.execute(
                f"UPDATE clips SET state = ?, attempts = attempts + ?{names} WHERE output = ?",
                (state, attempts_more, *columns.values(), os.fsencode(output)),
            )

    def _change(self, output: Path, event: str, detail: str | None) -> "_Change":
        return _Change(self._database, output, event, detail)

    def events(self) -> list[tuple[Path, str, str | None]]:
        """Return everything that happened, in order: output, state reached, detail."""
        rows = self._database.execute("SELECT output, event, detail FROM events ORDER BY number")
        return [(Path(os.fsdecode(output)), event, detail) for output, event, detail in rows]


@dataclass(frozen=True, slots=True)
class _Change:
    """A transaction that leaves an event; a context manager."""

    database: sqlite3.Connection
    output: Path
    event: str
    detail: str | None

    def __enter__(self) -> None:
        self.database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.database.execute("ROLLBACK")
            return
        self.database.execute(
            "INSERT INTO events (time, output, event, detail) VALUES (?, ?, ?, ?)",
            (time.time(), os.fsencode(self.output), self.event, self.detail),
        )
        self.database.execute("COMMIT")


def is_unchanged(path: Path, entry: Entry) -> bool:
    """Say whether an output is the one that the journal recorded as done."""
    if not path.is_file():
        return False
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime_ns):
        return True
    return entry.sha256 is not None and hash_file(path) == entry.sha256
