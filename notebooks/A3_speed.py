# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A3. Speed
#
# How fast is the attack loop, and what does each way to make it faster do to the result? Seconds belong to one machine,
# so everything here is a *ratio within one run*: attack against bare passes, fast copy against plain network, this book
# against torchattacks. Nothing on this page is asserted about time; the tables say whether a target was met.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10 or cifar100
n: int = 0  # images for success rates and for the comparison with torchattacks, 0 takes the number of the scale;
# at least 0
compile: bool = False  # also time torch.compile, which needs a C++ compiler and a minute or two
seed: int = 0  # of every random draw; at least 0

# %%
import copy
import os
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from time import perf_counter

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import torchvision
from IPython.display import Markdown, display

import advlib as al

# %%
try:
    import torchattacks
except ImportError:
    torchattacks = None
try:
    from pyhessian import hessian
except ImportError:
    hessian = None

# %%
SETTINGS = {
    "smoke": {"n": 4, "batch": 8, "deep": 2, "side": 64, "steps": 2, "copies": 2,
              "rounds": 1, "deep_rounds": 1},
    "laptop": {"n": 64, "batch": 128, "deep": 8, "side": 224, "steps": 2, "copies": 3,
               "rounds": 3, "deep_rounds": 2},
    "paper": {"n": 1000, "batch": 128, "deep": 8, "side": 224, "steps": 10, "copies": 5,
              "rounds": 5, "deep_rounds": 5},
}  # fmt: skip
RUN = al.chapters.begin("A3", globals(), SETTINGS)
n, device = RUN["n"], RUN.device
print(RUN)

# %% [markdown]
# ## What is measured, and how
#
# A time depends on the processor, its number types and the threads that torch takes. Bfloat16 is fast only where the
# processor multiplies it natively; elsewhere it is emulated and may be slower than float32.


