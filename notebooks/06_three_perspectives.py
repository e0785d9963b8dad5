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
# # 6. Three perspectives, together
#
# The thesis makes adversarial examples transfer from three sides: the data (chapter 2), the optimizer (chapter 3) and the
# model (chapter 4). Does it help to do all of it at once?
#
# ![Three panels of marks on CIFAR-10, one for each kind of target: undefended, adversarially trained and defended. In each, EM-RE and GNP lie close to zero. LRS-F lies to the left of zero for undefended targets, and far to the right for the other two.](../figures/06/fig_6_2_main_effects.svg)
#
# *What each of the three adds to an attack (MI-FGSM), in points of success, in the mean over the combinations of the other
# two. Bars are 95 % intervals.*
#
# - **What is asked.** Are the three complementary, so that each adds to the others?
# - **What the thesis finds.** It calls them complementary, and never runs them together.
# - **What we find.** On CIFAR-10 the target decides. The model's side is by far the strongest against secured networks, and
#   costs success on undefended ones, both clearly; the data's side adds a little, within the intervals; the optimizer's side
#   adds nothing, for twice the cost.
#
# Sections 6.1 to 6.3 say what is combined, what a combination costs, and what it means that one technique *adds* something
# to others. The rest runs all combinations, against three kinds of targets. Section 6.7 asks what ties chapter 5 to the others:
# does a surrogate that sits at a flat minimum transfer better? A little, it does.
#
# Where there is a committed run on CIFAR-10, it comes first, because it is the better evidence. The run that you repeat is on
# `shapes`, the built-in teaching set. This page was executed on it.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10 or imagenet; the last is the ImageNet-compatible set
eps_255: float = 0.0  # budget in 1/255, 0 takes 8 on 32-pixel images and the thesis' 16 on imagenet; from 0 to 255
n: int = 0  # images to attack, 0 takes the number of the scale; at least 0
n_flat: int = 0  # images for the flat surrogates, which cost less, 0 takes the number of the scale; at least 0
steps: int = 0  # T of every attack, 0 takes the number of the scale; at least 0
copies: int = 0  # copies that RE and SIM make each, 0 takes the number of the scale (the thesis has 5);
# at least 0
retrain: list[str] = []  # flat surrogates to train again though their weights are committed;
# each one of sam or crsam
seed: int = 0  # of every random draw; at least 0
bfloat16: bool = False  # run the surrogates in bfloat16, about twice as fast where the processor has it

# %%
from dataclasses import replace
from functools import partial
from itertools import product

import pandas as pd
import torch
from IPython.display import Markdown, display

import advlib as al
from advlib.bench.gpu import full_size

# %%
SETTINGS = {
    "smoke": {"n": 6, "n_flat": 6, "steps": 2, "copies": 2, "few": 6},
    "laptop": {"n": 24, "n_flat": 200, "steps": 10, "copies": 3, "few": 200},
    "paper": {"n": 10000, "n_flat": 10000, "steps": 50, "copies": 5, "few": 1000},
}
RUN = al.chapters.begin("06", globals(), SETTINGS)
n, n_flat, steps, copies = RUN["n", "n_flat", "steps", "copies"]
device, dtype = RUN.device, torch.bfloat16 if bfloat16 else None
eps_255 = eps_255 or (16.0 if dataset == "imagenet" else 8.0)
print(RUN)

# %% [markdown]
# ## 6.1 What is combined
#
# | technique | side | what it does | section |
# |:--|:--|:--|:--|
# | EM | data | reads the gradient two steps ahead, where the momentum leads | 2.1 |
# | RE | data | covers a random rectangle in all copies of the image but one, and takes the mean of their gradients | 2.2 |
# | GNP | optimizer | subtracts the gradient a little further uphill, to avoid steep places | 3.1 |
# | LRS-F | model | fine-tunes the surrogate until its loss is smooth | 4.2, 4.3 |
# | DIM, TIM, SIM | data | shrink the image, smooth the gradient, darken copies; all three are *Composite* | 2.3 |
#
# EM and RE together are EM-RE. The attack under all of them is MI-FGSM (chapter 1), and its steps are the same everywhere.
#
# ### The networks
#
# The surrogate is the small DenseNet of chapter 4, before and after LRS-F; the *ensemble* adds the small ResNet to either. The
# targets are of three kinds. *Undefended* are the networks of appendix A1 and the independent ones, which nobody here trained.
# *Adversarially trained* are four: one with PGD, and three against ensembles. *Defended* are three: one behind each of the
# three defences of Table 4.4.
#
# With `dataset="imagenet"` the surrogate is SqueezeNet 1.1, fine-tuned with LRS-F in the run as chapter 4 does it, the second is
# MobileNet v2, no target is adversarially trained, and FD stands in for NRP. A success is counted there, for each target,
# over the images that it and the source name rightly.

