"""How long attacks and training take, as ratios within a round: what chapter A3 and `bench.gpu` measure with.

cases      the clock: contestants take turns
subjects   what is timed: a network and a batch; the passes that an attack cannot do without
counts     operations and bytes of a function
roofline   the two ceilings of a device, and where passes stand below them
loop       attacks beside their passes
levers     faster copies of a network, batches, parts, chunks; what the copies do to the success of an attack
memory     what it costs that memory is given back, in a process of its own
peers      what others' loops take for the same attack
training   objectives and optimizers beside the plain step
process    CR-SAM in two processes, as `training` starts them
trace      the trace of a Hessian beside PyHessian
rows       the rows that all of this gives, and their file
figures    the roof, and bars of ratios
"""

from . import cases, counts, figures, levers, loop, peers, roofline, rows, subjects, trace, training

__all__ = ["cases", "counts", "figures", "levers", "loop", "peers", "roofline", "rows", "subjects", "trace", "training"]
