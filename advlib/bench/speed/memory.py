"""What it costs a processor that the C library gives memory back (`engine.kept`), measured in a process of its own,
since one that keeps memory does not stop: `python -m advlib.bench.speed.memory BATCH STEPS ROUNDS` prints as JSON the
seconds of each contestant in each round, with one thread, before and after it begins to keep memory.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from math import inf

import torch

from ...engine.kept import keep_memory
from ...zoo import models
from . import peers, rows
from .cases import Bench, Rounds, ratios
from .levers import copies
from .subjects import Subject, pass_in_parts, passes, prepared
from .training import environment, step_of

GIVEN, KEPT = "given back", "kept"


def main(batch: int, steps: int, rounds: int) -> None:
    """Of networks with random weights, in float32 where nothing else is said."""
    torch.set_num_threads(1)
    bench = Bench(torch.device("cpu"), False, "shapes", lambda: inf, rounds=rounds)
    found = {GIVEN: bench.timed(_contestants(batch, steps))}
    if keep_memory():
        found[KEPT] = bench.timed(_contestants(batch, steps))
    print(json.dumps(found))


def _contestants(batch: int, steps: int) -> dict[str, Callable[[], object]]:
    x, y = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
    resnet, densenet = (Subject(f"small {name}", models.create(name).eval(), x, y) for name in ("resnet", "densenet"))
    nets = {name: net for name, net in copies(resnet.model).items() if name != "channels_last"}
    dense = prepared(densenet.model)
    return {
        **peers.contestants(resnet, nets, steps),
        "a pass": partial(passes, dense, densenet.flat, y),
        "a pass in parts": partial(pass_in_parts, dense, densenet.flat, y),
        "a step of training": step_of(torch.optim.SGD, densenet, torch.float32),
    }


def measured(subject: Subject, steps: int, rounds: int) -> list[rows.Row]:
    """For batches as large as the subject's. Rows "memory given back: MI-FGSM, folded / plain loop" and "..., bfloat16
    / plain loop": images a second of ours over those of the plain loop; "memory given back: a pass in parts": the time
    of a pass of the whole batch over that of one in parts; and "memory kept: a step of training" and so on: the time of
    a contestant while memory is given back over that when it is kept, where the C library can keep it."""
    command = [sys.executable, "-m", __name__, str(len(subject.x)), str(steps), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    return of_seconds(json.loads(done.stdout.splitlines()[-1]), subject, steps)


def of_seconds(seconds: Mapping[str, Mapping[str, Rounds]], subject: Subject, steps: int) -> list[rows.Row]:
    """The rows, of what `main` prints."""
    given, resnet = seconds[GIVEN], subject._replace(name="small ResNet")
    densenet = subject._replace(name="small DenseNet")
    ours = {name: ratios(given["plain loop"], given[name]) for name in ("folded", "bfloat16")}
    found = rows.of("memory given back: MI-FGSM, {} / plain loop", resnet, ours, f"T = {steps}, one thread")
    parts = {"a pass in parts": ratios(given["a pass"], given["a pass in parts"])}
    found += rows.of("memory given back: {}", densenet, parts, "one thread")
    if KEPT in seconds:
        gains = {name: ratios(given[name], seconds[KEPT][name]) for name in given}
        of_resnet = {name: gains.pop(name) for name in ("plain loop", "folded", "bfloat16")}
        found += rows.of("memory kept: MI-FGSM, {}", resnet, of_resnet, f"T = {steps}, one thread")
        found += rows.of("memory kept: {}", densenet, gains, "one thread")
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
