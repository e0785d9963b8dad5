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
# Where does the time of an attack go, and what does each way to make it faster do to the result? The chapter counts the
# arithmetic and the memory traffic of a pass, draws them under the ceilings of this machine, pulls one lever after another, and
# ends beside other libraries.
#
# Seconds belong to one machine, so that everything here is a *ratio within one run*. Nothing is asserted about time; the
# tables say what was found, and whether an aim was met. What measures is `advlib.bench.speed`; `make gpu` runs it on a GPU.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10 or cifar100
n: int = 0  # images for success rates and for the comparison with torchattacks, 0 takes the number of the scale;
# at least 0
seed: int = 0  # of every random draw; at least 0

# %%
import os
from dataclasses import replace
from functools import partial
from math import inf
from statistics import median

import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

import advlib as al
from advlib.bench.speed import counts, figures, levers, loop, memory, peers, roofline, rows, subjects, trace, training
from advlib.bench.speed.cases import Bench, ratios

# %%
SETTINGS = {
    "smoke": {"n": 8, "batch": 8, "race": 8, "deep": 1, "side": 64, "steps": 1, "race_steps": 2, "copies": 2,
              "rounds": 1, "deep_rounds": 1, "probes": 2, "batches": (1, 8), "tuned": 4, "minutes": 1},
    "laptop": {"n": 64, "batch": 128, "race": 64, "deep": 8, "side": 224, "steps": 2, "race_steps": 10, "copies": 2,
               "rounds": 3, "deep_rounds": 2, "probes": 12, "batches": (1, 8, 32, 128), "tuned": 32, "minutes": 7},
    "paper": {"n": 1000, "batch": 128, "race": 128, "deep": 8, "side": 224, "steps": 10, "race_steps": 10, "copies": 5,
              "rounds": 5, "deep_rounds": 5, "probes": 20, "batches": (1, 8, 32, 128), "tuned": 128, "minutes": 90},
}  # fmt: skip
RUN = al.chapters.begin("A3", globals(), SETTINGS)
n, batch, steps, race, device = *RUN["n", "batch", "steps", "race_steps"], RUN.device
print(RUN)
print(
    f"Rounds: {RUN['rounds']}, of the large network {RUN['deep_rounds']}. On one idle core: {RUN['minutes']} min or so."
)

# %% [markdown]
# ## 1. What is measured, and how
#
# Other programs come and go while a notebook runs. Contestants therefore take turns, one each per round, and every ratio is
# formed *within* a round, from calls that ran close to each other. Reported are the median over the rounds, the smallest and
# the largest. A range that crosses the line one looks for says that the machine was too busy, or the rounds too few. What else
# a time depends on:

# %%
pd.Series(rows.conditions(device), name="this run").to_frame()

# %%
bench = Bench(device, scale == "smoke", dataset, lambda: inf, rounds=RUN["rounds"], warm=1)
ROWS = []


def kept(found):
    """The rows as a table; they also go into the file of this chapter."""
    ROWS.extend(found)
    return rows.table(found)


# %% [markdown]
# By hand: one contestant does the work of the other twice, so that the ratio should be about 2, whatever the machine.

# %%
square = torch.rand(800, 800, device=device)
seconds = bench.timed({"once": lambda: square @ square, "twice": lambda: square @ square @ square})
print("twice over once:", [round(r, 2) for r in ratios(seconds["twice"], seconds["once"])])

# %% [markdown]
# The subjects are a small network of this book, and a ResNet-50 with random weights, on which its speed does not depend.

# %%
images = al.datasets.load(dataset, "test", max(n, batch)).to(device)
resnet, vgg, densenet = (subjects.of_zoo(f"{dataset}/{name}", device) for name in ("resnet", "vgg", "densenet"))
small = subjects.Subject("small ResNet", resnet, images.x[:batch], images.y[:batch])
large = F.interpolate(images.x[: RUN["deep"]], (RUN["side"], RUN["side"]), mode="bilinear")
deep = subjects.Subject("ResNet-50", subjects.NETWORKS[1].built(bench), large, images.y[: RUN["deep"]])
CASES = ((bench, small), (replace(bench, rounds=RUN["deep_rounds"]), deep))
copies = {subject.name: levers.copies(subject.model) for _, subject in CASES}