# %%
photographs = dataset == "imagenet"
source, companion = "densenet", "resnet"
if photographs:
    source, companion = "squeezenet1_1*", "mobilenet_v2_relu*"
undefended = {k: net.to(device) for k, net in al.models.zoo(dataset).items()}
trained = {} if photographs else al.secured.trained(dataset)
guarded = al.secured.stand_ins(seed) if photographs else al.secured.nine(dataset, seed)
guarded = {k: guarded[k] for k in ("JPEG", "R&P", "FD" if photographs else "NRP")}
hard = {k: net.to(device) for k, net in (trained | guarded).items()}
targets = undefended | hard

# %%
shown_as = "imagenet_compatible" if photographs else dataset
images = al.datasets.load(shown_as, "test", n).to(device)
print("surrogates:", source, "and", companion, "| targets:", ", ".join(targets))


# %%
def smoothed():
    """The surrogate that chapter 4 makes with LRS-F, of the zoo or made here."""
    if not photographs:
        return al.models.load(f"{dataset}/{source}-lrsf")
    name = f"{dataset}/{source.rstrip('*')}"
    al.trainees.smoothed(name, RUN, ["lrsf"], seed)
    return al.surrogates.load(f"{name}-lrsf", RUN.weights)


original, second = undefended[source], undefended[companion]
smooth = smoothed().to(device)

# %% [markdown]
# ### What each does to an image
#
# RE and Composite change what the surrogate is shown:

# %%
numbers = torch.arange(3, device=device)
draw = al.draws.Draw(seed, images.index[:1].repeat(3), copy=numbers)
x = images.x[:1].repeat(3, 1, 1, 1)
darker = al.InputDiversity(p=1.0)(al.ScaleCopies(3)(x, draw, numbers), draw, numbers)
views = {"RE": al.RandomErasure(3, p=1.0)(x, draw, numbers), "Composite": darker}
fig = al.plotting.gallery(views, ["copy 0", "copy 1", "copy 2"], side=1.3)
al.plotting.save(fig, f"fig_6_a_copies_{dataset}", RUN)
fig

# %% [markdown]
# *Above, the copies of RE: the first is intact, in the others noise covers a rectangle. Below, the copies of Composite: each is
# half as bright as the one before, shrunk a little, and stands at another place on black.*
#
# ### What each does to a gradient
#
# GNP, Composite and LRS-F change what is read:


# %%
def around_grey(t):
    """Zero as grey; the largest value as black or white."""
    return 0.5 + 0.5 * t / t.abs().amax()


first = images.x[:1], images.y[:1], al.draws.Draw(seed, images.index[:1])
plain = al.gradient(original)
shrunk = al.gradient(original, [al.ScaleCopies(copies), al.InputDiversity()])
read = {"plain": plain, "GNP": al.norm_penalty(plain)}
read["Composite"] = al.smoothed(shrunk, kernel=7)
read["LRS-F"] = al.gradient(smooth)

# %%
row = torch.cat([around_grey(g(*first)) for g in read.values()])
fig = al.plotting.gallery({"gradient": row}, list(read), side=1.6)
al.plotting.save(fig, f"fig_6_b_gradients_{dataset}", RUN)
fig

# %% [markdown]
# *The gradient at one image of `shapes`, read in four ways. Grey is zero, and colours are the three channels. GNP hardly changes
# it, Composite blurs it, and LRS-F is the gradient of another network.*
#
# ### Composite by hand
#
# With $D$ for DIM, $W$ for the kernel of TIM, and $m$ copies, Composite reads
#
# $$g = W * \frac{1}{m} \sum_{i=0}^{m-1} \nabla_x \ell\left(D(x / 2^i), \, y\right).$$
#
# On two pixels and the linear loss $3 z_1 + 4 z_2$, the copy $x / 2^i$ has the gradient $(3, 4) / 2^i$, by the chain rule. So
# darker copies count less, and on a linear loss SIM changes nothing but the length. A kernel of three pixels with the
# weights $\frac14, \frac12, \frac14$ would turn the row $(0, 4, 0)$ into $(1, 2, 1)$.


