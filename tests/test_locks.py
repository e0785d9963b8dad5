"""One writer at a time: another process is refused and told who writes, a dead one holds nothing."""

import gc
import os
import subprocess
import sys
import threading

import pytest

from advlib.files import locks
from advlib.files.paths import ROOT

HOLD = """
import sys
from pathlib import Path
from advlib.files import locks
lock = locks.acquire(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
TRY = """
import sys
from filelock import FileLock, Timeout
try:
    FileLock(sys.argv[1], blocking=False).acquire()
except Timeout:
    sys.exit("held")
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "table.csv"


def free(file):
    """Whether another process can have the lock."""
    lock = file.with_name(f".{file.name}.lock")
    return subprocess.run([sys.executable, "-c", TRY, lock], capture_output=True, text=True).stderr != "held\n"


def test_another_process_is_refused_until_the_holder_is_dead(file):
    command = [sys.executable, "-c", HOLD, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            locks.BusyError, match=rf"table\.csv is being written by process {holder.pid} on .+ since 2"
        ):
            locks.acquire(file)
        holder.kill()
    assert locks.acquire(file).is_locked


def test_a_lock_lasts_as_long_as_something_refers_to_it(file):
    first, second = locks.acquire(file), locks.acquire(file)  # the same process may have it again
    assert not free(file)
    del first
    gc.collect()
    assert not free(file)
    del second
    gc.collect()
    assert free(file)


def test_the_holder_is_told_as_far_as_it_can_be_read(file):
    locks.acquire(file)
    writer = file.with_name(".table.csv.writer")
    assert locks._read(writer).startswith(f"process {os.getpid()} on ")
    for content in ("{", "[]", "{}"):
        writer.write_text(content)
        assert locks._read(writer) == "another process"


def test_a_moments_lock_waits_for_the_holder(file):
    command = [sys.executable, "-c", HOLD, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.5, holder.stdin.close).start()
        with locks.waiting(file):
            assert holder.stdin.closed and not free(file)
    assert free(file)
