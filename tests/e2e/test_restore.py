"""Killed proxies, backups and restores of the store, with SQLite's own backup."""

import shutil
import sqlite3

import pytest

from harness import Proxy, free_port, unique

BACKUP_SQL = "PRAGMA wal_checkpoint(PASSIVE)"


@pytest.fixture
def front(tmp_path):
    """A proxy without an MLflow: these tests only need its store."""
    one = Proxy(tmp_path / "proxy", f"http://127.0.0.1:{free_port()}").start("/livez")
    yield one
    one.stop()


def store(front):
    return front.folder / "proxy.db"


def roles(front):
    return {row[0] for row in front.rows("SELECT name FROM roles")}


def backup(front, to):
    source, copy = sqlite3.connect(store(front)), sqlite3.connect(to)
    source.backup(copy)
    source.close()
    copy.close()


def add(front):
    name = unique("role")
    front.cli("role", "create", name)
    return name


def test_a_log_that_was_left_is_not_applied_to_a_restored_backup(front, tmp_path):
    before = add(front)
    backup(front, tmp_path / "backup.db")
    after = add(front)
    front.kill()
    left = {end: (front.folder / f"proxy.db{end}").read_bytes() for end in ("-wal", "-shm")}
    assert left["-wal"]
    shutil.copyfile(tmp_path / "backup.db", store(front))
    for command in (("role", "list"), ("serve",)):
        refused = front.cli(*command, check=False)
        assert refused.returncode == 1 and "proxy.db-wal` does not belong to" in refused.stderr, refused.stderr
    assert (front.folder / "proxy.db-wal").read_bytes() == left["-wal"], "a refusal changes nothing"
    for end in left:
        (front.folder / f"proxy.db{end}").unlink()
    front.start("/livez")
    assert before in roles(front) and after not in roles(front)
    assert store(front).stat().st_mode & 0o777 == 0o600, "copies may be readable by others"


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_killed_proxy_starts_again_with_everything(front, checkpoint):
    made = set()
    for _ in range(3):
        made |= {add(front), add(front)}
        if checkpoint:
            other = sqlite3.connect(store(front))
            other.execute(BACKUP_SQL)
            other.close()
            made.add(add(front))
        front.kill()
        if front.folder.joinpath("proxy.db-shm").exists() and len(made) > 4:
            # As after a power failure.
            front.folder.joinpath("proxy.db-shm").unlink()
        front.start("/livez")
        assert made <= roles(front)