# %% tags=["nbval-check-output"]
def linear(z, y):
    return 3 * z[:, 0] + 4 * z[:, 1]


nothing_random = al.draws.Draw(0, torch.arange(1))
at = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0]), nothing_random
sim = al.gradient(torch.nn.Flatten(), al.ScaleCopies(3), loss=linear)(*at).flatten()
assert torch.allclose(sim, torch.tensor([3.0, 4.0]) * (1 + 1 / 2 + 1 / 4) / 3)
kernel = torch.tensor([[[0.25, 0.5, 0.25]]])
blurred = torch.conv1d(torch.tensor([[[0.0, 4.0, 0.0]]]), kernel, padding=1)
assert blurred.flatten().tolist() == [1, 2, 1]
print("SIM:", [round(v, 2) for v in sim.tolist()], "TIM:", blurred.flatten().tolist())

# %% [markdown]
# ### One attack with options
#
# Each technique is an option of the same attack, so that a combination is a line:

# %%
PERSPECTIVES = {"EM-RE": "data", "GNP": "optimizer", "LRS-F": "model"}


def combined(networks, data, optimizer, model, composite):
    """MI-FGSM with a choice of the three techniques, on DIM, TIM and SIM or not."""
    chain = [al.RandomErasure(copies)] if data else []
    chain += [al.ScaleCopies(copies), al.InputDiversity()] if composite else []
    options = {"kernel": 7 if composite else 1, "sigma": 2.0 if data else 0.0}
    options |= {"wrap": al.norm_penalty if optimizer else None, "steps": steps}
    attack = partial(al.attacks.em_fgsm, transform=chain, **options)
    return al.evaluation.OnNetwork(attack, networks[model])


# %%
def named(data, optimizer, model, composite):
    """ "Composite+EM-RE+GNP"."""
    used = zip(PERSPECTIVES, (data, optimizer, model), strict=True)
    chosen = [k for k, is_used in used if is_used]
    return "+".join(["Composite" if composite else "MI", *chosen])


# %%
CHOICES = list(product((False, True), repeat=4))  # composite, data, optimizer, model


def every(networks):
    """All sixteen, by name; networks: without and with LRS-F."""
    return {named(d, o, m, c): combined(networks, d, o, m, c) for c, d, o, m in CHOICES}


# %%
single = {False: al.accelerate(original, dtype=dtype)}
single[True] = al.accelerate(smooth, dtype=dtype)
fast = al.accelerate(second, dtype=dtype)
both = {with_lrs: al.ensemble([net, fast]) for with_lrs, net in single.items()}
print(len(every(single)), "attacks:", ", ".join(every(single)))

# %% [markdown]
# With everything switched off it is MI-FGSM to the last bit:

# %% tags=["nbval-check-output"]
four = images[:4]
off = combined({False: original}, False, False, False, False)
budget = {"eps": eps_255 / 255, "index": four.index}
bare = al.attacks.mi_fgsm(original, four.x, four.y, steps=steps, **budget)
assert torch.equal(off(original, four.x, four.y, **budget), bare)
print("switched off, it is MI-FGSM")

# %% [markdown]
# ## 6.2 What a combination costs
#
# Count the passes of one image through a network. MI-FGSM takes one a step. RE and SIM take one for each copy, and their copies
# multiply: every erased copy is darkened several times. GNP reads two gradients in place of one. An ensemble runs all its networks. EM,
# DIM, TIM, and LRS-F once it is trained, add nothing.
#
# By hand, with $T = 10$ steps and three copies: EM-RE takes $10 \cdot 3 = 30$, EM-RE with GNP $10 \cdot 3 \cdot 2 = 60$, and all of
# it on Composite $10 \cdot 3 \cdot 3 \cdot 2 = 180$.


# %% tags=["nbval-check-output"]
def passes(data, optimizer, composite, networks=1, T=10, m=3):
    """Passes per image."""
    of_copies = (m if data else 1) * (m if composite else 1)
    return T * networks * of_copies * (2 if optimizer else 1)


assert passes(True, False, False) == 30 and passes(True, True, True) == 180
print("from two networks, all of it:", passes(True, True, True, networks=2))

