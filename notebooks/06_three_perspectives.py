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
# The thesis makes adversarial examples transfer from three sides: the data (chapter 2: elastic momentum and random
# erasure), the optimizer (chapter 3: the gradient norm penalty), and the model (chapter 4: a Lipschitz regularized
# surrogate). Does it help to do all of it at once?
#
# - *The thesis* calls the three complementary, and never runs them together.
# - *This chapter* does: all eight combinations, alone and on top of DIM, TIM and SIM, from one surrogate and from two, against
#   undefended, adversarially trained and defended targets, and each at its cost in gradient passes.
# - *We find* that the target decides. The model's side is by far the strongest against secured networks, and costs success on
#   undefended ones; the data's side adds a little; the optimizer's side adds nothing, for twice the passes.
#
# It also asks what ties chapter 5 to the others: does a surrogate that was trained with SAM or CR-SAM transfer better than one that
# was trained with SGD, at the same accuracy? A little, it does.

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
# ## The networks
#
# The surrogate is the small DenseNet of chapter 4, before and after LRS-F; the ensemble adds the small ResNet to either. The
# targets are of three kinds: the networks of appendix A1 and the independent ones, which nobody defended; four that were
# trained against attacks, one with PGD and three against ensembles; and one behind each of the three defences of Table 4.4.
#
# With `dataset="imagenet"` the surrogate is SqueezeNet 1.1, fine-tuned with LRS-F in the run as chapter 4 does it, the second is
# MobileNet v2, no target is adversarially trained, and FD stands in for NRP. A success is counted there, for each target,
# over the images that it and the source name rightly.

# %%
photographs = dataset == "imagenet"
source, companion = ("squeezenet1_1*", "mobilenet_v2_relu*") if photographs else ("densenet", "resnet")
undefended = {name: net.to(device) for name, net in al.models.zoo(dataset).items()}
trained = {} if photographs else al.secured.trained(dataset)
guarded = al.secured.stand_ins(seed) if photographs else al.secured.nine(dataset, seed)
guarded = {name: guarded[name] for name in ("JPEG", "R&P", "FD" if photographs else "NRP")}
targets = undefended | {name: net.to(device) for name, net in (trained | guarded).items()}
images = al.datasets.load("imagenet_compatible" if photographs else dataset, "test", n).to(device)
print("surrogates:", source, "and", companion, "| targets:", ", ".join(targets))


# %%
def smoothed():
    """The surrogate that chapter 4 makes with LRS-F: of the zoo, or made in this run."""
    if not photographs:
        return al.models.load(f"{dataset}/{source}-lrsf")
    name = f"{dataset}/{source.rstrip('*')}"
    al.trainees.smoothed(name, RUN, ["lrsf"], seed)
    return al.surrogates.load(f"{name}-lrsf", RUN.weights)


original, second, smooth = undefended[source], undefended[companion], smoothed().to(device)

# %% [markdown]
# ## Eight combinations
#
# Each technique is an option of the same attack, so that a combination is a line, and costs what its parts cost: RE
# multiplies the passes of a step by its copies, GNP by two, SIM by its copies; EM, DIM, TIM, and LRS-F once it is trained,
# add none.

# %%
PERSPECTIVES = {"EM-RE": "data", "GNP": "optimizer", "LRS-F": "model"}


def combined(networks, data, optimizer, model, composite):
    """MI-FGSM with a choice of the three techniques, on DIM, TIM and SIM or not."""
    chain = [al.RandomErasure(copies)] if data else []
    chain += [al.ScaleCopies(copies), al.InputDiversity()] if composite else []
    options = {"kernel": 7 if composite else 1, "wrap": al.norm_penalty if optimizer else None, "steps": steps}
    attack = partial(al.attacks.em_fgsm, sigma=2.0 if data else 0.0, transform=chain, **options)
    return al.evaluation.OnNetwork(attack, networks[model])


def named(data, optimizer, model, composite):
    """ "Composite+EM-RE+GNP"."""
    chosen = [k for k, used in zip(PERSPECTIVES, (data, optimizer, model), strict=True) if used]
    return "+".join(["Composite" if composite else "MI", *chosen])


CHOICES = list(product((False, True), repeat=4))  # composite, data, optimizer, model


def every(networks):
    """All sixteen, by name; networks: without and with LRS-F."""
    return {named(d, o, m, c): combined(networks, d, o, m, c) for c, d, o, m in CHOICES}


single = {False: al.accelerate(original, dtype=dtype), True: al.accelerate(smooth, dtype=dtype)}
fast = al.accelerate(second, dtype=dtype)
both = {with_lrs: al.ensemble([net, fast]) for with_lrs, net in single.items()}
print(len(every(single)), "attacks:", ", ".join(every(single)))

