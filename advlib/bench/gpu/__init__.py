"""What a GPU has to tell, in one command of at most eight minutes.

    make gpu                                                     _build/gpu/<device>.csv
    python -m advlib.bench.gpu --budget SECONDS --out DIR [--data DIR] [--tiny]

Sections come in the order of their worth (`__main__.SECTIONS`), each a list of cases: the device's ceilings; whether
attacks and optimizers give there what they give on the CPU; kernels beside the PyTorch code; the attack loop beside
bare passes and beside a plain eager loop; steps of training; Hessian products; attacks with copies; whole attacks as
CUDA graphs; compiled networks. The clock and the contestants are those of chapter A3 (`bench.speed`). The file is
replaced after every case, so that a kill loses one; what does not fit into the budget any more, or fails, says so in a
row of its own.

A row is one number: section, case, metric, value, unit; for a time or a ratio the median over `rounds` rounds and their
range, low to high; then device, torch, commit, and `code`, a digest of the package, for copies without git. Ratios are
formed within a round, in which all contestants take their turn. `note` says why a case was skipped or failed.

`full_size`, a command of its own, trains and attacks the thesis' networks.

Seconds belong to one device, so rows of a GPU are kept by its name: a finished file is committed as it is, as
data/results/gpu/<device>.csv. It is no `ResultTable`, whose rows are counts of images by attack and target and resume:
this one is measured anew each time. A rehearsal, `--tiny`, is written to <device>.tiny.csv, and not kept.
"""
