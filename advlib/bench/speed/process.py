"""`python -m torch.distributed.run --nproc-per-node 2 -m advlib.bench.speed.process BATCH ROUNDS`: the first of two
processes, of one thread each, prints as JSON the seconds of a step of SGD, of CR-SAM, and of CR-SAM side by side, in
each round. It takes the first two by itself; the other one waits meanwhile."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from time import perf_counter

import torch
import torch.distributed as dist

from ...training.side_by_side import SideBySideCRSAM
from ...zoo import models
from .subjects import Subject
from .training import OPTIMIZERS, step_of


def main(batch: int, rounds: int) -> None:
    """After a round that does not count."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    x, y = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
    subject, first = Subject("small ResNet", models.create("resnet"), x, y), dist.get_rank() == 0
    makes = {name: OPTIMIZERS[name] for name in ("SGD", "CR-SAM")} if first else {}
    makes["side by side"] = partial(SideBySideCRSAM, local=nullcontext)
    steps = {name: step_of(make, subject, torch.float32) for name, make in makes.items()}
    seconds = [{name: _seconds(step, name) for name, step in steps.items()} for _ in range(1 + rounds)]
    if first:
        print(json.dumps({name: [took[name] for took in seconds[1:]] for name in steps}))
    dist.destroy_process_group()


def _seconds(step: Callable[[], object], name: str) -> float:
    if name == "side by side":
        dist.barrier()
    start = perf_counter()
    step()
    return perf_counter() - start


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