# %% [markdown]
# ## Tables 6.1 and 6.2: all of them, from one surrogate and from two

# %%
config, counted = {"bfloat16": bfloat16}, "both right" if photographs else "all right"
book = al.experiment.Experiment(RUN, targets, images, [eps_255], None, seed, config, counted)
table_6_1 = book.measure("6.1", every(single), {source: single[False]})
ensemble = al.results.ensemble_name([source, companion])
table_6_2 = book.measure("6.2", every(both), {ensemble: both[False]})


# %%
def summary(rows):
    """By kind of target: the mean black-box success of each attack beside its passes per image."""
    rows = al.results.mark_white_box(rows[rows.metric == "asr"])
    parts = {}
    for kind, part in rows.groupby(rows.target.map(al.published.kind), sort=False):
        cost = part.groupby("attack", sort=False).passes.first()
        parts[kind] = al.results.black_box(part).join(cost)
    return parts


# %%
def by_kind(parts):
    """Success with its interval, and success per pass, of each kind of target."""
    cells = {}
    for kind, part in parts.items():
        rows = zip(part.value, part.ci_low, part.ci_high, strict=True)
        cells[kind, "success (%)"] = [f"{value:.1f} [{low:.0f}, {high:.0f}]" for value, low, high in rows]
        cells[kind, "per pass"] = (part.value / part.passes).round(2).to_list()
    found = pd.DataFrame(cells, index=part.index)
    found.insert(0, ("", "passes"), part.passes.astype(int))
    return unbroken(found)


def unbroken(table):
    """A number and its interval stay on one line."""
    return table.replace(" ", "\N{NO-BREAK SPACE}", regex=True)


# %%
TABLES = {"one surrogate": "6.1", "two": "6.2"}
runs = {"this run": {"one surrogate": table_6_1, "two": table_6_2}}
for data in ("imagenet", "cifar10"):
    kept = {name: al.results.committed(table, "laptop", data) for name, table in TABLES.items()}
    runs[f"the committed run on {data}"] = {name: rows for name, rows in kept.items() if rows is not None}
    for name in (name for name, rows in kept.items() if rows is None):
        display(Markdown(f"*No {data} run of Table {TABLES[name]} is committed yet.*"))
shown = {(run, name): summary(rows) for run, tables in runs.items() for name, rows in tables.items()}


def caption(run, surrogates):
    """What a table was measured on."""
    rows = runs[run][surrogates]
    of, images = rows.iloc[0], al.results.images(rows[rows.metric == "asr"])
    return f"{run.capitalize()}: {of.dataset}, {of.scale} scale, {of.eps_255:g}/255, {images}, from {surrogates}"


for key, parts in shown.items():
    display(Markdown(f"**{caption(*key)}: black-box success**"), by_kind(parts))

# %% [markdown]
# ## Are they complementary?
#
# If they are, each adds to the others. The main effect of a technique is the mean difference that it makes over the four
# combinations of the other two,
#
# $$\frac{1}{4} \sum_{a, b} \left( \mathrm{ASR}_{1 a b} - \mathrm{ASR}_{0 a b} \right),$$
#
# and it is complementary if what it adds to both others together is no less than what it adds to neither. The intervals are
# Newcombe's of a difference, averaged over the four: as wide as if all four rose and fell together.


# %%
def effects(rows, composite):
    """The main effect of each technique, what it adds to nothing, and to both others."""
    found = {}
    for place, name in enumerate(PERSPECTIVES):
        pairs = {}
        for rest in product((False, True), repeat=2):
            on, off = [*rest[:place], True, *rest[place:]], [*rest[:place], False, *rest[place:]]
            pairs[rest] = al.intervals.difference(rows.loc[named(*on, composite)], rows.loc[named(*off, composite)])
        mean, low, high = (sum(values) / 4 for values in zip(*pairs.values(), strict=True))
        alone, on_top = pairs[False, False][0], pairs[True, True][0]
        found[name] = {"effect": mean, "low": low, "high": high, "alone": alone, "on both others": on_top}
    return pd.DataFrame(found).T


def main_effects(parts):
    """All kinds of targets side by side."""
    columns = {}
    for kind, rows in parts.items():
        of = pd.concat({"MI": effects(rows, False), "Composite": effects(rows, True)}, names=["on", "technique"])
        bounds = zip(of.effect, of.low, of.high, strict=True)
        columns[kind, "effect"] = [f"{effect:+.1f} [{low:+.0f}, {high:+.0f}]" for effect, low, high in bounds]
        columns[kind, "alone, on both others"] = [
            f"{a:+.0f}, {b:+.0f}" for a, b in zip(of.alone, of["on both others"], strict=True)
        ]
    return unbroken(pd.DataFrame(columns, index=of.index))