# %%
def native_bfloat16():
    """ "yes", "no", or "unknown": whether this device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    known = [capabilities[k] for k in ("avx512_bf16", "amx_bf16", "bf16") if k in capabilities]
    return "unknown" if not known else "yes" if any(known) else "no"


info = al.provenance.run_info(device) | {"threads": torch.get_num_threads()}
conditions = info | {"cores": os.cpu_count(), "vector instructions": torch.backends.cpu.get_cpu_capability()}
pd.Series(conditions | {"native bfloat16": native_bfloat16()}, name="this run").astype(str).to_frame()

# %% [markdown]
# Other programs come and go while a notebook runs. `timed` therefore lets the contestants take turns, one call each per
# round, and every ratio is formed *within* a round, from calls that ran close to each other. Reported are the median
# over the rounds and the range from the smallest to the largest. On a GPU the clock stops when the device has finished.


# %%
def timed(contestants, repeats, warm=None):
    """Seconds, one row a round and one column a contestant; before that `warm`, or each contestant once."""
    for function in contestants.values() if warm is None else [warm]:
        function()
    rounds = []
    for _ in range(repeats):
        rounds.append({})
        for name, function in contestants.items():
            wait()
            start = perf_counter()
            function()
            wait()
            rounds[-1][name] = perf_counter() - start
    return pd.DataFrame(rounds)


# %%
def wait():
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


# %%
def spread(ratios):
    """Median and range of the ratios of the rounds."""
    return {"ratio": ratios.median(), "low": ratios.min(), "high": ratios.max()}


rows = []


def record(what, model, batch, ratios):
    """One row of the CSV of this chapter, also returned for a table."""
    rows.append({"what": what, "model": model, "batch": batch, **spread(ratios), **info})
    return spread(ratios)


# %%
def tabulate(table, *names):
    """A table from {(one value for each name): row}."""
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(list(names)).round(2)


# %% [markdown]
# By hand: one contestant does the work of the other twice, so that the ratio should be about 2, whatever the machine.

# %%
square = torch.rand(800, 800, device=device)
seconds = timed({"once": lambda: square @ square, "twice": lambda: square @ square @ square}, 10)
pd.Series(spread(seconds["twice"] / seconds["once"]), name="twice / once").round(2).to_frame().T

# %% [markdown]
# ## The networks
#
# One small network of this book, and a ResNet-50 of torchvision with random weights: its speed does not depend on them.


# %%
def network(name):
    """A net of the zoo; untrained, with a visible note, where its weights are missing."""
    try:
        return al.models.load(name).to(device)
    except al.weights.WeightsError:
        note = f"**Note:** no weights for `{name}`: an untrained net stands in; success rates below mean nothing."
        display(Markdown(note))
        return al.models.create(name.split("/")[1], dataset=dataset).eval().to(device)


small, other = network(f"{dataset}/resnet"), network(f"{dataset}/vgg")
torch.manual_seed(seed)
plain50 = torchvision.models.resnet50(weights=None)
resnet50 = al.Normalized(plain50, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval().to(device)

# %%
images = al.datasets.load(dataset, "test", max(n, RUN["batch"])).to(device)
x, y = images.x[: RUN["batch"]], images.y[: RUN["batch"]]
deep_x = F.interpolate(images.x[: RUN["deep"]], (RUN["side"], RUN["side"]), mode="bilinear")
deep_y = images.y[: RUN["deep"]]
CASES = {"small ResNet": (small, x, y, RUN["rounds"]), "ResNet-50": (resnet50, deep_x, deep_y, RUN["deep_rounds"])}
size = {k: sum(p.numel() for p in c[0].parameters()) / 1e6 for k, c in CASES.items()}
pd.DataFrame(
    {
        k: {"batch": len(c[1]), "side (pixels)": c[1].shape[2], "rounds": c[3], "parameters (M)": size[k]}
        for k, c in CASES.items()
    }
).T.round(2)

# %% [markdown]
# ## Loop overhead
#
# Nearly all the time of an attack should go into forward and backward passes. The yardstick is one *bare* pass: the
# loss of one batch and its gradient at the input, weights frozen, everything in channels_last.

# %%
NHWC = torch.channels_last


def bare(model, x, y):
    """Gradient of the summed cross-entropy at x, shape of x: the least that one pass of an attack must do."""
    point = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)[0]


def prepared(model):
    """A frozen copy with weights in channels_last."""
    return copy.deepcopy(model).requires_grad_(False).to(memory_format=NHWC)


# %% [markdown]
# An attack also has a cost per call: the first images go through the network to check its output, and the weights change
# their layout. Thesis attacks take $T = 10$ steps. A short timing would charge that cost to fewer steps, so it is
# measured by itself, and the overhead is stated for ten:
#
# $$\frac{t_{attack} - t_{call}\,(1 - T/10)}{\text{passes} \times t_{bare}}$$

# %%
ATTACKS = {
    "MI": al.attacks.mi_fgsm,
    "EM": al.attacks.em_fgsm,
    "DIM": al.attacks.dim,
    "RE": al.attacks.re_fgsm,
    "SIM": al.attacks.sim,
}
COPIES = {"RE": 5, "SIM": 5}


def per_call(model, x, y):
    """What an attack does before its first step, beside arithmetic on the images."""
    with al.surrogate.frozen([model]):
        al.checks.outputs([model], x.contiguous(memory_format=NHWC), y=y)


# %%
def overhead(case, model, x, y, rounds):
    """Rows: attack time over the time of its passes, at ten steps."""
    single = min(RUN["steps"], 10)
    steps = {a: max(1, single // 2) if a in COPIES else single for a in ATTACKS}
    frozen, nhwc = prepared(model), x.contiguous(memory_format=NHWC)
    contestants = {a: partial(f, model, x, y, steps=steps[a], seed=seed) for a, f in ATTACKS.items()}
    contestants |= {"bare": partial(bare, frozen, nhwc, y), "call": partial(per_call, model, x, y)}
    seconds, table = timed(contestants, rounds, warm=contestants["MI"]), {}
    for a in ATTACKS:
        passes = steps[a] * COPIES.get(a, 1)
        ratios = (seconds[a] - seconds["call"] * (1 - steps[a] / 10)) / (passes * seconds["bare"])
        found = record(f"loop overhead {a}", case, len(x), ratios)
        table[case, a] = found | {"passes timed": passes, "at most 1.05": "yes" if found["ratio"] <= 1.05 else "no"}
    return table


# %%
tables = {k: v for case, c in CASES.items() for k, v in overhead(case, *c).items()}
tabulate(tables, "model", "attack")

# %% [markdown]
# *Attack time over the time of its passes: median, smallest and largest of the rounds. 1 is a loop that costs nothing.
# The target is at most 1.05; on a busy machine the range is wider than the distance to it, and a single verdict means
# little.*
#
# ## A penalty costs a pass
#
# The gradient norm penalty of chapter 3 takes two gradients where the attack takes one. The rest of the loop is shared,
# so that the price should be 2, and at most 2.05.

# %%
PENALISED = {"I-FGSM": al.attacks.i_fgsm, "DIM": al.attacks.dim}


def price(case, model, x, y, rounds):
    """Rows: time of an attack with the penalty over that without it, at the same steps."""
    options = {"steps": RUN["steps"], "seed": seed}
    contestants = {a: partial(f, model, x, y, **options) for a, f in PENALISED.items()}
    contestants |= {f"{a}+GNP": partial(f, model, x, y, **options, **al.GNP) for a, f in PENALISED.items()}
    seconds = timed(contestants, rounds)
    return {
        (case, a): record(f"price of GNP on {a}", case, len(x), seconds[f"{a}+GNP"] / seconds[a]) for a in PENALISED
    }


# %%
prices = {k: v for case, c in CASES.items() for k, v in price(case, *c).items()}
tabulate(prices, "model", "attack")

# %% [markdown]
# *Time with GNP over time without it: median, smallest and largest of the rounds.*
#
# ## A Lipschitz penalty costs derivatives of derivatives
#
# A step of training goes through the network three times: forward, back to the features, back to the weights. The penalties
# of chapter 4 add to that. In passes of the same three kinds, the derivative of a backward pass counted as two:
#
# | step | forward | back to the image | back to the weights | derivative of the way back | sum | over 3 |
# |---|---|---|---|---|---|---|
# | plain | 1 | 1 | 1 | | 3 | 1 |
# | LRS-1 | 2 | 1 + 2 | 2 | | 7 | 2.3 |
# | LRS-2 | 2 | 2 + 2 | 2 | 4 | 12 | 4 |
# | LRS-F | 3 | 2 + 3 | 3 | 4 | 15 | 5 |
#
# A DenseNet has a BatchNorm for each convolution, and torch puts its second derivative together from two dozen
# passes over the features; that of a convolution by its weights it takes as one whose kernel is as large as the image, group
# by group. `advlib.core.second_order` has both in closed form; *LRS-2, torch's* is the same step without them, in the few lines
# of `torchs_lrs2`. (The page you read was timed when the convolution had none. With it a step of LRS-2 took 2.22 times one of
# LRS-1 in place of 2.51 on this DenseNet, in batches of 32, and 2.25 in place of 6.61 on a MobileNet v2 of random weights, 112
# pixels, batches of 4, whose convolutions have many groups: medians of four rounds on one thread of a busy machine.)

# %%
NONE, LRS = (0.0, 0.0), al.objectives.LipschitzRegularized
OBJECTIVES = {"plain": LRS(*NONE), "LRS-1": LRS(5.0, 0.0), "LRS-2": LRS(0.0, 5.0), "LRS-F": LRS()}
EXPECTED = {"LRS-1": 7 / 3, "LRS-2": 4.0, "LRS-F": 5.0}
surrogate = network(f"{dataset}/densenet").train().requires_grad_(True).to(memory_format=NHWC)


def training_step(objective, bf16):
    """Loss and weight gradients of one batch, as in `training.fit`."""
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = objective(surrogate, x.contiguous(memory_format=NHWC), y, al.draws.Draw(seed, images.index[: len(x)]))
    surrogate.zero_grad(set_to_none=True)
    loss.backward()


# %%
def loss_and_gradient(model, point, y):
    """Cross-entropy of images, and its gradient with a graph, in torch's operations."""
    point = point.detach().requires_grad_()
    loss = F.cross_entropy(model(point), y, reduction="none")
    return loss, torch.autograd.grad(loss.sum(), point, create_graph=True)[0]