# %% [markdown]
# ## 6.3 What does "adds" mean?
#
# ### Two techniques
#
# Take two techniques A and B, and four attacks: with neither, with one, with the other, with both. What A adds can be read
# twice: without B and with it. Two made-up tables of success:
#
# | | without A | with A | A adds |
# |:--|--:|--:|--:|
# | *complementary:* without B | 50 | 60 | +10 |
# | with B | 50 | 70 | +20 |
# | *in each other's way:* without B | 50 | 60 | +10 |
# | with B | 70 | 65 | -5 |

# %%
at, alone = [0, 1], [50, 60]
panels = {
    "complementary": {"without B": (at, alone), "with B": (at, [50, 70])},
    "in each other's way": {"without B": (at, alone), "with B": (at, [70, 65])},
}
fig = al.plotting.curves(panels, "0: without A, 1: with A", "success (%)")
al.plotting.save(fig, "fig_6_c_two_techniques", RUN)
fig

# %% [markdown]
# *Two made-up pairs of techniques. Left, the line with B rises more steeply: A adds more where B is there. Right, it falls: with B
# there, A does harm. Parallel lines would mean that neither minds the other.*
#
# The **main effect** of A is the mean of what it adds: 15 points on the left. On the right it is 2.5. It does not say whether
# the two get on. For that one needs the difference of the differences: what A adds on top of B, less what it adds alone.
#
# ### Three techniques
#
# With three there are eight attacks, and what A adds can be read four times, once for each combination of the others:
#
# | | neither | B | C | B and C |
# |:--|--:|--:|--:|--:|
# | without A | 50 | 55 | 40 | 45 |
# | with A | 60 | 65 | 50 | 60 |
# | A adds | +10 | +10 | +10 | +15 |
#
# Let the index 1 say "with" and 0 "without", A first. The main effect is
#
# $$\frac{1}{4} \sum_{a, b} \left( \mathrm{ASR}_{1 a b} - \mathrm{ASR}_{0 a b} \right),$$
#
# and ASR is the success rate. A is *complementary* to the others if what it adds to both together is no less than what it adds
# to neither.

# %% tags=["nbval-check-output"]
without = {(0, 0): 50, (1, 0): 55, (0, 1): 40, (1, 1): 45}
with_a = {(0, 0): 60, (1, 0): 65, (0, 1): 50, (1, 1): 60}
adds = {rest: with_a[rest] - without[rest] for rest in without}
effect = sum(adds.values()) / 4
assert effect == 11.25 and adds[1, 1] >= adds[0, 0]
print(f"main effect {effect}, alone {adds[0, 0]:+}, on both others {adds[1, 1]:+}")

# %% [markdown]
# ## 6.4 All sixteen: Tables 6.1 and 6.2
#
# Eight combinations of the three, alone and on Composite, from one surrogate (Table 6.1) and from two (Table 6.2). These are
# tables of this book; the thesis has none.

# %%
config, counted = {"bfloat16": bfloat16}, "both right" if photographs else "all right"
given = [eps_255], None, seed, config, counted
book = al.experiment.Experiment(RUN, targets, images, *given)
table_6_1 = book.measure("6.1", every(single), {source: single[False]})

# %%
ensemble = al.results.ensemble_name([source, companion])
table_6_2 = book.measure("6.2", every(both), {ensemble: both[False]})

# %%
for table, networks in ((table_6_1, 1), (table_6_2, 2)):
    counts = table.groupby("attack").passes.first()
    for c, d, o, m in CHOICES:
        wanted = passes(d, o, c, networks, T=steps, m=copies)
        assert counts[named(d, o, m, c)] == wanted


# %% tags=["hide-input"]
def summary(rows):
    """By kind of target: mean black-box success of each attack, and its passes."""
    rows = al.results.mark_white_box(rows[rows.metric == "asr"])
    parts = {}
    for kind, part in rows.groupby(rows.target.map(al.published.kind), sort=False):
        cost = part.groupby("attack", sort=False).passes.first()
        parts[kind] = al.results.black_box(part).join(cost)
    return parts


# %% tags=["hide-input"]
def unbroken(table):
    """A number and its interval stay on one line."""
    return table.replace(" ", "\N{NO-BREAK SPACE}", regex=True)


# %% tags=["hide-input"]
def by_kind(parts):
    """Passes, and success with its interval for each kind of target."""
    cells = {}
    for kind, part in parts.items():
        rows = zip(part.value, part.ci_low, part.ci_high, strict=True)
        told = [f"{v:.1f} [{low:.0f}, {high:.0f}]" for v, low, high in rows]
        cells[f"{kind} (%)"] = told
    found = pd.DataFrame(cells, index=part.index)
    found.insert(0, "passes", part.passes.astype(int))
    return unbroken(found)