for key, parts in shown.items():
    display(Markdown(f"**{caption(*key)}: points of black-box success**"), main_effects(parts))

# %%
panels = {}
for (run, surrogates), parts in shown.items():
    for kind, rows in parts.items() if surrogates == "one surrogate" else ():
        found = effects(rows, composite=False)[["effect", "low", "high"]]
        gains = dict(zip(found.index, found.to_numpy(), strict=True))
        panels.setdefault(kind, {})[caption(run, surrogates).rpartition(", from")[0]] = gains
fig = al.plotting.forest(panels, list(PERSPECTIVES), "main effect on MI-FGSM (points)")
al.plotting.save(fig, "fig_6_2_main_effects", RUN)
fig

# %% [markdown]
# *Figure 6.2. What each technique adds to MI-FGSM in the mean over the combinations of the other two, from one surrogate, with
# intervals of 95 %. The model's side changes its sign with the kind of target.*

# %% [markdown]
# ## What does a pass buy? Figure 6.1


# %%
def leaderboard(run):
    """Success against cost of a run's attacks, a panel for each surrogate and kind of target."""
    panels, bands = {}, {}
    kinds = dict.fromkeys(kind for surrogates in runs[run] for kind in shown[run, surrogates])
    for kind, surrogates in product(kinds, runs[run]):
        rows = shown[run, surrogates][kind]
        panels[f"{surrogates}, {kind}"] = {name: (row.passes, row.value) for name, row in rows.iterrows()}
        bands[f"{surrogates}, {kind}"] = {name: (row.ci_low, row.ci_high) for name, row in rows.iterrows()}
    return al.plotting.front(panels, bands, "passes per image", "black-box success (%)")


fig = leaderboard("this run")
al.plotting.save(fig, f"fig_6_1_leaderboard_{dataset}", RUN)
display(fig)
for run in [run for run, tables in runs.items() if tables and run != "this run"]:
    display(Markdown(f"**{caption(run, next(iter(runs[run])))}, and on**"), leaderboard(run))

# %% [markdown]
# *Figure 6.1. All sixteen, success against cost; filled and named: the Pareto front, which no cheaper attack reaches. The cost of
# fine-tuning the surrogate, paid once, is not in it.*
#
# ## Does a flat minimum transfer?
#
# Chapter 5 trains networks to flat minima, chapters 3 and 4 attack along flat directions and smooth networks. Here the three
# meet: the same ResNet, the same recipe and epochs, trained with SGD (the one of the zoo), SAM and CR-SAM, attacked with MI-FGSM.
# On CIFAR-10 every one of them fools nearly every target at 8/255; half the budget leaves more room to differ.
#
# SAM's and CR-SAM's nets are trained here where they are not there yet; a net that `retrain` names begins anew. At smoke
# scale a training is a trial of one epoch on a few images, and its weights go to the build folder. With `dataset="imagenet"`
# this part runs on `shapes`, whose networks are small enough to train.

# %%
small = "shapes" if photographs else dataset
NETS = {"SGD": "resnet", "SAM": "resnet-sam", "CR-SAM": "resnet-crsam"}
wanted, again = ([f"resnet-{optimizer}" for optimizer in names] for names in (al.registry.FLAT, retrain))
trial = RUN.weights if scale == "smoke" else None
print(al.trainees.provide(small, wanted, again, RUN.checkpoints, trial, device))
surrogates = {name: al.models.load(f"{small}/{net}").to(device) for name, net in NETS.items()}

# %%
more = al.datasets.load(small, "test", n_flat).to(device)
others = {name: net.to(device) for name, net in al.models.zoo(small).items() if name != "resnet"}
whole = 8.0 if photographs else eps_255
options = {"models": others, "images": more, "eps_255": [whole], "counted": "all right"}
flat = replace(book, run=replace(RUN, dataset=small), **options)
judges = replace(flat, eps_255=[whole / 2, whole], steps=steps)
fast = {name: al.accelerate(net, dtype=dtype) for name, net in surrogates.items()}
attacks = {k: al.evaluation.OnNetwork(al.attacks.mi_fgsm, net) for k, net in fast.items()}
table_6_3 = judges.measure("6.3", attacks, {"resnet": fast["SGD"]})

# %%
constant = partial(al.measures.local_lipschitz, seed=seed)
fewer = replace(flat, images=more[: RUN["few"]])
table_6_4 = fewer.means("6.4", "local_lipschitz", constant, surrogates)

# %%
CLAIMS = [("SAM", "SGD"), ("CR-SAM", "SGD"), ("CR-SAM", "SAM")]


