"""One run at a time, and none while workers of a killed one are alive."""

import pytest

from vidinvert.batch import locks
from vidinvert.batch.locks import join_run, lock_run
from vidinvert.errors import BatchError


@pytest.mark.promise(8)
def test_a_directory_is_locked_until_the_lock_is_released(tmp_path):
    lock = lock_run(tmp_path)
    with pytest.raises(BatchError, match=r"is being worked on by another run \(process \d+\)"):
        lock_run(tmp_path)
    lock.release()
    lock_run(tmp_path).release()


@pytest.mark.promise(8)
def test_workers_share_their_lock_and_keep_the_next_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "ORPHAN_SECONDS", 0.2)
    first, second = join_run(tmp_path), join_run(tmp_path)
    with pytest.raises(BatchError, match=r"Workers of an earlier run .* are still alive"):
        lock_run(tmp_path)
    first.release()
    second.release()
    lock_run(tmp_path).release()
