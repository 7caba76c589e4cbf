"""The journal keeps what happened, and what it keeps is on the disc."""

import os
import sqlite3
from pathlib import Path

import pytest

from vidinvert.batch.journal import SCHEMA, Journal, is_unchanged
from vidinvert.errors import BatchError

A = Path("sub/a.mp4")


def test_a_clip_goes_through_its_states(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.entry(A) is None
        journal.begin(A, Path("/in/a.mp4"), "key")
        journal.start(A)
        journal.retry(A, "crashed")
        journal.start(A)
        journal.finish(A, sha256="abc", report={"frames": 3})
        journal.done(A, size=5, mtime_ns=7)
        entry = journal.entry(A)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.key) == ("done", 2, "key")
        assert (entry.sha256, entry.size, entry.mtime_ns) == ("abc", 5, 7)
        assert entry.report == {"frames": 3}
        assert [(event, detail) for _, event, detail in journal.events()] == [
            ("waiting", "key"),
            ("running", None),
            ("waiting", "crashed"),
            ("running", None),
            ("finished", None),
            ("done", None),
        ]
        journal.begin(A, Path("/in/a.mp4"), "other")
        journal.start(A)
        journal.interrupt(A)
        entry = journal.entry(A)
        assert entry is not None
        assert (entry.state, entry.attempts, entry.sha256) == ("waiting", 0, None)


def test_another_process_sees_it_at_once(tmp_path):
    path = tmp_path / "journal.sqlite"
    with Journal(path) as journal:
        journal.begin(A, Path("/in/a.mp4"), "key")
        journal.fail(A, kind="crash", reason="why", log="log")
        with Journal(path) as other:  # without closing the first, as after a kill
            entry = other.entry(A)
        mode = sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone()
    assert entry is not None
    assert (entry.state, entry.kind, entry.reason, entry.log) == ("failed", "crash", "why", "log")
    assert mode == ("wal",)


def test_a_change_that_fails_leaves_nothing(tmp_path):
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin(A, Path("/in/a.mp4"), "key")
        with pytest.raises(sqlite3.ProgrammingError):
            journal.done(A, size=object(), mtime_ns=1)  # type: ignore[arg-type]
        assert len(journal.events()) == 1
        journal.start(A)
        assert len(journal.events()) == 2


def test_hashes_are_known_until_the_file_changes(tmp_path):
    source = tmp_path / "a"
    source.write_bytes(b"one")
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.known_hash(source) is None
        journal.remember_hash(source, "abc")
        assert journal.known_hash(source) == "abc"
        os.utime(source, ns=(1, 1))
        assert journal.known_hash(source) is None


def test_an_output_is_known_by_its_time_or_its_content(tmp_path):
    output = tmp_path / "a.mp4"
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.begin(A, Path("/in/a.mp4"), "key")
        sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of "foo"
        journal.finish(A, sha256=sha256, report={})
        journal.done(A, size=3, mtime_ns=1)
        entry = journal.entry(A)
    assert entry is not None
    assert not is_unchanged(output, entry)
    output.write_bytes(b"foo")
    assert is_unchanged(output, entry)
    output.write_bytes(b"bar")
    assert not is_unchanged(output, entry)


def test_a_file_that_is_no_journal_or_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(BatchError, match="cannot be read as a journal"):
        Journal(path)
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version={SCHEMA + 1}")
    database.close()
    with pytest.raises(BatchError, match=f"has schema {SCHEMA + 1}, expected {SCHEMA}"):
        Journal(path)
