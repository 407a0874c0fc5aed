"""One process works, the others wait, and nothing is left behind."""

import errno
import fcntl
import multiprocessing
import time
import warnings

import pytest

from lary_policy.errors import StoreError
from lary_policy.paths import exclusive, lock_beside


def _count(folder, start):
    start.wait()
    for _ in range(5):
        with exclusive(folder / ".x.lock"):
            seen = int((folder / "n").read_text())
            time.sleep(0.002)
            (folder / "n").write_text(str(seen + 1))


def test_blocks_of_several_processes_never_overlap_although_the_lock_file_goes(tmp_path):
    (tmp_path / "n").write_text("0")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    workers = [context.Process(target=_count, args=(tmp_path, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "n").read_text() == "15"
    assert [p.name for p in tmp_path.iterdir()] == ["n"]


def test_a_block_that_fails_lets_go_and_a_folder_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path / ".x.lock"):
        raise RuntimeError
    with exclusive(tmp_path / ".x.lock"):
        assert lock_beside(tmp_path / "x") == tmp_path / ".x.lock"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError), exclusive(tmp_path / "file" / ".x.lock"):
        pass


def test_a_file_system_without_locks_is_named_instead_of_a_file_that_outlives_its_machine(
    tmp_path, monkeypatch
):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")  # as of Lustre that is mounted without

    monkeypatch.setattr(fcntl, "flock", flock)
    with warnings.catch_warnings(), pytest.raises(StoreError, match=r"locks \(flock\).*Lustre"):
        warnings.simplefilter("ignore")
        with exclusive(tmp_path / ".x.lock"):
            pass
    assert list(tmp_path.iterdir()) == []