def torchs_lrs2(model, x, y, draw, h=1.5):
    """What `OBJECTIVES["LRS-2"]` computes."""
    loss, here = loss_and_gradient(model, x, y)
    d = al.lipschitz.unit_direction(here, "unit_sign")
    with al.batchnorm.unrecorded(model):
        _, there = loss_and_gradient(model, x + h * d, y)
    turn = torch.linalg.vector_norm((there - here).flatten(1), dim=1)
    return loss.mean() + 5.0 * (turn / len(x)).mean()


# %%
batch = x.contiguous(memory_format=NHWC)
draw = al.draws.Draw(seed, images.index[: len(x)])
values = [f(surrogate, batch, y, draw) for f in (OBJECTIVES["LRS-2"], torchs_lrs2)]
assert torch.allclose(*values, rtol=1e-3)


# %%
def steps_of_training(bf16):
    """Rows: time of a step with a penalty over that of a plain step."""
    objectives = OBJECTIVES | {"LRS-2, torch's": torchs_lrs2}
    steps = {k: partial(training_step, f, bf16) for k, f in objectives.items()}
    seconds, form = timed(steps, RUN["deep_rounds"]), "bfloat16" if bf16 else "float32"
    ratios = {k: seconds[k] / seconds["plain"] for k in steps if k != "plain"}
    where = "small DenseNet", len(x)
    return {(form, k): record(f"step of {k}, {form}", *where, v) for k, v in ratios.items()}


# %%
table = tabulate(steps_of_training(False) | steps_of_training(True), "passes in", "step")
table.assign(expected=[EXPECTED.get(name.partition(",")[0]) for _, name in table.index]).round(2)

# %% [markdown]
# *Time of a step over that of a plain one: median, smallest and largest of the rounds.* LRS-1 costs what its passes
# cost. The second order costs more than its passes: they count the work of convolutions, and the way back through the
# rest (BatchNorm, ReLU, the concatenations of a DenseNet) is bound by memory, and has more and more passes of that kind
# the more often it is differentiated. The faster the convolutions, the more this shows: in bfloat16 more than in
# float32.
#
# ## Integrated gradients in one go
#
# TAIG takes the gradient at 20 points of a path for every step. Ours goes over images and points together; the loop goes
# image by image, with all points of an image at once.

# %%
BATCH, POINTS = min(32, len(x)), 20
alone = [
    partial(al.attacks.taig, small, x[i : i + 1], y[i : i + 1], index=images.index[i : i + 1]) for i in range(BATCH)
]
options = {"eps": 8 / 255, "steps": 1, "points": POINTS, "seed": seed}
together = partial(al.attacks.taig, small, x[:BATCH], y[:BATCH], index=images.index[:BATCH], **options)


def image_by_image():
    """The same examples, one image at a time."""
    return torch.cat([one(chunk=POINTS, **options) for one in alone])


# %%
same = (together() == image_by_image()).float().mean().item()
seconds = timed({"together": together, "loop": image_by_image}, RUN["rounds"])
taig = {
    ("small ResNet", "TAIG"): record(
        "TAIG in a batch, over a loop", "small ResNet", BATCH, seconds["loop"] / seconds["together"]
    )
}
print(f"{same:.1%} of the pixels are the same in both")
tabulate(taig, "model", "attack")