# %%
TABLES = {"one surrogate": "6.1", "two": "6.2"}
runs = {}
for data in ("imagenet", "cifar10"):
    found = {k: al.results.committed(t, "laptop", data) for k, t in TABLES.items()}
    if any(rows is not None for rows in found.values()):
        runs[data] = {k: rows for k, rows in found.items() if rows is not None}
committed = list(runs)
own = f"{dataset}, this run"
runs[own] = {"one surrogate": table_6_1, "two": table_6_2}
shown = {(run, k): summary(rows) for run in runs for k, rows in runs[run].items()}


# %% tags=["hide-input"]
def caption(run, surrogates):
    """What a table was measured on."""
    rows = runs[run][surrogates]
    right = al.results.images(rows[rows.metric == "asr"]).removeprefix("n = ")
    where = f"{run}, {rows.scale.iloc[0]} scale, {rows.eps_255.iloc[0]:g}/255"
    return f"{where}, {right} images, from {surrogates}"


# %% tags=["hide-input"]
def tell(run, view):
    """A view of both tables of a run."""
    for surrogates in runs[run]:
        said = Markdown(f"**{caption(run, surrogates)}**")
        display(said, view(shown[run, surrogates]))


# %%
for run in committed:
    tell(run, by_kind)

# %% [markdown]
# *Black-box success (%), in brackets its 95 % interval.* Compare MI with MI+LRS-F: on undefended targets success falls, and on
# adversarially trained ones it rises tenfold. From two surrogates, of which only one is smooth, both changes are smaller.

# %% tags=["hide-output"]
tell(own, by_kind)

# %% [markdown]
# On `shapes` the intervals are as wide as all the differences.
#
# ## 6.5 Are they complementary?
#
# For each technique, its main effect over the combinations of the other two, what it adds alone, and what it adds to both
# others. The intervals are Newcombe's of a difference, averaged over the four: as wide as if all four rose and fell together.


# %%
def differences(rows, place, composite):
    """What the technique at a place adds to each combination of the other two."""
    found = {}
    for rest in product((False, True), repeat=2):
        on, off = ([*rest[:place], used, *rest[place:]] for used in (True, False))
        pair = rows.loc[named(*on, composite)], rows.loc[named(*off, composite)]
        found[rest] = al.intervals.difference(*pair)
    return found


# %%
def effects(rows, composite):
    """The main effect of each technique, what it adds alone, and to both others."""
    found = {}
    for place, name in enumerate(PERSPECTIVES):
        adds = differences(rows, place, composite)
        mean, low, high = (sum(v) / 4 for v in zip(*adds.values(), strict=True))
        found[name] = {"effect": mean, "low": low, "high": high}
        found[name] |= {"alone": adds[False, False][0], "on both": adds[True, True][0]}
    return pd.DataFrame(found).T


# %% tags=["hide-input"]
def of_all(parts):
    """`effects` on MI and on Composite, for each kind of target."""
    for kind, rows in parts.items():
        of = {"MI": effects(rows, False), "Composite": effects(rows, True)}
        yield kind, pd.concat(of, names=["on", "technique"])


# %% tags=["hide-input"]
def main_effects(parts):
    """The main effect of each technique with its interval."""
    columns = {}
    for kind, of in of_all(parts):
        bounds = zip(of.effect, of.low, of.high, strict=True)
        columns[kind] = [f"{e:+.1f} [{a:+.0f}, {b:+.0f}]" for e, a, b in bounds]
    return unbroken(pd.DataFrame(columns, index=of.index))


# %% tags=["hide-input"]
def alone_and_on_both(parts):
    """What each technique adds alone, and what it adds to both others."""
    columns = {}
    for kind, of in of_all(parts):
        pairs = zip(of.alone, of["on both"], strict=True)
        columns[kind] = [f"{alone:+.1f}, {both:+.1f}" for alone, both in pairs]
    return unbroken(pd.DataFrame(columns, index=of.index))


# %%
for run in committed:
    tell(run, main_effects)

# %% [markdown]
# *Main effects in points of black-box success, with intervals of 95 %.* From one surrogate LRS-F has the only clear effects on
# MI-FGSM, and they have both signs. On Composite, which is weak on 32 pixels, EM-RE has a larger effect than on MI-FGSM; from two
# surrogates it is clear where targets are undefended or defended. GNP adds nothing anywhere.

