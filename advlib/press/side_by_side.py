"""Runs at the same time, each in a process of its own. On a small network two processes of one thread each get more
done than one of two threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

Heard = Callable[[str, int, list[str]], object]
"""Hears of a command that ended: its name, its exit code and the lines that it printed."""


def threads(at_once: int) -> int:
    """Of each of `at_once` processes."""
    return max(1, (os.cpu_count() or 1) // at_once)


def run(
    commands: Mapping[str, Sequence[str]], at_once: int, first: Collection[str] = (), heard: Heard | None = None
) -> bool:
    """Run commands of Python, by name (the number of their chapter, say), in their order, up to `at_once` of them at a
    time; what they print is passed on line by line. first: those that train what others load, run before them and one
    by one. Whether all ended well: after one that did not none is started any more, and those that run are waited for.
    With `heard`, which is told of each that ended, the others are started all the same, and each line begins with the
    name."""
    alone = {name: command for name, command in commands.items() if name in first}
    others = {name: command for name, command in commands.items() if name not in first}
    well = _together(alone, 1, heard)
    return (bool(well or heard) and _together(others, at_once, heard)) and well


def _together(commands: Mapping[str, Sequence[str]], at_once: int, heard: Heard | None) -> bool:
    waiting, running, processes, well = list(commands), set[Future[bool]](), list[subprocess.Popen[str]](), True
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while running or (waiting and (well or heard)):
                while waiting and (well or heard) and len(running) < at_once:
                    name = waiting.pop(0)
                    processes.append(_begun(commands[name], threads(at_once)))
                    running.add(pool.submit(_ended, processes[-1], name, heard))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                well = all([well, *(future.result() for future in done)])
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


def _ended(process: subprocess.Popen[str], name: str, heard: Heard | None) -> bool:
    """Pass on what it prints, whole lines at a time; whether it ended well."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        print(f"{name}: {line}" if heard else line, end="", flush=True)
        printed.append(line)
    code = process.wait()
    if heard:
        heard(name, code, printed)
    return code == 0
