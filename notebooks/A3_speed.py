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
# Where does the time of an attack go? How much of it can be saved, and is the result still the same?
#
# ![Marks at four steps from top to bottom: our loop, folded, bfloat16, and one CUDA graph. On the processor the mark moves from a little above one to about two and a half. On the GPU the small network with batches of 128 does not get beyond one and a half until the graph, which takes it to about seven. With batches of 1,024, and on a ResNet-50, the graph adds little, and the marks end a little above two.](../figures/A3/fig_A3_a_levers.svg)
#
# *MI-FGSM, ten steps: images a second over those of a plain loop on the same machine. Each line has what the lines above it
# have. Whiskers are the smallest and the largest of three rounds. Processor: one thread, `shapes`. GPU: one NVIDIA H200,
# networks with random weights.*
#
# - **What is asked.** An attack is a loop around passes through a network. What does the loop cost, what do the passes
#   cost, and what makes either cheaper?
# - **What the thesis says.** It counts passes. Its penalty takes two where the attack takes one, and the three passes of
#   CR-SAM can run side by side. It prints no times.
# - **What we find.** The loop is almost free. On a processor that multiplies bfloat16, that number type helps most. On a GPU
#   with small images and batches, it is to launch all operations at once. This is sure for the machines measured here, and
#   for no others.
#
# Seconds belong to one machine, so that every number here is a *ratio within one run*. Nothing is asserted about time. The
# chapter explains the limits of a machine by hand, then each lever, and then measures. What measures is
# `advlib.bench.speed`; `make gpu` runs it on a GPU. This page was executed on a processor, with `shapes`.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10 or cifar100
n: int = 0  # images for success rates and the comparison with torchattacks;
# 0 takes the number of the scale; at least 0
seed: int = 0  # of every random draw; at least 0

# %%
from dataclasses import replace
from functools import partial
from math import inf
from statistics import median

import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

import advlib as al

# %%
from advlib.bench.speed import counts, figures, levers, loop, memory, peers

# isort: split
from advlib.bench.speed import roofline, rows, subjects, trace, training
from advlib.bench.speed.cases import Bench, ratios

# %%
SETTINGS = {
    "smoke": {"n": 8, "batch": 8, "race": 8, "deep": 1, "side": 64, "steps": 1,
              "race_steps": 2, "copies": 2, "rounds": 1, "deep_rounds": 1, "probes": 2,
              "batches": (1, 8), "tuned": 4, "minutes": 1},
    "laptop": {"n": 64, "batch": 128, "race": 64, "deep": 8, "side": 224, "steps": 2,
               "race_steps": 10, "copies": 2, "rounds": 3, "deep_rounds": 2,
               "probes": 12, "batches": (1, 8, 32, 128), "tuned": 32, "minutes": 7},
    "paper": {"n": 1000, "batch": 128, "race": 128, "deep": 8, "side": 224, "steps": 10,
              "race_steps": 10, "copies": 5, "rounds": 5, "deep_rounds": 5,
              "probes": 20, "batches": (1, 8, 32, 128), "tuned": 128, "minutes": 90},
}  # fmt: skip

# %%
RUN = al.chapters.begin("A3", globals(), SETTINGS)
n, batch, steps, race = RUN["n", "batch", "steps", "race_steps"]
device = RUN.device
print(RUN)
print(f"Rounds: {RUN['rounds']}, of the large network {RUN['deep_rounds']}.")
print(f"On one idle core: {RUN['minutes']} min or so.")

# %% [markdown]
# The picture above is made of committed rows: of the run of this page, and of the GPU.

# %%
LEVERS = ("our loop", "+ folded", "+ bfloat16", "+ one CUDA graph")
folder = al.results.RESULTS
took = pd.read_csv(folder / "laptop" / "shapes" / "speed.csv").set_index("what")
names = ("channels_last", "folded", "bfloat16")
found = [took.loc[f"MI-FGSM: {name} / plain loop"] for name in names]
marks = [(row.ratio, row.low, row.high) for row in found]
pictured = {"small ResNet, processor": dict(zip(LEVERS, marks, strict=False))}