# %%
for run in committed:
    tell(run, alone_and_on_both)

# %% [markdown]
# *Points added to neither of the other two, and to both.* On MI-FGSM and from one surrogate, EM-RE adds more to both others than alone
# where targets are undefended or defended. That is what complementary would look like; it is within the intervals.

# %% tags=["hide-output"]
tell(own, main_effects)
tell(own, alone_and_on_both)

# %% [markdown]
# On `shapes` no effect is clear.
#
# ## 6.6 What does a pass buy? Figure 6.1
#
# Each of the sixteen attacks has a cost and a success. Which of them would you run?


# %%
def leaderboard(run):
    """Success against cost, a panel for each surrogate and kind of target."""
    panels, bands = {}, {}
    for surrogates, kind in product(runs[run], shown[run, next(iter(runs[run]))]):
        rows, title = shown[run, surrogates][kind], f"{surrogates}, {kind}"
        panels[title] = {k: (row.passes, row.value) for k, row in rows.iterrows()}
        bands[title] = {k: (row.ci_low, row.ci_high) for k, row in rows.iterrows()}
    order = sorted(panels, key=lambda title: title.partition(", ")[2], reverse=True)
    panels = {title: panels[title] for title in order}
    return al.plotting.front(panels, bands, "passes per image", "black-box success (%)")


# %% [markdown]
# ![Six panels of success against passes on CIFAR-10, for three kinds of targets, from one surrogate and from two. Against undefended and defended targets the cheapest attacks are near the top, and the most expensive far below. Against adversarially trained ones cost makes little difference; from one surrogate the attacks on the smooth network lie at a quarter, and the others below a tenth.](../figures/06/fig_6_1_leaderboard_cifar10.svg)
#
# *Figure 6.1 on CIFAR-10: all sixteen attacks, success against cost, with 95 % intervals. Filled and named is the Pareto front,
# which no cheaper attack reaches. The cost of fine-tuning the surrogate, paid once, is not in it.* More passes buy next to nothing
# here. Against secured targets the cheapest attack on the smooth surrogate is nearly as good as any.

# %%
fig = leaderboard(own)
al.plotting.save(fig, f"fig_6_1_leaderboard_{dataset}", RUN)
fig

# %% [markdown]
# *Figure 6.1 on the run that you repeat, on shapes: here, too, the cheapest attacks are at the top, with wide intervals.*
#
# ## 6.7 Does a flat minimum transfer?
#
# Chapter 5 trains networks to flat minima: SAM reads the gradient a step uphill in the space of *weights*, and CR-SAM a step downhill,
# too. Chapters 3 and 4 look for flat places over the *input*. Is there a link? There may be one: the first layer multiplies weights
# and image. If small changes of the weights change the loss little, then perhaps so do small changes of the image.
#
# So: the same ResNet, the same recipe and epochs, trained with SGD (the one of the zoo), SAM and CR-SAM. Each is attacked with
# MI-FGSM. At 8/255 on CIFAR-10 every one of them fools nearly every target; half the budget leaves more room to differ.

# %%
SMOOTH = "Lipschitz constant (logits per unit)"


def rates(success):
    """Black-box success at each budget, by attack."""
    success = al.results.mark_white_box(success[success.metric == "asr"])
    budgets = success.groupby("eps_255")
    return {f"{eps:g}/255": al.results.black_box(part) for eps, part in budgets}


kept = [al.results.committed(table, "laptop", "cifar10") for table in ("6.3", "6.4")]
success, slopes = rates(kept[0]), kept[1].set_index("attack").value

# %%
panels, bands = {}, {}
for budget, found in success.items():
    for k, row in found.iterrows():
        panels.setdefault(budget, {})[k] = ([slopes[k]], [row.value])
        bands.setdefault(budget, {})[k] = ([row.ci_low], [row.ci_high])
names = SMOOTH, "black-box success (%)"
fig = al.plotting.curves(panels, *names, bands, sharey=False)
al.plotting.save(fig, "fig_6_d_flat_surrogates_cifar10", RUN)
fig

# %% [markdown]
# *CIFAR-10, laptop scale, at both budgets: one ResNet, trained in three ways. From SGD to SAM to CR-SAM it is smoother over its
# input, and its images fool others more often. The bars, intervals of 95 %, overlap.*
#
# SAM's and CR-SAM's nets are trained here where they are not there yet; a net that `retrain` names begins anew. At smoke
# scale a training is a trial of one epoch on a few images, and its weights go to the build folder. With `dataset="imagenet"`
# this part runs on `shapes`, whose networks are small enough to train.