# %% [markdown]
# ## 2. Where the time goes
#
# A pass, forward and back to the image, multiplies and adds, and moves numbers between memory and processor. What takes
# $F$ floating-point operations and moves $B$ bytes takes at least
#
# $$t \ge \max\left(\frac{F}{\text{peak}}, \frac{B}{\text{bandwidth}}\right)$$
#
# $F$ and $B$ are counted: the operations of convolutions and matrix products, and for every operation its operands and
# results, once each, as if nothing stayed in a cache. By hand, on one convolution, 3 to 8 channels, 3 by 3, on 8 by 8 pixels:

# %% tags=["nbval-check-output"]
x, w = torch.rand(1, 3, 8, 8), torch.rand(8, 3, 3, 3)
found = counts.counted(lambda: F.conv2d(x, w, padding=1))
assert found.flops == 2 * (8 * 8 * 8) * (3 * 3 * 3)  # for each of the outputs 27 products, and as many sums
assert found.bytes == 4 * (3 * 64 + 8 * 27 + 8 * 64)  # images, weights, outputs; float32 has 4 bytes
print(found)

# %% [markdown]
# The peak and the bandwidth are measured in the same rounds as the passes: the faster of a large matrix product and a large
# convolution, and a copy of what no cache holds. $F/B$ is the *intensity*. Where it is below peak / bandwidth, memory is the
# limit, and a faster multiplication gains nothing; above, arithmetic is. A pass as a whole hides that its operations run one
# after the other: BatchNorm, ReLU and sums move numbers and multiply next to nothing. The *floor* adds up the least time of each.

# %%
timed = [(subject, copies[subject.name]) for _, subject in CASES]
roof, points = roofline.placed(CASES[1][0], timed)
roofline.table(roof, points)