# %%
took = pd.read_csv(folder / "gpu" / "nvidia_h200.csv").query("section == 'loop'")
forms = ("float32", "folded", "folded, bfloat16", "folded, bfloat16, graph")
cases = {"ResNet-20, GPU, batch 128": "ResNet-20, 32 px, batch 128"}
cases["ResNet-20, GPU, batch 1,024"] = "ResNet-20, 32 px, batch 1024"
cases["ResNet-50, GPU, batch 64"] = "ResNet-50, 224 px, batch 64"
for name, case in cases.items():
    of_case = took[took.case == case].set_index("metric")
    found = [of_case.loc[f"{form}: over the plain loop"] for form in forms]
    marks = [(row.value, row.low, row.high) for row in found]
    pictured[name] = dict(zip(LEVERS, marks, strict=True))

# %%
label = "images a second over those of a plain loop (ratio)"
fig = al.plotting.forest({"MI-FGSM, ten steps": pictured}, LEVERS, label, line=1)
fig.set_size_inches(7.0, 3.8)
al.plotting.save(fig, "fig_A3_a_levers", RUN)
fig

# %% [markdown]
# *The levers, one added to another. Only at batch 128 on the GPU is the last step the largest.*

# %% [markdown]
# ## 1. What is measured, and how
#
# Other programs come and go while a notebook runs. Contestants therefore take turns, one each per round. Every ratio is
# formed *within* a round, from calls that ran close to each other. Tables show the median over the rounds, the smallest and
# the largest. If that range crosses the line that one looks for, the machine was too busy, or the rounds were too few.
#
# What else a time depends on:

# %%
pd.Series(rows.conditions(device), name="this run").to_frame()

# %%
tiny, no_limit = scale == "smoke", lambda: inf
bench = Bench(device, tiny, dataset, no_limit, rounds=RUN["rounds"], warm=1)
ROWS = []


def kept(found):
    """The rows as a table; they also go into the file of this chapter."""
    ROWS.extend(found)
    return rows.table(found)


# %% [markdown]
# A check of the clock. One contestant does the work of the other twice, so that the ratio should be about two, whatever
# the machine:

# %%
square = torch.rand(800, 800, device=device)
once, twice = (lambda: square @ square), (lambda: square @ square @ square)
seconds = bench.timed({"once": once, "twice": twice})
found = ratios(seconds["twice"], seconds["once"])
print("twice over once:", [round(r, 2) for r in found])

# %% [markdown]
# The subjects are a small network of this book, and a ResNet-50 with random weights, on which its speed does not depend.

# %%
images = al.datasets.load(dataset, "test", max(n, batch)).to(device)
zoo = [subjects.of_zoo(f"{dataset}/{k}", device) for k in ("resnet", "vgg", "densenet")]
resnet, vgg, densenet = zoo
small = subjects.Subject("small ResNet", resnet, images.x[:batch], images.y[:batch])
side = (RUN["side"], RUN["side"])
large = F.interpolate(images.x[: RUN["deep"]], side, mode="bilinear")
random_weights = subjects.NETWORKS[1].built(bench)
deep = subjects.Subject("ResNet-50", random_weights, large, images.y[: RUN["deep"]])

# %%
CASES = ((bench, small), (replace(bench, rounds=RUN["deep_rounds"]), deep))
copies = {subject.name: levers.copies(subject.model) for _, subject in CASES}

# %% [markdown]
# ## 2. Where the time goes
#
# A *pass* goes forward through the network, and back to the image. It does two things: it multiplies and adds, and it moves
# numbers between memory and processor. A machine has a largest speed for each. The *peak* is how many operations it can do
# in a second, and the *bandwidth* is how many bytes it can move. So what takes $F$ operations and moves $B$ bytes takes at
# least
#
# $$t \ge \max\left(\frac{F}{\text{peak}}, \frac{B}{\text{bandwidth}}\right)$$
#
# ### One convolution by hand
#
# Take one small image, and a convolution with small windows:
#
# | what | made of | number |
# |:--|:--|--:|
# | outputs | 8 channels of 8 by 8 pixels | 512 |
# | products for one output | 3 channels, window of 3 by 3 pixels | 27 |
# | operations, a product and a sum each | 2 times 512 times 27 | 27,648 |
# | image | 3 channels of 8 by 8 pixels | 192 |
# | weights | 8 times 27 | 216 |
# | bytes, four for each number | 4 times (192 + 216 + 512) | 3,680 |
#
# `advlib` counts the same. For every operation it counts what goes in and what comes out, once each, as if nothing stayed in
# a cache:

# %% tags=["nbval-check-output"]
x, w = torch.rand(1, 3, 8, 8), torch.rand(8, 3, 3, 3)
found = counts.counted(lambda: F.conv2d(x, w, padding=1))
outputs, products = 8 * 8 * 8, 3 * 3 * 3
assert found.flops == 2 * outputs * products
assert found.bytes == 4 * (3 * 64 + 8 * 27 + 8 * 64)  # image, weights, outputs
print(f"{found.intensity:.1f} operations a byte")

# %% [markdown]
# The quotient $F/B$ is the *intensity*: how many operations there are for each byte that is moved. Where it is low, memory
# sets the time, and a faster multiplication gains nothing. Where it is high, arithmetic does. The border is peak over
# bandwidth.
#
# Here is a made-up machine, with round numbers, and three operations on it. The wide convolution has many
# channels. ReLU multiplies nothing; we count one comparison for each number.

# %%
machine = roofline.Roof({"float32": 100e9}, bandwidth=10e9)
a, v = torch.rand(1, 64, 32, 32), torch.rand(64, 64, 3, 3)
wide = counts.counted(lambda: F.conv2d(a, v, padding=1))
relu = counts.counted(lambda: F.relu(a))._replace(flops=a.numel())
three = {"ReLU": relu, "small convolution": found, "wide convolution": wide}
at = [0.1 * 1.2**k for k in range(46)]
lines = {"the roof": (at, [machine.speed("float32", i) / 1e9 for i in at])}
for name, c in three.items():
    lines[name] = ([c.intensity], [machine.speed("float32", c.intensity) / 1e9])

# %%
labels = ("intensity (operations a byte)", "most in reach (GFLOP/s)")
panel = {"a made-up machine": lines}
fig = al.plotting.curves(panel, *labels, xscale="log", yscale="log")
fig.set_size_inches(6.4, 3.2)
al.plotting.save(fig, "fig_A3_b_roof_by_hand", RUN)
fig

# %% [markdown]
# *A roof. Its sloping part is the bandwidth, its flat part is the peak. ReLU and the small convolution stand under the slope,
# the wide convolution under the flat part.*
#
# By hand: this machine's border is at ten operations a byte. The small convolution is below it, so that memory sets its
# time:

# %% tags=["nbval-check-output"]
for name, c in three.items():
    moving, counting = c.bytes / machine.bandwidth, c.flops / machine.peaks["float32"]
    limit = "memory" if moving > counting else "arithmetic"
    print(f"{name:17}: {c.intensity:6.2f} operations a byte, limit: {limit}")
    assert (limit == "memory") == (c.intensity < machine.ridge("float32"))

# %% [markdown]
# ### This machine
#
# The peak and the bandwidth of this machine are measured in the same rounds as the passes. The peak is that of a large
# matrix product or of a large convolution, whichever is faster. The bandwidth is that of a copy of what no cache holds.
#
# A pass is many operations, one after the other, and each has its own limit. The *floor* of a pass adds up the least time of
# each.

# %%
timed = [(subject, copies[subject.name]) for _, subject in CASES]
roof, points = roofline.placed(CASES[1][0], timed)
roofline.table(roof, points)

