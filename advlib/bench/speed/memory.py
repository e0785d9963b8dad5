"""`python -m advlib.bench.speed.memory BATCH ROUNDS`: prints as JSON the seconds of a step of SGD on a DenseNet,
in float32 on one thread, in each round: of a process that gives memory back, and of the same one when it keeps it. In a
process of its own, since one that keeps memory does not stop."""

import json
import subprocess
import sys
from time import perf_counter

import torch

from ...engine.kept import keep_memory
from ...zoo import models
from . import rows
from .cases import ratios
from .subjects import Subject
from .training import environment, step_of


def main(batch: int, rounds: int) -> None:
    """Each after two steps that do not count."""
    torch.set_num_threads(1)
    x, y = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
    step = step_of(torch.optim.SGD, Subject("small DenseNet", models.create("densenet"), x, y), torch.float32)
    found = {}
    for name, begin in (("given back", lambda: True), ("kept", keep_memory)):
        if begin():
            seconds = []
            for _ in range(2 + rounds):
                start = perf_counter()
                step()
                seconds.append(perf_counter() - start)
            found[name] = seconds[2:]
    print(json.dumps(found))


def kept(subject: Subject, rounds: int) -> list[rows.Row]:
    """Row "step of training, memory kept": the time of a step without `engine.kept.keep_memory` over that with it, for
    batches as large as the subject's; no row where the C library cannot keep memory."""
    command = [sys.executable, "-m", __name__, str(len(subject.x)), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    gain = {"": ratios(seconds["given back"], seconds["kept"])} if "kept" in seconds else {}
    return rows.of("step of training, memory kept", subject, gain, "float32, one thread")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