# %%
fig = figures.roofline(roof, points)
al.plotting.save(fig, f"fig_A3_roofline_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A3.1. The roof of this machine for two number types, and the passes below it.* Folding and bfloat16 move a pass to the
# right: the same arithmetic, fewer bytes. In the table, the part of the floor that is bound by memory is what folding and the
# compiler can take away.
#
# ### What an attack adds
#
# Around its passes an attack updates the image and the momentum, and some attacks transform the image first. None of that is a
# convolution; it moves bytes. What a step moves beyond its passes, counted on the small network:

# %%
frozen = small._replace(model=copies[small.name]["channels_last"]).first(min(32, batch))
moved = counts.beside_passes(loop.with_copies(RUN["copies"]), frozen)
pd.DataFrame(moved).T.rename_axis(f"a step, batch {len(frozen.x)}").round(1)

# %% [markdown]
# The shares bound what a better loop could gain where memory is the limit: a kernel that fuses an update or an erasure works on
# them. All else is the network's.
#
# ## 3. The loop beside its passes
#
# The yardstick is one *bare* pass: the loss of a batch and its gradient at the input, weights frozen, everything in
# channels_last. An attack also has a cost per call: the first images go through the network to check its output. A short timing
# would charge that to fewer steps than an attack has, so it is timed by itself, and the overhead is stated for ten steps:
#
# $$\frac{t_{attack} - t_{call}\,(1 - T/10)}{\text{passes} \times t_{bare}}$$

# %%
found = [row for case in CASES for row in loop.overhead(*case, steps, RUN["copies"])]
kept(found).assign(**{"at most 1.05": ["yes" if row.ratio <= 1.05 else "no" for row in found]})

# %% [markdown]
# *1 is a loop that costs nothing; the aim is at most 1.05. The bare pass takes the batch in parts, as the attack does
# (section 4).* A value above it on the ResNet-50 weighs more than one on the small
# network, whose passes are short.
#
# ## 4. One lever after another
#
# **Copies of the network**, each with what those before it have. `channels_last` lays the channels of a pixel next to each other,
# as convolutions want them. `folded` puts every BatchNorm into the convolution before it, `bfloat16` keeps a number in half the
# bits; both are `al.accelerate`. The compiler (`torch.compile`) joins operations, and takes its own time first, stated in passes
# of the plain network.

# %%
missing = "" if bench.tiny else levers.missing_compiler()
if missing:
    display(Markdown(f"**Note:** no compiler: the rows of compiled copies are missing ({missing})."))
nets, found = {}, []
for case, names in zip(CASES, (("folded", "bfloat16"), ("bfloat16",)), strict=True):
    faster = levers.faster(*case, copies[case[1].name], () if missing else names)
    nets[case[1].name], found = faster.nets, found + faster.rows
kept(found)

# %% [markdown]
# *`pass`: how many times as fast a pass is as that of the plain network, in torch's own layout. Without bfloat16 in hardware
# (see the conditions) that type is emulated, and gains little or nothing. `compiling`: after so many passes of the plain
# network the compiler has done.*
#
# **Batch and chunk.** A larger batch spreads what every operation costs once, until its numbers no longer fit into a cache.
# Copies of an image, as SIM makes them, go through the network one by one or several at once (`chunk`).

# %%
sizes = RUN["batches"]
kept(levers.batches(bench, small, sizes) + levers.chunks(bench, small, 5, [sizes[0], *sizes[-2:]]))

# %% [markdown]
# *Images a second over those at batch 1; and the time of SIM copy by copy over that of all five copies at once.*
#
# **Memory.** The C library gives large pieces of memory back to the system, which clears every page of them when they are asked
# for again: as often as a network has layers. Two things help. An attack takes a batch in parts, of at most 64 small images on
# one or two threads; smaller pieces stay, and an image's gradient is the same to the last bit. And a process can keep what it
# frees: chapters do (`al.keep_memory`), so that all else on this page has it, the others' loops too. In a process of its own,
# first as most programs are, then keeping memory:

# %%
kept(memory.measured(small, race, RUN["rounds"]))

# %% [markdown]
# *Given back: images a second of ours over those of the plain loop of section 5, and the time of a pass of the whole batch over
# that of one in parts. Kept: the time without over that with it.*
#
# What parts gain where memory is kept, on the copies of the small network:

# %%
kept(levers.parts(bench, small, copies[small.name]))

# %% [markdown]
# ### On a GPU
#
# A GPU is slowed by what a processor does not notice: every operation has to be launched, and a launch takes longer than a small
# operation. A **CUDA graph** records all launches of an attack and replays them as one (`al.captured`). The **compiler** and
# **kernels** make one launch, and one way through memory, of several. These are committed rows (`make gpu`), on networks with
# random weights. First, images a second over those of the plain loop:

# %%
rows.of_gpus(("loop", "compiled"), "over the plain loop")

# %% [markdown]
# *MI-FGSM, ten steps. The loop multiplies float32 with TF32, as torch leaves it. What was compiled was measured apart.* Three
# things to see. At batch 128 the small network waits for the host, and the graph is worth more than all else. At batch 1,024
# nobody waits, and it is worth little. At 224 pixels the compiler gains two fifths more: it adds the bias, the shortcut and
# the ReLU in one way through memory, where the folded network takes three. The aims, 8 at 32 pixels and 6 at 224, are not met.
#
# What is left beside the passes themselves, which are replayed too where the attack is:

# %%
rows.of_gpus(("loop", "compiled"), "over bare passes")

# %% [markdown]
# *Time of the attack over that of its passes; the aim is 1.05.*
#
# Kernels, over the PyTorch code that gives the same numbers: launched by the host, and replayed, where the host is out of it.

# %%
rows.of_gpus(("kernels",), "kernel over PyTorch")

# %% [markdown]
# *Times as fast.* Random numbers are some eighty small operations in PyTorch and one kernel here. At 32 pixels a step that the
# host launches is no faster by its kernel: it waits for the host in either form.
#
# Copies of an image at once (`chunk`), over bare passes of one copy after the other; and steps of training, launched one by one:

# %%
display(rows.of_gpus(("copies",), "over bare passes"))
display(rows.of_gpus(("training",), "over SGD"))

# %% [markdown]
# *Time over that of the passes; time of a step over that of SGD's.* At batch 128 the host is what takes the time here, too.
# `al.training.fit` therefore records the passes of a step on a GPU, and replays them.

# %% [markdown]
# ### What the copies do to the attack
#
# A copy is worth having only if it finds the same examples. MI-FGSM at $\epsilon = 8/255$, ten steps, from the plain network
# and from each copy, judged by the same two plain networks on the same images.

# %%
data, judges = images[:n], {"white-box (itself)": small.model, "black-box (VGG)": vgg}
others = {name: net for name, net in nets[small.name].items() if name != "channels_last"}
found = levers.success(data, RUN["race"], {"plain": small.model, **others}, judges, race, seed)
levers.table(found, "copy", "judge")

# %% [markdown]
# *Success of the attack; base: from the plain network. The interval is Newcombe's for paired proportions.* Folding changes the
# logits by rounding; bfloat16 keeps eight significant bits:

# %% tags=["nbval-check-output"]
apart = levers.rounding(small.first(8), copies[small.name])
assert apart["folded"] < 1e-3 and apart["bfloat16"] < 0.1
print("folding changes the logits by rounding only:", apart["folded"] < 1e-3)
print("bfloat16 changes them more:", apart["bfloat16"] > apart["folded"])

# %% [markdown]
# ## 5. Beside others
#
# TransferAttack and its like share one loop: eager, float32, in torch's own layout, with weights that ask for gradients. It is
# written out in `peers.mi_fgsm`, and gives the examples of ours. Images a second over those of that loop:

# %%
racing = small.first(RUN["race"])
found = peers.beside_the_plain_loop(bench, racing, copies[small.name], race)
kept(found)

# %% [markdown]
# The aims are 2 in float32 and 4 in bfloat16. How far could any loop get here? No pass takes less than its floor (section 2), and
# an attack is passes. Ours, beside what it would be at the floor:

# %%
shares = [median(p.share) for p in points if p.subject.name == small.name]
reach = {row.what: (row.ratio, row.ratio / share) for row, share in zip(found, shares, strict=True)}
pd.DataFrame.from_dict(reach, orient="index", columns=["ours", "at the floor"]).round(2)

# %% [markdown]
# *Times the images a second of the plain loop.* An aim above the second number is out of reach of this machine and this network,
# whatever the loop: the plain one is that near to what the machine can do. (It has the memory that this process keeps; section 4
# says what it loses without.)
#
# torchattacks (Kim 2020) is the library that most people would take. What its source, version 3.3, says about the pairs timed
# here, at the same budget, step and number of steps:
#
# | torchattacks | here | where they part |
# |---|---|---|
# | PGD | `pgd` | nowhere: here both start at $x$, so that no draw differs |
# | MIFGSM, NIFGSM | `mi_fgsm`, `ni_fgsm` | nowhere: both divide by the mean absolute gradient of an image |
# | SINIFGSM | `sim` with `Elastic(1, 1)` | nowhere |
# | TIFGSM | `tim` | theirs has input diversity, here with probability 0: the resized image is thrown away |
# | DIFGSM | `dim` | **another method**: one size and place *for the whole batch*, in whole pixels; ours draws for every image |
#
# A gradient of exactly 0 becomes NaN there and stays 0 here. They keep layout and weights as they are, and check no output of the
# network, for which ours pays a forward pass of the first images in every call. `torchattacks, folded` hands them our copy: what
# is left between it and `ours, folded` is the loop alone.

# %%
pairs = peers.pairs(RUN["copies"])
if not pairs:
    display(Markdown("**Note:** torchattacks is not installed (`pip install -e '.[bench]'`): no comparison."))
torch.manual_seed(seed)  # torchattacks draws from torch's own generator
fast = {name: copies[small.name][name] for name in ("folded", "bfloat16")}
two = replace(bench, rounds=min(2, RUN["rounds"]))
contests = {k: peers.contest(two, racing, data, k, pair, fast, race, seed) for k, pair in pairs.items()}
kept([row for contest in contests.values() for row in contest.rows]) if contests else None

# %% [markdown]
# *Images a second over those of torchattacks on the plain network.* Where ours is below 1, look for three causes: `dim` draws for
# every image; random numbers come from a hash instead of torch's generator, so that a result does not depend on the batch; and
# checks in every call show on small batches.
#
# Do both find the same? Ours against theirs, on the same images:

# %%
if contests:
    found = peers.agreement(contests, data, judges)
    near = ["yes" if abs(f.difference) <= 1 else "no" for f in found.values()]
    display(levers.table(found, "attack", "contestant", "judge").assign(**{"within 1 point": near}))

# %% [markdown]
# *Base: torchattacks. An image more or less is $100/n$ points; the interval says what n images can tell.*
#
# ## 6. Penalties and optimizers, in passes and in time
#
# **An attack's penalty.** The gradient norm penalty of chapter 3 takes two gradients where the attack takes one. The rest of
# the loop is shared, so that the price should be 2, and at most 2.05.

# %%
kept([row for case in CASES for row in loop.price_of_gnp(*case, steps)])

# %% [markdown]
# **A surrogate's penalty.** A step of training goes through the network three times: forward, back to the features, back to
# the weights. The penalties of chapter 4 add to that. In passes of the same three kinds, the derivative of a backward pass
# counted as two:
#
# | step | forward | back to the image | back to the weights | derivative of the way back | sum | over 3 |
# |---|---|---|---|---|---|---|
# | plain | 1 | 1 | 1 | | 3 | 1 |
# | LRS-1 | 2 | 1 + 2 | 2 | | 7 | 2.3 |
# | LRS-2 | 2 | 2 + 2 | 2 | 4 | 12 | 4 |
# | LRS-F | 3 | 2 + 3 | 3 | 4 | 15 | 5 |
#
# `al.second_order` has the second derivatives of BatchNorm and convolutions in closed form; *LRS-2, torch's* is the same step
# with those that torch puts together itself.

# %%
few, forms = small.first(RUN["tuned"]), roofline.DTYPES.items()
tuned = few._replace(name="small DenseNet", model=densenet)
found = [row for _, dtype in forms for row in training.objectives(CASES[1][0], tuned, dtype)]
passes = {f"step of {name}, {form}": number for name, number in training.EXPECTED.items() for form, _ in forms}
kept(found).assign(passes=[passes[row.what] for row in found]).round(2)

# %% [markdown]
# *Time of a step over that of a plain one, beside its passes.* Passes count convolutions. What the second order costs beyond
# them is the way back through the rest (BatchNorm, ReLU, the concatenations of a DenseNet), which is bound by memory.
#
# **Optimizers.** SAM takes two passes where SGD takes one, CR-SAM three: 2 and 3 is the floor, 2.1 and 3.15 the aim. Beyond
# SGD's memory SAM keeps the old weights and the step, CR-SAM also three gradients. The two perturbed passes of CR-SAM do not
# need one another (Figure 5.3): side by side, in two processes of one thread each, the floor is 2, where there are two cores.

# %%
found = [row for _, dtype in forms for row in training.optimizers(bench, small, dtype)]
kept(found + training.side_by_side(small, RUN["rounds"]))

# %% [markdown]
# ## 7. The trace of the Hessian
#
# Beside PyHessian, on the small ResNet. Both average $v^\top H v$ over random signs; `al.curvature` takes ten Lanczos vectors out
# first. The standard error falls with the root of the probes, so that a few tell how long an error of one percent would take.

# %%
found = trace.beside_pyhessian(bench, small.model, images[: RUN["race"]], RUN["probes"])
if "PyHessian" not in found:
    display(Markdown("**Note:** PyHessian is not installed (`pip install -e '.[bench]'`): no comparison."))
ROWS += trace.over_pyhessian(racing, found)
trace.table(found)

# %% [markdown]
# ## 8. Memory, and waiting
#
# Copies go through the network in chunks: the most images that reach it at once hang on batch and chunk, not on their number.

# %% tags=["nbval-check-output"]
few = small.first(4)
largest = {(c, k): levers.largest_batch(few, c, k) for c in (5, 25) for k in (1, 5)}
for (c, k), seen in largest.items():
    print(f"{c:2} copies, chunk {k}: at most {seen:2} images at once for a batch of 4")
assert largest[5, 1] == largest[25, 1] and largest[5, 5] == largest[25, 5]

# %% [markdown]
# A step that asked the device for a number (`.item()`, an `if` on a tensor) would stop a GPU in every step. `torch.compile` with
# `fullgraph=True` refuses such a step; the backend "eager" runs the traced operations as they are. One step with everything:

# %% tags=["nbval-check-output"]
everything = [al.RandomErasure(copies=2), al.ScaleCopies(2), al.InputDiversity()]
g = al.smoothed(al.gradient(copies[small.name]["channels_last"], everything, chunk=4), kernel=7)
x, draw = few.flat, al.draws.Draw(seed, images.index[:4], step=1)
ball = al.balls.LinfBall.around(x, 8 / 255, alpha=0.8 / 255)
step = partial(al.loop.step, y=few.y, g=g, draw=draw, rule=al.Elastic(sigma=2.0), ball=ball)
traced = torch.compile(lambda x, m: step(x, m), fullgraph=True, backend="eager")
for ours, plain in zip(traced(x, torch.zeros_like(x)), step(x, torch.zeros_like(x)), strict=True):
    assert torch.allclose(ours, plain, atol=1e-4)
print("one graph, no break")

# %% [markdown]
# ## 9. The numbers as a file, and in one picture

# %%
file = RUN.tables / "speed.csv"
rows.write(file, ROWS, device)
print(f"{len(ROWS)} rows in {os.path.relpath(file, al.paths.ROOT)}")

# %%
fig = figures.bars(ROWS)
al.plotting.save(fig, f"fig_A3_speed_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A3.2. Ratios of this run; bars are medians, whiskers the smallest and largest round.*
#
# ## How to read the result
#
# - First the roof: below its sloping part, move fewer bytes (fold, bfloat16, compile); below its flat part, multiply in a
#   smaller type.
# - Then the loop: what it costs beyond its passes. Count passes first, for they are the cost.
# - Then the levers, and with each the table of success: a gain at another success rate is no gain.
#
# ## Summary
#
# - Folding and channels_last change results by float32 rounding only; bfloat16 trades digits for time.
# - Batch and chunk are to be chosen for the machine. They set the memory, and the number of copies does not.
# - A process that keeps its memory loses no time to the system that clears it. It gains the plain networks and training most.
# - A step is one graph without a wait for the device.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* Run this chapter with `OMP_NUM_THREADS=1` and with all cores. Which ceiling rises more, and which passes
#    change their limit? After how many batches of MI-FGSM has the compiler earned its time back?
# 2. *Derive.* A BatchNorm in eval mode maps $z$ to $\gamma (z - \mu)/\sqrt{v + \epsilon} + \beta$. Write the weights
#    and the bias of the folded convolution, and say why a BatchNorm *before* a convolution with zero padding cannot be
#    folded into it exactly.
# 3. *Build.* Write a contestant that attacks with `chunk=2` in SIM, and time it beside 1 and 5 with `bench.timed`. Where does
#    it pay, and what does the roof say about that?
#
# ## References
#
# - S. Williams et al., *Roofline: an insightful visual performance model for multicore architectures*, CACM 52(4), 2009.
# - H. Kim, *Torchattacks: a PyTorch repository for adversarial attacks*, arXiv:2010.01950, 2020.
# - PyTorch, *Channels last memory format in PyTorch*, tutorial, docs.pytorch.org.
# - B. Jacob et al., *Quantization and training of neural networks for efficient integer-arithmetic-only inference*, CVPR 2018.
# - D. Kalamkar et al., *A study of BFLOAT16 for deep learning training*, arXiv:1905.12322, 2019.
# - J. Ansel et al., *PyTorch 2: faster machine learning through dynamic Python bytecode transformation and graph
#   compilation*, ASPLOS 2024.
# - Z. Yao et al., *PyHessian: neural networks through the lens of the Hessian*, IEEE Big Data 2020.