# %%
fig = figures.roofline(roof, points)
al.plotting.save(fig, f"fig_A3_roofline_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A3.1. The roof of this machine for two number types, and the passes below it.*
#
# Folding and bfloat16 (section 4) move a pass to the right: the same arithmetic, fewer bytes. On this machine all passes are
# right of the border, and arithmetic limits them as a whole. In the table, the part of the floor that is bound by memory is
# what folding and the compiler can take away.
#
# ### What an attack adds
#
# Around its passes an attack updates the image and the momentum, and some attacks transform the image first. None of that is
# a convolution: it moves bytes. What a step moves beyond its passes, counted on the small network:

# %%
frozen = small._replace(model=copies[small.name]["channels_last"])
frozen = frozen.first(min(32, batch))
moved = counts.beside_passes(loop.with_copies(RUN["copies"]), frozen)
pd.DataFrame(moved).T.rename_axis(f"a step, batch {len(frozen.x)}").round(1)

# %% [markdown]
# *MB are million bytes. A step of these attacks moves a few percent more than its passes.*
#
# These shares are the most that a better loop could gain where memory is the limit. All else is the network's.
#
# ## 3. The loop beside its passes
#
# The yardstick is one *bare* pass: the loss of a batch and its gradient at the input, with frozen weights. An attack of $T$
# steps also pays once in each call, because the first images go through the network to check its output. A timing of few
# steps would charge too much for that. So it is timed by itself, and the overhead is stated for ten steps:
#
# $$\frac{t_{attack} - t_{call}\,(1 - T/10)}{\text{passes} \times t_{bare}}$$
#
# A loop that costs nothing has a ratio of one.

# %%
found = []
for case in CASES:
    found += loop.overhead(*case, steps, RUN["copies"])
met = ["yes" if row.ratio <= 1.05 else "no" for row in found]
kept(found).assign(**{"at most 1.05": met})

# %% [markdown]
# *Time of an attack over that of its passes. Only DIM on the small network is above the aim: it draws and resizes images in
# every step. The bare pass takes the batch in parts, as the attack does (section 4).*
#
# ## 4. One lever after another
#
# First what each lever does, then what it gains.
#
# ### channels_last: where the numbers lie
#
# An image has channels, rows and columns, but memory is one long line. Torch usually stores one channel after the other. A
# convolution wants all channels of a pixel at once, and has to fetch them from far apart. With `channels_last` they lie side
# by side. By hand, on three channels of two pixels:

# %% tags=["nbval-check-output"]
usual = torch.arange(6).view(1, 3, 1, 2)
other = usual.to(memory_format=torch.channels_last)
assert torch.equal(usual, other)
for name, t in {"usual": usual, "channels_last": other}.items():
    print(f"{name:13}", torch.as_strided(t, (6,), (1,)).tolist())

# %% [markdown]
# These are the numbers as they lie in memory. The tensor is the same, and only their order is not.
#
# ### Folding: two operations in one
#
# A trained BatchNorm takes off a number and multiplies by another, both fixed. The convolution before it multiplies, too. So
# the two can be one. By hand: a convolution gives $2x$, and a BatchNorm makes $(2x - 1)/2$ of it. That is
# $x - \frac{1}{2}$, a convolution with a smaller weight and a bias. The numbers of a pass stay
# the same but for rounding, and one way through memory is saved. `al.accelerate` does that to a network:

# %% tags=["nbval-check-output"]
conv, norm = torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.BatchNorm2d(1, eps=0.0)
conv.weight.data.fill_(2.0)
norm.running_mean.fill_(1.0)
norm.running_var.fill_(4.0)
folded = al.accelerate(torch.nn.Sequential(conv, norm).eval())
assert torch.allclose(folded(torch.tensor([[[[3.0]]]])), torch.tensor(2.5))
kinds = [type(layer).__name__ for layer in folded.modules()]
print("convolutions:", kinds.count("Conv2d"), "BatchNorms:", kinds.count("BatchNorm2d"))

# %% [markdown]
# ### bfloat16: half the bits
#
# A number in bfloat16 has half the bits of one in float32. It can be as large and as small, but it keeps fewer digits. Half
# the bytes move, and processors that know the type multiply it faster. What is lost, by hand:

# %% tags=["nbval-check-output"]
for number in (1.0, 1.001, 1.01, 3.14159):
    print(f"{number:7} becomes {torch.tensor(number).bfloat16().item()}")
assert torch.tensor(1.001).bfloat16() == 1

# %% [markdown]
# Whether an attack notices is measured below. Targets are never accelerated, only surrogates.
#
# ### The compiler: one way through memory
#
# A sum and a ReLU are two operations. The sum reads two tensors and writes one. The ReLU reads that one and writes another.
# Joined, they would read two and write one. `torch.compile` joins operations, and takes its own time first. By hand, on
# tensors of 1,000 numbers:

# %% tags=["nbval-check-output"]
a, b = torch.rand(1000), torch.rand(1000)
apart = counts.counted(lambda: F.relu(a + b)).bytes
joined = 3 * 4 * 1000
assert apart == 5 * 4 * 1000
print(f"apart {apart:,} bytes, joined {joined:,} bytes")

# %% [markdown]
# ### What they gain
#
# Each copy of the network has what those before it have.

# %%
missing = "" if bench.tiny else levers.missing_compiler()
if missing:
    said = f"the rows of compiled copies are missing ({missing})"
    display(Markdown(f"**Note:** no compiler: {said}."))
nets, found, which = {}, [], (("folded", "bfloat16"), ("bfloat16",))
for case, names in zip(CASES, which, strict=True):
    faster = levers.faster(*case, copies[case[1].name], () if missing else names)
    nets[case[1].name], found = faster.nets, found + faster.rows
kept(found)

# %% [markdown]
# *`pass`: how many times as fast a pass is as that of the plain network, in torch's own layout. `compiling`: after so many
# passes of the plain network the compiler has done.*
#
# On this machine bfloat16 is worth most, and the compiler gains nothing beyond it. Where a processor lacks bfloat16 (see the
# conditions above), that type is emulated, and gains little or nothing.
#
# ### Batch and chunk
#
# Every operation costs something once, however many images it has. A larger batch spreads that cost, until its numbers no
# longer fit into a cache. Some attacks make copies of an image, as SIM does. They go through the network one by one, or
# several at once: that number is the `chunk`.

# %%
sizes = RUN["batches"]
found = levers.batches(bench, small, sizes)
kept(found + levers.chunks(bench, small, 5, [sizes[0], *sizes[-2:]]))

# %% [markdown]
# *Images a second over those at batch 1; and the time of SIM copy by copy over that of all five copies at once. Beyond a batch
# of eight nothing is gained here, and chunks pay only for a single image.*
#
# ### Memory that is kept
#
# When a program frees a large piece of memory, the C library gives it back to the system. The system clears every page when
# the program asks again. A network asks as often as it has layers. Two things help:
#
# - An attack takes a batch in parts of at most 64 small images. Smaller pieces stay with the program. An image's gradient is
#   the same to the last bit.
# - A process can keep what it frees (`al.keep_memory`). Chapters do, so that all else on this page has it, the loops of
#   other libraries too.
#
# Measured in a process of its own, first as most programs are, then keeping memory:

# %%
kept(memory.measured(small, race, RUN["rounds"]))

# %% [markdown]
# *Given back: images a second of ours over those of the plain loop of section 5, and the time of a pass of the whole batch over
# that of one in parts. Kept: the time without over that with it. The DenseNet gains most.*
#
# What parts gain where memory is kept, on the copies of the small network:

# %%
kept(levers.parts(bench, small, copies[small.name]))

# %% [markdown]
# *Nothing, as it should be: parts help where memory is given back.*
#
# ### On a GPU
#
# The processor, here called the *host*, tells a GPU what to do, one operation at a time. Such a *launch* takes longer than a
# small operation itself. So the GPU waits for the host, and faster arithmetic gains nothing. A **CUDA graph** records all
# launches of an attack and replays them as one (`al.captured`). The **compiler** and **kernels** of our own make one launch,
# and one way through memory, of several.
#
# These are committed rows of one NVIDIA H200 (`make gpu`), on networks with random weights. First, images a second over those of the plain loop:


# %%
def of_gpus(sections, about):
    """Committed rows of the one GPU that was measured."""
    found = rows.of_gpus(sections, about)
    return found.rename(index=lambda case: case.removesuffix(" (NVIDIA H200)"))


of_gpus(("loop", "compiled"), "over the plain loop")

# %% [markdown]
# *MI-FGSM, ten steps, in brackets the range of the rounds. The plain loop multiplies float32 with TF32, as torch leaves it.
# What was compiled was measured apart.*
#
# At batch 128 the small network waits for the host, and the graph is worth more than all else. At batch 1,024 nobody waits, and
# it is worth little. On the ResNet-50 the compiler gains more than the graph: it adds the bias, the shortcut and the ReLU in
# one way through memory, where the folded network takes three. The aims were a factor of eight on small images and of six on
# large ones, and neither is met.
#
# What is left beside the passes themselves, which are replayed too where the attack is:

# %%
of_gpus(("loop", "compiled"), "over bare passes")

# %% [markdown]
# *Time of the attack over that of its passes; the aim is 1.05. With a graph, and without the compiler, the larger batches and
# the large images meet it.*
#
# Kernels, over the PyTorch code that gives the same numbers: launched by the host, and replayed, where the host is out of it.

# %%
of_gpus(("kernels",), "kernel over PyTorch")

# %% [markdown]
# *Times as fast. What draws random numbers gains most: that is some eighty small operations in PyTorch, and one kernel here. A
# plain step that the host launches is hardly faster on small images, since it waits for the host in either form.*
#
# Copies of an image at once (`chunk`), over bare passes of one copy after the other; and steps of training, launched one by one:

# %%
display(of_gpus(("copies",), "over bare passes"))
display(of_gpus(("training",), "over SGD"))

# %% [markdown]
# *Time over that of the passes, and time of a step over that of SGD's. All copies at once are far cheaper than one after the
# other. In training at batch 128 the host takes the time, too: `al.training.fit` therefore records the passes of a step on a
# GPU, and replays them.*

# %% [markdown]
# ### What the copies do to the attack
#
# A copy is worth having only if it finds the same examples. MI-FGSM at $\epsilon = 8/255$, ten steps, from the plain network
# and from each copy, judged by the same two plain networks on the same images.

# %%
data = images[:n]
judges = {"white-box (itself)": small.model, "black-box (VGG)": vgg}
others = {"plain": small.model} | nets[small.name]
del others["channels_last"]
found = levers.success(data, RUN["race"], others, judges, race, seed)
levers.table(found, "copy", "judge")

# %% [markdown]
# *Success of the attack; base: from the plain network. The interval is Newcombe's for paired proportions. No difference is
# clear: every interval has zero inside.*
#
# Folding changes the logits by rounding; bfloat16 changes them more:

# %% tags=["nbval-check-output"]
apart = levers.rounding(small.first(8), copies[small.name])
assert apart["folded"] < 1e-3 and apart["bfloat16"] < 0.1
print("folding changes the logits by rounding only:", apart["folded"] < 1e-3)
print("bfloat16 changes them more:", apart["bfloat16"] > apart["folded"])

# %% [markdown]
# ## 5. Beside others
#
# Many libraries of attacks share one *plain loop*: one operation at a time, in float32, in torch's own layout, with weights
# that ask for gradients. It is written out in `peers.mi_fgsm`, and gives the same images as ours. Images a second over those
# of that loop:

# %%
racing = small.first(RUN["race"])
found = peers.beside_the_plain_loop(bench, racing, copies[small.name], race)
kept(found)

# %% [markdown]
# The aims were a factor of two in float32 and of four in bfloat16, and neither is met. How far could any loop get here? No pass
# takes less than its floor (section 2), and an attack is passes. Ours, beside what it would be at the floor:

# %%
shares = [median(p.share) for p in points if p.subject.name == small.name]
reach = {}
for row, share in zip(found, shares, strict=True):
    reach[row.what] = (row.ratio, row.ratio / share)
heads = ["ours", "at the floor"]
pd.DataFrame.from_dict(reach, orient="index", columns=heads).round(2)

# %% [markdown]
# *Times the images a second of the plain loop.*
#
# An aim above the second number is out of reach on this machine and this network, whatever the loop: the plain loop is that
# near to what the machine can do. (It has the memory that this process keeps; section 4 says what it loses without.)
#
# ### torchattacks
#
# torchattacks (Kim 2020) is the library that most people would take. The pairs timed here have the same budget, step and
# number of steps. What its source (version 3.3) says about them:
#
# | torchattacks | here | where they differ |
# |---|---|---|
# | PGD | `pgd` | nowhere: here both start at $x$, so that no draw differs |
# | MIFGSM, NIFGSM | `mi_fgsm`, `ni_fgsm` | nowhere: both divide by the mean absolute gradient of an image |
# | SINIFGSM | `sim` with `Elastic(1, 1)` | nowhere |
# | TIFGSM | `tim` | theirs has input diversity, here with probability 0: the resized image is thrown away |
# | DIFGSM | `dim` | **another method**: one size and place *for the whole batch*, in whole pixels; ours draws for every image |
#
# A gradient of exactly zero becomes NaN there and stays zero here. Layout and weights stay as they are there, and no output of
# the network is checked. Ours pays a forward pass of the first images in every call for that check. `torchattacks, folded`
# hands them our copy: what is left between it and `ours, folded` is the loop alone.

# %%
pairs, fast = peers.pairs(RUN["copies"]), copies[small.name]
if not pairs:
    how = "`pip install -e '.[bench]'`"
    said = f"torchattacks is not installed ({how}): no comparison."
    display(Markdown(f"**Note:** {said}"))
torch.manual_seed(seed)  # torchattacks draws from torch's own generator
fast = {name: fast[name] for name in ("folded", "bfloat16")}
two, contests = replace(bench, rounds=min(2, RUN["rounds"])), {}
for name, pair in pairs.items():
    contests[name] = peers.contest(two, racing, data, name, pair, fast, race, seed)
found = [row for contest in contests.values() for row in contest.rows]
kept(found) if contests else None

# %% [markdown]
# *Images a second over those of torchattacks on the plain network. On this machine ours is ahead in every pair.*
#
# Where a run of yours finds ours behind, look for three causes. `dim` draws for every image. Random numbers come from a hash
# instead of torch's generator, so that a result does not depend on the batch. And checks in every call show on small batches.
#
# Do both find the same? Ours against theirs, on the same images:

# %%
if contests:
    found = peers.agreement(contests, data, judges)
    near = ["yes" if abs(f.difference) <= 1 else "no" for f in found.values()]
    shown = levers.table(found, "attack", "contestant", "judge")
    display(shown.assign(**{"within 1 point": near}))

# %% [markdown]
# *Base: torchattacks. One image more or less is already more than a point, so that the interval is what counts: no difference
# is clear. The deterministic attacks in float32 agree image by image.*
#
# ## 6. Penalties and optimizers, in passes and in time
#
# ### An attack's penalty
#
# The gradient norm penalty (GNP) of chapter 3 takes two gradients where the attack takes one. The rest of the loop is shared,
# so that the price should be a factor of two.

# %%
kept([row for case in CASES for row in loop.price_of_gnp(*case, steps)])

# %% [markdown]
# *Time of the attack with the penalty over that without it. It is two or a little less.*
#
# ### A surrogate's penalty
#
# A step of training goes through the network three times: forward, back to the features, back to the weights. The penalties
# of chapter 4 add to that. Counted in passes of the same three kinds, where the derivative of a backward pass counts as two:
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
few, forms = small.first(RUN["tuned"]), roofline.DTYPES
tuned = few._replace(name="small DenseNet", model=densenet)
found, passes = [], {}
for form, dtype in forms.items():
    found += training.objectives(CASES[1][0], tuned, dtype)
    for name, number in training.EXPECTED.items():
        passes[f"step of {name}, {form}"] = number
kept(found).assign(passes=[passes[row.what] for row in found]).round(2)

# %% [markdown]
# *Time of a step over that of a plain one, beside its passes. With torch's own second derivatives LRS-2 takes more than twice
# as long as with ours.*
#
# Passes count convolutions. What the second order costs beyond them is the way back through the rest (BatchNorm, ReLU, the
# joints of a DenseNet), which is bound by memory.
#
# ### Optimizers
#
# SAM takes two passes where SGD takes one, and CR-SAM takes three (chapter 5). Beyond SGD's memory SAM keeps the old weights
# and the step, and CR-SAM also three gradients. The two perturbed passes of CR-SAM do not need one another (Figure 5.3). Side
# by side, in two processes of one thread each, a step could cost as little as two passes, where there are two cores.

# %%
found = []
for dtype in forms.values():
    found += training.optimizers(bench, small, dtype)
kept(found + training.side_by_side(small, RUN["rounds"]))

# %% [markdown]
# *Time of a step over one of SGD. SAM and CR-SAM cost their passes, and side by side CR-SAM gets cheaper.*

# %% [markdown]
# ## 7. The trace of the Hessian
#
# PyHessian is the library that most people would take. Both average $v^\top H v$ over random signs $v$, where $H$ is the
# Hessian of the loss (chapter 5). `al.curvature` first takes out ten directions of large curvature, which cause most of the
# error. The standard error falls with the root of the number of probes. So a few probes tell how long an error of one percent
# would take.

# %%
some = images[: RUN["race"]]
found = trace.beside_pyhessian(bench, small.model, some, RUN["probes"])
if "PyHessian" not in found:
    how = "`pip install -e '.[bench]'`"
    display(Markdown(f"**Note:** PyHessian is not installed ({how}): no comparison."))
ROWS += trace.over_pyhessian(racing, found)
trace.table(found)

# %% [markdown]
# *The same trace within the errors, and the least time with the ten directions taken out.*
#
# ## 8. Memory, and waiting
#
# Copies go through the network in chunks. How many images reach it at once depends on the batch and the chunk, and not on the
# number of copies:

# %% tags=["nbval-check-output"]
few = small.first(4)
largest = {(c, k): levers.largest_batch(few, c, k) for c in (5, 25) for k in (1, 5)}
for (c, k), seen in largest.items():
    print(f"{c:2} copies, chunk {k}: at most {seen:2} images at once, batch 4")
assert largest[5, 1] == largest[25, 1] and largest[5, 5] == largest[25, 5]

# %% [markdown]
# A step that asks the device for a number (`.item()`, an `if` on a tensor) makes a GPU wait in every step. `torch.compile` with
# `fullgraph=True` refuses such a step. So here is a step with everything, which it takes; the backend "eager" runs the traced
# operations as they are:

# %% tags=["nbval-check-output"]
everything = [al.RandomErasure(copies=2), al.ScaleCopies(2), al.InputDiversity()]
net = copies[small.name]["channels_last"]
g = al.smoothed(al.gradient(net, everything, chunk=4), kernel=7)
x, draw = few.flat, al.draws.Draw(seed, images.index[:4], step=1)
ball = al.balls.LinfBall.around(x, 8 / 255, alpha=0.8 / 255)
rule = al.Elastic(sigma=2.0)
step = partial(al.loop.step, y=few.y, g=g, draw=draw, rule=rule, ball=ball)

# %% tags=["nbval-check-output"]
traced = torch.compile(lambda x, m: step(x, m), fullgraph=True, backend="eager")
start = x, torch.zeros_like(x)
for ours, plain in zip(traced(*start), step(*start), strict=True):
    assert torch.allclose(ours, plain, atol=1e-4)
print("one graph, no break")

# %% [markdown]
# ## 9. The numbers as a file, and in one picture

# %%
file = RUN.tables / "speed.csv"
rows.write(file, ROWS, device)
print(f"{len(ROWS)} rows in {file.name}")

# %%
fig = figures.bars(ROWS)
al.plotting.save(fig, f"fig_A3_speed_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A3.2. Ratios of this run; bars are medians, whiskers the smallest and largest round.*
#
# How to use this: find the roof first. Under its slope, move fewer bytes (fold, bfloat16, compile). Under its flat part,
# multiply in a smaller type. Then count passes, for they are the cost. And with each lever look at the table of success: a
# gain at another success rate is no gain.
#
# ## What we found
#
# 1. **The passes are the cost.** The loop around them adds little. Only DIM on the small network misses the aim.
# 2. **What helps depends on the machine.** On a processor that multiplies bfloat16, that type helps most, and the compiler
#    adds nothing. On a GPU small batches wait for the host, and one graph helps most. The aims on speed are not met on
#    either.
# 3. **The result stays the same.** Folding changes numbers by rounding only. The attacks of the fast copies succeed as often,
#    as far as 64 images can tell.
#
# ## Summary
#
# - A pass takes as long as its arithmetic or its memory traffic, whichever takes longer.
# - Folding and channels_last change results by rounding only; bfloat16 trades digits for time.
# - Batch and chunk are to be chosen for the machine. They set the memory, and the number of copies does not.
# - A process that keeps its memory loses no time to the system that clears it.
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
# 3. *Build.* Write a contestant that attacks with `chunk=2` in SIM, and time it beside
#    one copy at a time and all at once with `bench.timed`. Where does
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