# %% [markdown]
# *Time of the loop over time of the batch, 32 images at laptop scale: median, smallest and largest of the rounds.*
#
# ## A step of SAM
#
# SAM takes two passes where SGD takes one, CR-SAM three: 2 and 3 is the floor, 2.1 and 3.15 the aim at batch 128.

# %%
MAKES = {"SGD": torch.optim.SGD, "SAM": al.sam.SAM, "CR-SAM": al.sam.CRSAM}
PASSES = {"SAM": 2, "CR-SAM": 3}


# %%
def step_of(make, bf16):
    """A function that takes one step of training with an optimizer, in place, at a rate that changes next to nothing."""
    net = copy.deepcopy(small).train().requires_grad_(True).to(memory_format=NHWC)
    optimizer = make(net.parameters(), lr=1e-9, momentum=0.9)
    batch = x.contiguous(memory_format=NHWC)

    def closure():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(batch), y)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


# %%
def prices_of_sam(bf16):
    """Rows: time of a step over that of SGD."""
    seconds = timed({name: step_of(make, bf16) for name, make in MAKES.items()}, 3 * RUN["rounds"])
    form = "bfloat16" if bf16 else "float32"
    ratios = {name: seconds[name] / seconds["SGD"] for name in PASSES}
    return {(form, k): record(f"optimizer {k}, {form}", "small ResNet", len(x), v) for k, v in ratios.items()}


# %%
table = tabulate(prices_of_sam(False) | prices_of_sam(True), "passes in", "optimizer")
table.assign(floor=[PASSES[name] for _, name in table.index])

# %%
if device.type == "cuda":
    peaks = {}
    for name, make in MAKES.items():
        step_of_it = step_of(make, False)
        step_of_it()
        torch.cuda.reset_peak_memory_stats()
        step_of_it()
        peaks[name] = torch.cuda.max_memory_allocated() / 2**20
    display(pd.Series(peaks, name="peak GPU memory (MiB)").round(0).to_frame())
else:
    kept = {
        "SAM": "two copies of the weights: the old ones and the step",
        "CR-SAM": "five: the old ones, the step and three gradients",
    }
    display(Markdown("*Peak memory is measured on GPUs only. Beyond SGD's, by construction:*"))
    display(pd.Series(kept, name="").to_frame())

# %% [markdown]
# The two perturbed passes of CR-SAM do not need one another (Figure 5.3). Two processes of one thread each take one of them
# each; beside them one process of one thread takes steps of SGD and of CR-SAM, all on the same batch. The floor is 2:
# the first pass, and the two others at once.

# %%
SCRIPT = """
import sys, time, torch, torch.nn.functional as F, torch.distributed as dist
from contextlib import nullcontext
from functools import partial
import advlib as al
name, batch, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
if name == "side by side":
    dist.init_process_group("gloo")
net = al.models.create("resnet").train()
x, y = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10
options = {"lr": 1e-9, "momentum": 0.9}
side_by_side = partial(al.training.SideBySideCRSAM, local=nullcontext)
make = {"SGD": torch.optim.SGD, "side by side": side_by_side}.get(name, al.sam.CRSAM)
optimizer = make(net.parameters(), **options)
def closure():
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    return loss
optimizer.step(closure)
times = []
for _ in range(rounds):
    start = time.perf_counter()
    optimizer.step(closure)
    times.append(time.perf_counter() - start)
if not dist.is_initialized() or dist.get_rank() == 0:
    print("seconds", sorted(times)[len(times) // 2])
"""


