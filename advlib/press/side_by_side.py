"""Chapters at the same time, each in a process of its own. On a small network two processes of one thread each get more
done than one of two threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait


def threads(at_once: int) -> int:
    """Of each of `at_once` processes."""
    return max(1, (os.cpu_count() or 1) // at_once)


def run(commands: Mapping[str, Sequence[str]], at_once: int, first: Collection[str] = ()) -> bool:
    """Run commands of Python, by the number of their chapter, in their order, up to `at_once` of them at a time; what
    they print is passed on line by line. first: those that train what others load, run before them and one by one.
    Whether all ended well: after one that did not none is started any more, and those that run are waited for."""
    alone = [command for number, command in commands.items() if number in first]
    others = [command for number, command in commands.items() if number not in first]
    return all(_ended(_begun(command, os.cpu_count() or 1)) for command in alone) and _together(others, at_once)


def _together(commands: Sequence[Sequence[str]], at_once: int) -> bool:
    waiting, running, processes, well = list(commands), set[Future[bool]](), list[subprocess.Popen[str]](), True
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while running or (waiting and well):
                while waiting and well and len(running) < at_once:
                    processes.append(_begun(waiting.pop(0), threads(at_once)))
                    running.add(pool.submit(_ended, processes[-1]))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                well = well and all(future.result() for future in done)
        except BaseException:  # a signal ends them, too
            for process in processes:
                process.terminate()
            raise
    return well


def _begun(command: Sequence[str], own: int) -> subprocess.Popen[str]:
    environment = {"OMP_NUM_THREADS": str(own)} | os.environ
    return subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _ended(process: subprocess.Popen[str]) -> bool:
    """Pass on what it prints, whole lines at a time; whether it ended well."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
    return process.wait() == 0