# %%
small = "shapes" if photographs else dataset
NETS = {"SGD": "resnet", "SAM": "resnet-sam", "CR-SAM": "resnet-crsam"}
both = al.registry.FLAT, retrain
wanted, again = ([f"resnet-{k}" for k in names] for names in both)
trial = RUN.weights if scale == "smoke" else None
print(al.trainees.provide(small, wanted, again, RUN.checkpoints, trial, device))
surrogates = {k: al.models.load(f"{small}/{net}").to(device) for k, net in NETS.items()}

# %%
more = al.datasets.load(small, "test", n_flat).to(device)
zoo = al.models.zoo(small).items()
others = {name: net.to(device) for name, net in zoo if name != "resnet"}
whole = 8.0 if photographs else eps_255
options = {"models": others, "images": more, "eps_255": [whole], "counted": "all right"}
flat = replace(book, run=replace(RUN, dataset=small), **options)

# %%
judges = replace(flat, eps_255=[whole / 2, whole], steps=steps)
fast = {name: al.accelerate(net, dtype=dtype) for name, net in surrogates.items()}
on = al.evaluation.OnNetwork
attacks = {k: on(al.attacks.mi_fgsm, net) for k, net in fast.items()}
table_6_3 = judges.measure("6.3", attacks, {"resnet": fast["SGD"]})

# %%
constant = partial(al.measures.local_lipschitz, seed=seed)
fewer = replace(flat, images=more[: RUN["few"]])
table_6_4 = fewer.means("6.4", "local_lipschitz", constant, surrogates)


# %% tags=["hide-input"]
def interval(value, low, high):
    """A number with its interval."""
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


# %% tags=["hide-input"]
def flat_surrogates(success, slopes):
    """Accuracy, local Lipschitz constant and black-box success of MI-FGSM."""
    names, listed = list(dict.fromkeys(success.attack)), al.weights.manifest()
    of = success.dataset.iloc[0]
    right = {k: 100 * listed[f"{of}/{NETS[k]}"]["accuracy"] for k in names}
    found = pd.DataFrame({"accuracy (%)": right}).round(1)
    found["Lipschitz constant"] = slopes.set_index("attack").value.round(1)
    for budget, rows in rates(success).items():
        rows = rows.loc[names]
        bounds = zip(rows.value, rows.ci_low, rows.ci_high, strict=True)
        found[f"success (%) at {budget}"] = [interval(*bound) for bound in bounds]
    return unbroken(found)


# %% tags=["hide-input"]
def counted_right(run, success, slopes):
    """What the table of `flat_surrogates` was measured on."""
    of, right = success.iloc[0], success[success.metric == "asr"].n.min()
    fewest = f"{right} images, {slopes.n.min()} for the constant"
    return Markdown(f"**{run}: {of.dataset}, {of.scale} scale, {fewest}**")


measured = {"Committed run": kept, "This run": [table_6_3, table_6_4]}
for run, tables in measured.items():
    display(counted_right(run, *tables), flat_surrogates(*tables))

# %% [markdown]
# *Success of MI-FGSM from each, in brackets 95 % intervals.* On CIFAR-10 accuracy is much the same, the constant falls from SGD to SAM to
# CR-SAM, and success rises at either budget. On `shapes` the constant falls likewise, and success can hardly be told apart.
#
# Target by target:

# %%
CLAIMS = [("SAM", "SGD"), ("CR-SAM", "SGD"), ("CR-SAM", "SAM")]


# %% tags=["hide-input"]
def judged(success):
    """On how many targets the first is ahead of the second, and on how many clearly."""
    success = al.results.mark_white_box(success[success.metric == "asr"])
    found = {}
    for eps, part in success.groupby("eps_255"):
        for better, worse in CLAIMS:
            wins = al.results.wins(part, better, worse)
            found[f"{eps:g}/255", f"{better} > {worse}"] = wins
    return pd.DataFrame(found).T.drop(columns=["better", "worse", "interval"])


# %%
for run, tables in measured.items():
    display(Markdown(f"**{run}**"), judged(tables[0]))