# %%
def seconds_of(name):
    """The median of the steps of a process, or of two, that run the script."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if name == "side by side" else []
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(SCRIPT)
        file.flush()
        command = [sys.executable, *many, file.name, name, str(len(x)), str(3 * RUN["rounds"])]
        environment = os.environ | {"PYTHONPATH": str(al.paths.ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return float(done.stdout.split("seconds ")[1].split()[0])


# %%
found = pd.DataFrame([{name: seconds_of(name) for name in ("SGD", "CR-SAM", "side by side")} for _ in range(2)])
side = {
    ("small ResNet", name): record(
        f"optimizer {name}, one thread a process", "small ResNet", len(x), found[name] / found["SGD"]
    )
    for name in ("CR-SAM", "side by side")
}
tabulate(side, "model", "CR-SAM")

# %% [markdown]
# *Time of a step over that of SGD, in processes of their own on the processor: median, smallest and largest of two rounds.*
#
# ## The trace of the Hessian
#
# Beside PyHessian, on the small ResNet and 64 test images. Both average $v^\top H v$ over random signs; `advlib.curvature` takes ten
# Lanczos vectors out first. The standard error falls with the root of the probes, so a few of them tell how
# many an error of one percent takes.

# %%
PROBES = 4 * RUN["rounds"]
ours_net, theirs_net = (copy.deepcopy(small).eval().requires_grad_(True) for _ in range(2))
data64 = images[:64]
loss = al.curvature.mean_loss(ours_net, data64, 64)


# %%
def to_one_percent(estimate, error, seconds, probes, before=0.0):
    """What it takes to a standard error of 1 %, if `probes` took `seconds` beyond the `before` that is spent once."""
    needed = probes * (error / (0.01 * abs(estimate))) ** 2
    return {
        "trace": estimate,
        "standard error": error,
        "probes to 1 %": needed,
        "seconds": before + seconds * needed / probes,
    }


# %%
def ours(deflate):
    """Ten Lanczos vectors are the time of no probe less; both are timed."""
    start = perf_counter()
    al.curvature.hutchinson_trace(loss, al.curvature.weights(ours_net), probes=1, deflate=deflate)
    once = perf_counter() - start
    start = perf_counter()
    found = al.curvature.hutchinson_trace(loss, al.curvature.weights(ours_net), probes=PROBES, deflate=deflate)
    return to_one_percent(found.value, found.standard_error, perf_counter() - start - once, PROBES - 1, once)


# %%
traces = {"this book": ours(10), "this book, deflate=0": ours(0)}
if hessian is None:
    display(Markdown("*PyHessian is not installed (`pip install -e '.[bench]'`): no comparison.*"))
else:
    start = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a graph of its gradients, of which torch warns
        cuda = device.type == "cuda"
        setup = hessian(theirs_net, torch.nn.CrossEntropyLoss(), data=(data64.x, data64.y), cuda=cuda)
    once = perf_counter() - start
    start = perf_counter()
    found = np.array(setup.trace(maxIter=PROBES, tol=0))
    error = found.std(ddof=1) / len(found) ** 0.5
    traces["PyHessian"] = to_one_percent(found.mean(), error, perf_counter() - start, len(found), once)
    apart = (
        abs(traces["this book"]["trace"] - found.mean())
        / (error**2 + traces["this book"]["standard error"] ** 2) ** 0.5
    )
    faster = traces["PyHessian"]["seconds"] / traces["this book"]["seconds"]
    record("trace to 1 %, over PyHessian", "small ResNet", 64, pd.Series([faster]))
    print(f"{apart:.1f} standard errors apart; {faster:.0f} times as fast to the same standard error")
pd.DataFrame(traces).T.round(2)

# %% [markdown]
# *Extrapolated to an error of 1 % of the trace.*
#
# ## Faster copies of the surrogate
#
# `accelerate` makes a copy of a network for the attack loop: every BatchNorm folded into the convolution before it,
# channels_last, and bfloat16 if asked for. Folding is exact up to rounding; bfloat16 is not, since it keeps eight
# significant bits of each number.

# %%
VARIANTS = {
    "plain": lambda f: f,
    "channels_last": prepared,
    "folded": al.accelerate,
    "bfloat16": partial(al.accelerate, dtype=torch.bfloat16),
}
if compile:
    VARIANTS["folded, compiled"] = partial(al.accelerate, compile=True)
    VARIANTS["bfloat16, compiled"] = partial(al.accelerate, dtype=torch.bfloat16, compile=True)


# %%
def faster(case, model, x, y, rounds):
    """Rows: time of one input-gradient pass of the plain network over that of each copy."""
    nets = {name: make(copy.deepcopy(model).requires_grad_(False)) for name, make in VARIANTS.items()}
    inputs = {name: x if name == "plain" else x.contiguous(memory_format=NHWC) for name in nets}
    seconds = timed({name: partial(bare, net, inputs[name], y) for name, net in nets.items()}, rounds)
    names = [name for name in nets if name != "plain"]
    return {(case, name): record(f"pass, {name}", case, len(x), seconds["plain"] / seconds[name]) for name in names}


# %%
speedups = {k: v for case, (*c, rounds) in CASES.items() for k, v in faster(case, *c, 2 * rounds).items()}
tabulate(speedups, "model", "copy")

# %% [markdown]
# *How many times faster than the plain network in torch's default layout: median, smallest and largest of the rounds.*
#
# ### What the copies do to the attack
#
# A copy is worth having only if it finds the same examples. MI-FGSM at $\epsilon = 8/255$, ten steps, on the same
# images from the plain network and from each copy, judged by the same two plain networks.

# %%
EPS, data = 8 / 255, images[:n]
judges = {"white-box (itself)": small, "black-box (VGG)": other}
copies = {name: VARIANTS[name](small) for name in ("plain", "folded", "bfloat16")}


@torch.no_grad()
def judged(adv):
    """What each judge predicts for the adversarial images, int64 (n,)."""
    parts = adv.split(250)
    return {name: torch.cat([model(p).argmax(1) for p in parts]).cpu() for name, model in judges.items()}


def attacked(attack):
    """attack(x, y, index) over all of `data`, in batches, as one tensor."""
    return torch.cat([attack(b.x, b.y, b.index) for b in data.batches(RUN["batch"])])


# %%
def mi(model, x, y, index):
    return al.attacks.mi_fgsm(model, x, y, eps=EPS, seed=seed, index=index)


predicted = {name: judged(attacked(partial(mi, model))) for name, model in copies.items()}


# %%
def compared(ours, base):
    """Success of two attacks on the same images by one judge: rates, paired difference, changed predictions."""
    truth = data.y.cpu()
    difference, low, high = al.intervals.paired_difference((ours != truth).numpy(), (base != truth).numpy())
    rates = [100 * (p != truth).float().mean().item() for p in (base, ours)]
    changed = 100 * (ours != base).float().mean().item()
    return {
        "base ASR (%)": rates[0],
        "ASR (%)": rates[1],
        "difference (points)": difference,
        "95 % low": low,
        "95 % high": high,
        "other prediction (%)": changed,
        "n": len(truth),
    }


# %%
base = predicted["plain"]
table = {(name, j): compared(predicted[name][j], base[j]) for name in ("folded", "bfloat16") for j in judges}
tabulate(table, "copy", "judge").round(1)

# %% [markdown]
# *Base: the plain network as surrogate. The interval is Newcombe's for paired proportions, in percentage points. All n
# images count, those that a judge gets wrong from the start as well: they are the same in both rates.*

# %% tags=["nbval-check-output"]
logits = {name: model(x[:8]).detach() for name, model in copies.items()}
size = logits["plain"].abs().max()
relative = {name: ((v - logits["plain"]).abs().max() / size).item() for name, v in logits.items()}
assert relative["folded"] < 1e-3 and relative["bfloat16"] < 0.1
print("folding changes the logits by rounding only:", relative["folded"] < 1e-3)
print("bfloat16 changes them more:", relative["bfloat16"] > relative["folded"])

# %% [markdown]
# ## Beside torchattacks
#
# torchattacks (Kim 2020) is the library that most people would take. What its source, version 3.3, says about the pairs
# timed here, at the same budget, step and number of steps:
#
# | torchattacks | here | where they part |
# |---|---|---|
# | PGD | `pgd` | nowhere: here both start at $x$, so that no draw differs |
# | MIFGSM, NIFGSM | `mi_fgsm`, `ni_fgsm` | nowhere: both divide by the mean absolute gradient of an image |
# | SINIFGSM | `sim` with `Elastic(1, 1)` | nowhere |
# | TIFGSM | `tim` | theirs has input diversity, here with probability 0: the resized image is thrown away |
# | DIFGSM | `dim` | **another method**: see below |
#
# DIFGSM draws one size and one place *for the whole batch*, in whole pixels: the image shrinks to 0.9 to 1 of its side
# and is padded back. `dim` draws for every image, and shrinks to 1/1.1 to 1 of the side. Success rates need not agree
# there.
#
# Three more differences touch all of them. Their loss is the batch mean, ours the sum: no matter after normalising, but
# a gradient of exactly 0 becomes NaN there and 0 here. They keep the layout of network and images as it is, and weights
# that want gradients keep more for the backward pass. They check no output of the network; our check costs a forward
# pass of the first images in every call.

# %%
SAME = {"alpha": EPS / 10, "steps": 10}
NESTEROV = {"momentum": al.Elastic(mu=1.0, sigma=1.0), "copies": RUN["copies"]}
NO_DI = {"diversity_prob": 0.0, "len_kernel": 7}
PAIRS = {  # name: their options, ours
    "PGD": ({"random_start": False}, partial(al.attacks.pgd, start="none")),
    "MIFGSM": ({"decay": 1.0}, al.attacks.mi_fgsm),
    "NIFGSM": ({"decay": 1.0}, al.attacks.ni_fgsm),
    "TIFGSM": ({"decay": 1.0, **NO_DI}, partial(al.attacks.tim, kernel=7)),
    "DIFGSM": ({"decay": 1.0}, al.attacks.dim),
    "SINIFGSM": ({"decay": 1.0, "m": RUN["copies"]}, partial(al.attacks.sim, **NESTEROV)),
}
if torchattacks is None:
    PAIRS = {}
    note = "**Note:** torchattacks is not installed: this section stays empty. `pip install -e .[bench]` adds it."
    display(Markdown(note))


# %%
def contest(name):
    """Contestants of one pair: torchattacks, ours on the same network, ours on its copies. Each returns its images."""
    options, ours = PAIRS[name]
    theirs = getattr(torchattacks, name)
    made = {
        "torchattacks": lambda x, y, index: theirs(small, eps=EPS, **SAME, **options)(x, y),
        "torchattacks, folded": lambda x, y, index: theirs(copies["folded"], eps=EPS, **SAME, **options)(x, y),
    }
    for variant, model in copies.items():
        label = "ours" if variant == "plain" else f"ours, {variant}"
        made[label] = lambda x, y, index, model=model: ours(model, x, y, eps=EPS, **SAME, seed=seed, index=index)
    return made


# %% [markdown]
# `torchattacks, folded` hands them our folded copy, for MI-FGSM only: what is left between it and `ours, folded` is the
# loop alone.


# %%
def bench(name):
    """Rows of one pair: images per second against torchattacks, and the predictions of the judges."""
    torch.manual_seed(seed)  # torchattacks draws from torch's own generator
    found, made = {}, contest(name)
    if name != "MIFGSM":
        del made["torchattacks, folded"]  # once is enough
    run = {k: (lambda k=k, f=f: found.update({k: attacked(f)})) for k, f in made.items()}
    seconds = timed(run, min(2, RUN["rounds"]), warm=lambda: al.attacks.fgsm(small, data.x, data.y))
    batch = min(n, RUN["batch"])
    speed = {
        k: record(f"{name}: {k} / torchattacks", "small ResNet", batch, seconds["torchattacks"] / seconds[k])
        for k in run
        if k != "torchattacks"
    }
    return speed, {k: judged(adv) for k, adv in found.items()}


# %%
benches = {name: bench(name) for name in PAIRS}

# %%
if benches:
    speed = {(name, k): v for name, (s, _) in benches.items() for k, v in s.items()}
    display(tabulate(speed, "attack", "contestant"))

# %% [markdown]
# *Images per second over those of torchattacks on the plain network: median, smallest and largest of the rounds. Below
# 1 we are slower. Aims: 1.4 in float32 and 3 in bfloat16. Neither is reached on the 2 cores of our CIFAR-10 run (n = 1,000
# images, `data/results/laptop/cifar10/speed.csv`): medians of 1.27 to 1.40 folded and of 2.24 to 2.53 in bfloat16.*
#
# Do both find the same? Ours against theirs on the plain network, same images:

# %%
if benches:
    table = {
        (name, k, j): compared(p[k][j], p["torchattacks"][j])
        for name, (_, p) in benches.items()
        for k in ("ours", "ours, bfloat16")
        for j in judges
    }
    table = tabulate(table, "attack", "contestant", "judge").rename(columns={"base ASR (%)": "torchattacks ASR (%)"})
    near = (table["difference (points)"].abs() <= 1).map({True: "yes", False: "no"})
    display(table.round(1).assign(**{"within 1 point": near}))

# %%
if benches:
    raced = [r for r in rows if r["what"].endswith("/ torchattacks") and ": ours" in r["what"]]
    slower = [f"{r['what'].removesuffix(' / torchattacks')} ({r['ratio']:.2f})" for r in raced if r["ratio"] < 1]
    display(Markdown("Slower than torchattacks in this run: " + (", ".join(slower) or "none") + "."))

# %% [markdown]
# Where ours is the slower one on the plain network, three things can be the cause: `DIFGSM` draws once for the batch
# and calls one interpolation, ours draws for every image and multiplies by one matrix each; random numbers come from a
# hash instead of torch's generator, which is the price of a result that does not depend on the batch; and input and
# output are checked in every call, which shows on small batches.
#
# ## Memory does not grow with the copies
#
# The memory of an attack is that of its largest batch. Recorded here: the most images that reach the network at once,
# for SIM with 5 and 25 copies.


# %%
def largest_batch(copies, chunk, batch=4):
    """The most rows in one forward pass of SIM on `batch` images."""
    seen = []
    hook = small.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    try:
        al.attacks.sim(small, x[:batch], y[:batch], steps=1, copies=copies, chunk=chunk)
    finally:
        hook.remove()
    return max(seen)


# %% tags=["nbval-check-output"]
largest = {(c, k): largest_batch(c, k) for c in (5, 25) for k in (1, 5)}
for (c, k), rows_seen in largest.items():
    print(f"{c:2} copies, chunk {k}: at most {rows_seen:2} images at once for a batch of 4")
assert largest[5, 1] == largest[25, 1] and largest[5, 5] == largest[25, 5]

# %%
if device.type == "cuda":
    peaks = {}
    for c, k in largest:
        torch.cuda.reset_peak_memory_stats()
        al.attacks.sim(small, x, y, steps=1, copies=c, chunk=k)
        peaks[f"{c} copies, chunk {k}"] = torch.cuda.max_memory_allocated() / 2**20
    display(pd.Series(peaks, name="peak GPU memory (MiB)").round(0).to_frame())
else:
    display(Markdown("*Peak memory in bytes is measured on GPUs only: torch keeps no such count on a CPU.*"))

# %% [markdown]
# ## The loop never waits for the device
#
# A step that asked the device for a number (`.item()`, an `if` on a tensor) would stop a GPU in every step.
# `torch.compile` with `fullgraph=True` refuses such a step; the backend "eager" runs the traced operations as they are,
# so that no compiler is needed. One step with everything: elastic momentum, random erasure, scale copies, input
# diversity, smoothing.

# %%
frozen = prepared(small)
everything = [al.RandomErasure(copies=2), al.ScaleCopies(2), al.InputDiversity()]
g = al.smoothed(al.gradient(frozen, everything, chunk=4), kernel=7)
some_x, some_y = x[:4].contiguous(memory_format=NHWC), y[:4]
draw = al.draws.Draw(seed, images.index[:4], step=1)
ball = al.balls.LinfBall.around(some_x, EPS, alpha=EPS / 10)
step = partial(al.loop.step, y=some_y, g=g, rule=al.Elastic(sigma=2.0), ball=ball)

# %% tags=["nbval-check-output"]
compiled = torch.compile(lambda adv, m, draw: step(adv, m, draw=draw), fullgraph=True, backend="eager")
m = torch.zeros_like(some_x)
for ours, plain in zip(compiled(some_x, m, draw), step(some_x, m, draw=draw), strict=True):
    assert torch.allclose(ours, plain, atol=1e-4)
print("one graph, no break")

# %%
if device.type == "cuda":
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(some_x, m, draw=draw)
        print("a step ran with waiting forbidden")
    finally:
        torch.cuda.set_sync_debug_mode("default")

# %% [markdown]
# ## The numbers as a file, and in one picture

# %%
file = RUN.tables / "speed.csv"
columns = ["what", "model", "batch", "ratio", "low", "high", "device", "torch", "threads", "commit"]
frame = pd.DataFrame(rows)[columns]
with al.paths.replacing(file) as partial_file:
    frame.to_csv(partial_file, index=False, lineterminator="\n")
print(f"{len(frame)} rows in {os.path.relpath(file, al.paths.ROOT)}")


# %%
def bars(ax, part, mark, title):
    """Horizontal bars of ratios with their range, a line at `mark`."""
    short = part.what.str.replace(
        r"^(loop overhead|price of|step of|pass,|optimizer) | / torchattacks$", "", regex=True
    )
    labels = short + (", " + part.model if part.model.nunique() > 1 else "")
    error = [part.ratio - part.low, part.high - part.ratio]
    ax.barh(range(len(part)), part.ratio, xerr=error, color=al.plotting.COLOURS[4], capsize=2, height=0.7)
    ax.axvline(mark, color=al.plotting.COLOURS[2], ls="--", lw=1)
    ax.set_yticks(range(len(part)), labels, fontsize=7)
    ax.invert_yaxis()
    ax.set(title=title, xlabel="ratio (no unit)")
    ax.grid(axis="y", visible=False)


# %%
groups = {
    "Attack over its passes (line: 1.05)": (frame[frame.what.str.startswith("loop")], 1.05),
    "GNP over the attack without it (line: 2.05)": (frame[frame.what.str.startswith("price")], 2.05),
    "A step of fine-tuning over a plain one (line: 1)": (frame[frame.what.str.startswith("step of")], 1.0),
    "A step of SAM and CR-SAM over one of SGD (line: 2)": (frame[frame.what.str.startswith("optimizer")], 2.0),
    "Speed over the plain network (line: 1)": (frame[frame.what.str.startswith("pass")], 1.0),
    "Speed over torchattacks (line: 1)": (frame[frame.what.str.contains("torchattacks")], 1.0),
}
groups = {title: g for title, g in groups.items() if len(g[0])}
with al.plotting.style():
    heights = [len(part) + 2 for part, _ in groups.values()]
    fig, axes = plt.subplots(len(groups), 1, figsize=(6.5, 0.19 * sum(heights)), height_ratios=heights)
    plt.close(fig)
    for ax, (title, (part, mark)) in zip(axes, groups.items(), strict=True):
        bars(ax, part, mark, title)
al.plotting.save(fig, f"fig_A3_speed_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A3. Ratios of this run; bars are medians, whiskers the smallest and largest round.*
#
# ## How to read the result
#
# - The first panel says what the loop costs beyond its passes. A value above the line on the ResNet-50 weighs more than
#   one on the small network, whose passes are short. A whisker that crosses the line says that this machine was too
#   busy, or the rounds too few, to tell.
# - The second says what the penalty of chapter 3 costs.
# - The third says what a step of chapter 4's fine-tuning costs.
# - The fourth says what the optimizers of chapter 5 cost, alone and side by side.
# - The fifth says what to gain by `al.accelerate(model)`, and with `dtype=torch.bfloat16`. Without native bfloat16 (see
#   the conditions) the latter gains nothing.
# - The sixth mixes both: `ours` is the loop, `folded` and `bfloat16` the loop and the copy. The table of success rates
#   belongs to it: a gain at another success rate would be no gain.
# - Ratios change with the machine, too, if less than seconds do: the number of cores and the memory decide how much of
#   a pass is arithmetic.
#
# ## Summary
#
# - A gradient attack costs its passes; count passes first, and keep the loop around them thin.
# - Folded BatchNorm and channels_last change results by float32 rounding only; bfloat16 trades digits for time, and the
#   paired table says what it costs in success.
# - Copies go through the network in chunks: memory is set by the chunk and the batch, not by their number.
# - A step is one graph without a wait for the device.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* Run this chapter with `-p compile=True`. After how many batches of MI-FGSM has the compiler's own
#    time been earned back?
# 2. *Derive.* A BatchNorm in eval mode maps $z$ to $\gamma (z - \mu)/\sqrt{v + \epsilon} + \beta$. Write the weights
#    and the bias of the folded convolution, and say why a BatchNorm *before* a convolution with zero padding cannot be
#    folded into it exactly.
# 3. *Build.* Write a contestant that attacks with `chunk=5` in SIM, and time it against `chunk=1` at batches of 1, 8
#    and 128. When does a larger chunk pay?
#
# ## References
#
# - H. Kim, *Torchattacks: a PyTorch repository for adversarial attacks*, arXiv:2010.01950, 2020.
# - PyTorch, *Channels last memory format in PyTorch*, tutorial, docs.pytorch.org.
# - B. Jacob et al., *Quantization and training of neural networks for efficient integer-arithmetic-only inference*
#   (folding of BatchNorm, sect. 3.2), CVPR 2018.
# - D. Kalamkar et al., *A study of BFLOAT16 for deep learning training*, arXiv:1905.12322, 2019.
# - J. Ansel et al., *PyTorch 2: faster machine learning through dynamic Python bytecode transformation and graph
#   compilation*, ASPLOS 2024.
