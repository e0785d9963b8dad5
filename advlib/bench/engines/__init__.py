"""Where tables are measured and nets trained: in this process, in processes of this machine, or on a Ray cluster.

rows = success_rates(attacks, surrogates, targets, data, [8], engine="local")      # a worker for each GPU or core
rows = success_rates(..., engine=engines.Local(jobs=2, devices=[0, 1]))
rows = success_rates(..., engine=engines.OnRay(jobs=16, address="auto", num_gpus=1))  # pip install 'advlib[cluster]'
trainees.provide("cifar10", ["vgg", "vgg-pgd"], engine="local:2")                  # and trainings, a net each
python -m advlib run 02 --engine local:4                    # all of a chapter; or ADVLIB_ENGINE, for papermill

An engine runs a job, which is the same for all cells, on one cell after another, and hands back each result as soon as
it is there. What a worker needs (networks, attacks, images) is pickled once, sent to it once, and stays on its device;
then it is told cells and answers with their results. The process that asked is the only one that writes the table; of
a training the worker writes checkpoint and weights. What a cell gives hangs on its seed and on the numbers of its
images, not on the worker or on the order of finishing, nor on the parts that a table divides it into.

A worker that dies costs its cell, which another one tries again, up to `TRIES` times in all. What an attack raises is
not tried again. In both cases the others go on, and `FailedCells` names the cells at the end. `Serial`, the default,
raises at once. An interrupt stops all workers.
"""

from .local import Local
from .on_ray import OnRay
from .protocol import (
    TRIES,
    CellError,
    Engine,
    FailedCells,
    Job,
    Say,
    Serial,
    check_sendable,
    chosen,
    of_chapters,
    unheard,
)

__all__ = [
    "TRIES",
    "CellError",
    "Engine",
    "FailedCells",
    "Job",
    "Local",
    "OnRay",
    "Say",
    "Serial",
    "check_sendable",
    "chosen",
    "of_chapters",
    "unheard",
]