# %% [markdown]
# On CIFAR-10 both flat surrogates are ahead of SGD's on every target; single targets are rarely clear.
#
# **At the thesis' size.** The ResNets above are small. On a GPU the thesis' ResNet-18 was trained by each of the three, for twelve
# epochs; the thesis has 200. It was attacked by MI-FGSM in bfloat16, on the first 1,000 test images of CIFAR-10
# (`advlib.bench.gpu.full_size`, data/results/gpu/full_size; an H200). Targets are three networks of other families at the
# thesis' size: VGG-19, DenseNet-BC-100 and WRN-28-10.

# %%
full_size.flat_sources("MI-FGSM").round(1)

# %% [markdown]
# *Success: the mean over the three targets, over the images that all eight networks of the run name correctly. Above SGD: in
# points, with the paired interval of 95 %. One network of each.* The order is the same, and here it is clear.
#
# ## What we found
#
# The picture at the head of this page is drawn here, from Tables 6.1 and 6.2.

# %%
panels = {}
for run, surrogates in product(committed, TABLES):
    for kind, rows in shown[run, surrogates].items():
        found = effects(rows, composite=False)[["effect", "low", "high"]]
        gains = dict(zip(found.index, found.to_numpy(), strict=True))
        panels.setdefault(kind, {})[caption(run, surrogates)] = gains
fig = al.plotting.forest(panels, list(PERSPECTIVES), "main effect on MI-FGSM (points)")
al.plotting.save(fig, "fig_6_2_main_effects", RUN)
fig

# %% [markdown]
# *Figure 6.2. What each technique adds to MI-FGSM in the mean over the combinations of the other two. The model's side, LRS-F, changes
# its sign with the kind of target, and all of it shrinks from two surrogates.*
#
# Of the committed CIFAR-10 run, at 8/255 and from small networks:
#
# 1. **Which technique helps, the target decides.** LRS-F is the only one of the three with clear effects on MI-FGSM. It loses
#    against undefended networks, and gains against secured ones. A mean over all targets would hide all of it.
# 2. **Complementary are the data and the model, a little, and cost decides the rest.** EM-RE adds more where the two others are
#    there than alone, within the intervals. GNP adds nothing to anything, at twice the passes. Plain MI-FGSM on the smooth surrogate
#    is the best attack on adversarially trained networks, and one of the cheapest. A second, sharp surrogate beside it undoes most
#    of the gain, since a mean of logits is not smooth if one of them is not.
# 3. **A flat minimum does transfer a little better.** The same ResNet, trained with SAM or CR-SAM, is as accurate, has a lower
#    local Lipschitz constant, and fools every target at either budget more often than SGD's. It is one network of each; at
#    the thesis' size, again one of each, the order is the same, and clear.
#
# **How sure?** Only effects of about ten points are clear. Composite is weaker here than plain MI-FGSM, which chapter 2 traces to the kernel
# of TIM and to 32 pixels; EM-RE wins back a part of that. The half budget in section 6.7 was added when the whole one had been
# seen to saturate. On `shapes` a few dozen images count, and no effect of a technique is clear: the page shows how to ask, and
# answers nothing.
#
# ## Summary
#
# - A technique on the data, one on the optimizer and one on the model are options of one attack, and are compared at their cost in
#   passes: `al.attack(x, y, al.norm_penalty(al.gradient(net, transform)), momentum=...)`.
# - Whether techniques are complementary is a question about differences of differences: print main effects, and what each adds to
#   nothing and to all others.
# - Report undefended, adversarially trained and defended targets apart.
# - Surrogates trained with SAM and CR-SAM transfer a little better than that of SGD at the same accuracy.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* Run this chapter with `-p eps_255=4`. Do the Pareto fronts keep their members?
# 2. *Derive.* Two attacks fool a target on independent halves of the images with probabilities $p$ and $q$. What would an
#    attack fool that takes the better of the two for each image, and why is no combination here that attack?
# 3. *Build.* Give the plain attack as many *steps* as the dearest combination has passes, and add it to Figure 6.1.
#
# ## References
#
# - T. Wu, *Adversarial Transferability and Generalization in Robust Deep Learning*, PhD thesis, Missouri University
#   of Science and Technology, 2024, chapter 6.
# - Y. Dong et al., *Boosting adversarial attacks with momentum* (MI-FGSM), CVPR 2018.
# - P. Foret et al., *Sharpness-aware minimization for efficiently improving generalization*, ICLR 2021.
# - T. Wu, T. Luo, D. C. Wunsch, *CR-SAM: curvature regularized sharpness-aware minimization*, AAAI 2024.
# - J. Springer et al., *A little robustness goes a long way*, NeurIPS 2021.
