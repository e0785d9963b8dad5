"""One writer at a time: a lock beside a file, which ends with the process that holds it, however that ends.

lock = locks.acquire(path)  # BusyError says who holds it
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .paths import WriteError, made, replacing


class BusyError(RuntimeError):
    """A file that another process is writing."""


def acquire(path: Path) -> FileLock:
    """The lock of `path`, held until it is released or nothing refers to it any more; within one process it can be had
    again and again. Its files lie beside as .<name>.lock and .<name>.writer, and stay: a lock file without a process
    holds nothing. Raises BusyError, which names process, host and time, where another process has it, and WriteError.
    """
    writer = path.with_name(f".{path.name}.writer")
    try:
        lock = _lock(path)
        lock.acquire()
    except Timeout:
        holder = _read(writer)
        raise BusyError(
            f"{path} is being written by {holder}: wait for it, or give this run a folder of its own"
        ) from None
    except OSError as error:
        raise WriteError(error, path) from error
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    with replacing(writer) as partial:
        partial.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    return lock


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """The lock of `path` for a moment, for reading a file and writing it anew: others wait for one another."""
    with _lock(path).acquire(blocking=True):
        yield


def _lock(path: Path) -> FileLock:
    return FileLock(made(path.parent) / f".{path.name}.lock", blocking=False, thread_local=False, is_singleton=True)


def _read(writer: Path) -> str:
    """ "process 123 on host since ..."; the holder may be just about to write it."""
    try:
        who = json.loads(writer.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