def flat_surrogates(run, success, slopes):
    """Accuracy, local Lipschitz constant, black-box success of MI-FGSM, and in how many cases it is clearly higher."""
    success = al.results.mark_white_box(success[success.metric == "asr"])
    dataset, scale = success.iloc[0][["dataset", "scale"]]
    names = [name for name in NETS if name in set(success.attack)]
    listed = al.weights.manifest()
    found = pd.DataFrame(
        {"accuracy (%)": {name: 100 * listed[f"{dataset}/{NETS[name]}"]["accuracy"] for name in names}}
    )
    found[f"local Lipschitz constant, n = {slopes.n.min()}"] = slopes.set_index("attack").value.round(1)
    for eps, part in success.groupby("eps_255"):
        rows = al.results.black_box(part).loc[names]
        bounds = zip(rows.value, rows.ci_low, rows.ci_high, strict=True)
        found[f"success (%) at {eps:g}/255"] = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in bounds]
    display(
        Markdown(f"**{run.capitalize()}: {dataset}, {scale} scale, n = {success.n.min()}, MI-FGSM from each**"),
        unbroken(found),
    )
    claims = [claim for claim in CLAIMS if set(claim) <= set(names)]
    parts = {f"{eps:g}/255": part for eps, part in success.groupby("eps_255")}
    judged = {
        (eps, f"{better} > {worse}"): al.results.wins(part, better, worse)
        for eps, part in parts.items()
        for better, worse in claims
    }
    display(pd.DataFrame(judged).T.drop(columns=["better", "worse"]))


flat_surrogates("this run", table_6_3, table_6_4)
kept = [al.results.committed(table, "laptop", "cifar10") for table in ("6.3", "6.4")]
if all(rows is not None for rows in kept):
    flat_surrogates("the committed run", *kept)
else:
    display(Markdown("*No cifar10 run of Tables 6.3 and 6.4 is committed yet.*"))

# %% [markdown]
# **At the thesis' size.** The ResNets above are small. On a GPU the thesis' ResNet-18 was trained by each of the three, for 12
# epochs, where the thesis has 200, and attacked on the first 1,000 test images of CIFAR-10 by MI-FGSM, in bfloat16
# (`advlib.bench.gpu.full_size`, data/results/gpu/full_size; an H200). Targets are three networks of other families at the thesis'
# size: VGG-19, DenseNet-BC-100 and WRN-28-10.

# %%
full_size.flat_sources("MI-FGSM").round(1)

# %% [markdown]
# *Success: the mean over the three targets, over the images that all eight networks of the run name correctly. Above SGD: in
# points, with the paired interval of 95 %. One network of each.*
#
# ## How to read the result
#
# Three findings, of the committed CIFAR-10 run (8/255, small networks); their numbers are in the tables above.
#
# 1. *Which technique helps, the target decides.* LRS-F is the only one of the three with clear effects on MI-FGSM, and they have both
#    signs: it loses against undefended networks and gains against secured ones. A mean over all targets would hide all of it.
# 2. *Complementary are the data and the model, a little, and cost decides the rest.* EM-RE adds more where the two others are there
#    than alone, within the intervals. GNP adds nothing to anything, at twice the passes. MI-FGSM on the smooth surrogate, ten
#    passes, is the best attack on adversarially trained networks; a second, sharp surrogate beside it undoes most of the gain, since a
#    mean of logits is not smooth if one of them is not.
# 3. *A flat minimum does transfer a little better.* The same ResNet, trained with SAM or CR-SAM, is as accurate, has a lower local
#    Lipschitz constant, and fools every target at either budget more often than SGD's. It is one network of each; at the
#    thesis' size, again one of each, the order is the same, and clear.
#
# The composite (DIM, TIM and SIM together) is weaker than plain MI-FGSM on 32 pixels, which chapter 2 traces to the kernel of TIM;
# EM-RE wins back a part of that. The half budget in the last part was added when the whole one had been seen to saturate.
#
# On the page that you read (`shapes`) a few dozen images count, and no effect of a technique is clear. It shows how to ask, and answers
# nothing.

# %% [markdown]
# ## Summary
#
# - A technique on the data, one on the optimizer and one on the model are options of one attack, and are compared at their cost in
#   passes: `al.attack(x, y, al.norm_penalty(al.gradient(net, transform)), momentum=...)`.
# - Whether techniques are complementary is a question about differences of differences: print main effects, and what each adds to
#   nothing and to all others.
# - Report undefended, adversarially trained and defended targets apart.
# - Surrogates trained with SAM and CR-SAM transfer a little better than that of SGD at the same accuracy.

# %% [markdown]
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
