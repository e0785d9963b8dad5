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

# %% [markdown] tags=["slide"]
# # 6. Three perspectives, together
#
# The thesis makes adversarial examples transfer from three sides: the data (chapter 2: elastic momentum and random
# erasure), the optimizer (chapter 3: the gradient norm penalty), and the model (chapter 4: a Lipschitz regularized
# surrogate). It calls them complementary, and never runs them together. This chapter does: all eight combinations, alone and
# on top of DIM, TIM and SIM, from one surrogate and from two, against undefended, adversarially trained and defended
# targets, and each at its cost in gradient passes.
#
# And it asks what ties chapter 5 to the others: does a surrogate that was trained with SAM or CR-SAM transfer better
# than one that was trained with SGD, at the same accuracy?

# %% tags=["parameters"]
scale: str = "laptop"  # smoke, laptop or paper
dataset: str = "shapes"  # shapes or cifar10
eps_255: float = 8.0  # budget in 1/255
n: int = 0  # images to attack, 0 takes the number of the scale
n_flat: int = 0  # images for the flat surrogates, which cost less, 0 takes the number of the scale
steps: int = 0  # T of every attack, 0 takes the number of the scale
copies: int = 0  # copies that RE and SIM make each, 0 takes the number of the scale (the thesis has 5)
retrain: list[str] = []  # flat surrogates to train again though their weights are committed: sam, crsam
seed: int = 0  # of every random draw
bfloat16: bool = False  # run the surrogates in bfloat16, about twice as fast where the processor has it

# %%
from dataclasses import replace
from functools import partial
from itertools import product

import pandas as pd
import torch
from IPython.display import Markdown, display

import advlib as al

# %%
SETTINGS = {
    "smoke": {"n": 6, "n_flat": 6, "steps": 2, "copies": 2, "few": 6},
    "laptop": {"n": 24, "n_flat": 200, "steps": 10, "copies": 3, "few": 200},
    "paper": {"n": 10000, "n_flat": 10000, "steps": 50, "copies": 5, "few": 1000},
}
setting = SETTINGS[scale]
n, n_flat = n or setting["n"], n_flat or setting["n_flat"]
steps, copies = steps or setting["steps"], copies or setting["copies"]
RUN = al.paths.BUILD / scale / dataset
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
dtype = torch.bfloat16 if bfloat16 else None
print(al.results.conditions(scale, dataset))

# %% [markdown]
# ## The networks
#
# The surrogate is the small DenseNet of chapter 4, before and after LRS-F; the ensemble adds the small ResNet to either. The
# targets are of three kinds: the networks of appendix A1 and the independent ones, which nobody defended; four that were
# trained against attacks, one with PGD and three against ensembles; and one behind each of the three defences of Table 4.4.

# %%
guarded = {name: net for name, net in al.secured.six(dataset, seed).items() if isinstance(net, al.defenses.Defended)}
KINDS = {
    "undefended": al.models.zoo(dataset),
    "adversarially trained": al.secured.trained(dataset),
    "defended": guarded,
}
targets = {name: net.to(device) for nets in KINDS.values() for name, net in nets.items()}
undefended = KINDS["undefended"]
original, second = undefended["densenet"], undefended["resnet"]
smooth = al.models.load(f"{dataset}/densenet-lrsf").to(device)
images = al.datasets.load(dataset, "test", n).to(device)
print("\n".join(f"{kind}: {', '.join(names)}" for kind, names in KINDS.items()))

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
    return al.evaluation.Cushioned(attack, networks[model])


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
book = al.report.Experiment("06", scale, dataset, targets, images, [eps_255], None, seed, {"bfloat16": bfloat16})
table_6_1 = book.measure("6.1", every(single), {"densenet": single[False]})
table_6_2 = book.measure("6.2", every(both), {al.results.ensemble_name(["densenet", "resnet"]): both[False]})


def kind_of(target):
    """A witness has another name on each data set, and nobody defended it."""
    return next((kind for kind, nets in KINDS.items() if target in nets), "undefended")


def summary(rows):
    """By kind of target: the mean black-box success of each attack beside its passes per image."""
    rows = al.results.mark_white_box(rows[rows.metric == "asr"])
    parts = {}
    for kind, part in rows.groupby(rows.target.map(kind_of), sort=False):
        cost = part.groupby("attack", sort=False).passes.first()
        parts[kind] = al.results.black_box(part).join(cost)
    return parts


def by_kind(parts):
    """Success with its interval, and success per pass, of each kind of target."""
    cells = {}
    for kind, part in parts.items():
        rows = zip(part.value, part.ci_low, part.ci_high, strict=True)
        cells[kind, "success (%)"] = [f"{value:.1f} [{low:.0f}, {high:.0f}]" for value, low, high in rows]
        cells[kind, "per pass"] = (part.value / part.passes).round(2).to_list()
    found = pd.DataFrame(cells, index=part.index)
    found.insert(0, ("", "passes"), part.passes.astype(int))
    return found


# %%
runs = {"this run": {"one surrogate": table_6_1, "two": table_6_2}, "the committed run": {}}
for surrogates, table in {"one surrogate": "6.1", "two": "6.2"}.items():
    rows = al.results.committed(table, "laptop", "cifar10")
    if rows is None:
        display(Markdown(f"*No cifar10 run of Table {table} is committed yet.*"))
    else:
        runs["the committed run"][surrogates] = rows
shown = {(run, name): summary(rows) for run, tables in runs.items() for name, rows in tables.items()}


def caption(run, surrogates):
    """What a table was measured on."""
    of = runs[run][surrogates].iloc[0]
    n = runs[run][surrogates].query("metric == 'asr'").n.min()
    return f"{run}: {of.dataset}, {of.scale} scale, {of.eps_255:g}/255, n = {n}, from {surrogates}"


for key, parts in shown.items():
    display(Markdown(f"**Black-box success, {caption(*key)}**"), by_kind(parts))

# %% [markdown] tags=["slide"]
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
            pairs[rest] = al.results.difference(rows.loc[named(*on, composite)], rows.loc[named(*off, composite)])
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
    return pd.DataFrame(columns, index=of.index)


for key, parts in shown.items():
    display(Markdown(f"**Points of black-box success, {caption(*key)}**"), main_effects(parts))

# %% [markdown]
# ## What does a pass buy? Figure 6.1

# %% tags=["slide"]
panels, bands = {}, {}
for (run, surrogates), parts in shown.items():
    for kind, rows in parts.items() if run == "this run" else ():
        panels[f"{surrogates}, {kind}"] = {name: (row.passes, row.value) for name, row in rows.iterrows()}
        bands[f"{surrogates}, {kind}"] = {name: (row.ci_low, row.ci_high) for name, row in rows.iterrows()}
fig = al.plotting.front(panels, bands, "passes per image", "black-box success (%)")
al.plotting.save(fig, f"fig_6_1_leaderboard_{dataset}", RUN)
fig

# %% [markdown]
# *Figure 6.1. All sixteen, success against cost; filled and named: the Pareto front, which no cheaper attack reaches. The cost of
# fine-tuning the surrogate, paid once, is not in it.*
#
# ## Does a flat minimum transfer?
#
# Chapter 5 trains networks to flat minima, chapters 3 and 4 attack along flat directions and smooth networks. Here the three
# meet: the same ResNet, the same recipe and epochs, trained with SGD (the one of the zoo), SAM and CR-SAM, attacked with MI-FGSM.
# On CIFAR-10 every one of them fools nearly every target at 8/255; half the budget leaves more room to differ.

# %%
NETS = {"SGD": "resnet", "SAM": "resnet-sam", "CR-SAM": "resnet-crsam"}
listed = al.models.manifest()
lacking = [net for net in NETS.values() if net.partition("-")[2] in retrain or f"{dataset}/{net}" not in listed]
for net in lacking if scale != "smoke" else []:
    al.training.train_member(f"{dataset}/{net}", checkpoints=RUN / "checkpoints", device=device)
listed = al.models.manifest()
found = {k: f"{dataset}/{net}" for k, net in NETS.items() if f"{dataset}/{net}" in listed}
surrogates = {k: al.models.load(name).to(device) for k, name in found.items()}
print("surrogates:", ", ".join(surrogates), "| smoke scale trains none" if scale == "smoke" else "")

# %%
more = al.datasets.load(dataset, "test", n_flat).to(device)
others = {name: net for name, net in undefended.items() if name != "resnet"}
budgets = [eps_255 / 2, eps_255]
judges = al.report.Experiment("06", scale, dataset, others, more, budgets, steps, seed, {"bfloat16": bfloat16})
fast = {name: al.accelerate(net, dtype=dtype) for name, net in surrogates.items()}
attacks = {k: al.evaluation.Cushioned(al.attacks.mi_fgsm, net) for k, net in fast.items()}
table_6_3 = judges.measure("6.3", attacks, {"resnet": fast["SGD"]})


def constant(net, images, eps):
    """Eq. 4.11 before the mean."""
    return al.lipschitz.local_lipschitz(net, images.x, eps, seed=seed, index=images.index)


table_6_4 = replace(book, images=more[: setting["few"]]).means("6.4", "local_lipschitz", constant, surrogates)

# %%
CLAIMS = [("SAM", "SGD"), ("CR-SAM", "SGD"), ("CR-SAM", "SAM")]


def flat_surrogates(run, success, slopes):
    """Accuracy, local Lipschitz constant, black-box success of MI-FGSM, and in how many cases it is clearly higher."""
    success = al.results.mark_white_box(success[success.metric == "asr"])
    dataset, scale = success.iloc[0][["dataset", "scale"]]
    names = [name for name in NETS if name in set(success.attack)]
    listed = al.models.manifest()
    found = pd.DataFrame(
        {"accuracy (%)": {name: 100 * listed[f"{dataset}/{NETS[name]}"]["accuracy"] for name in names}}
    )
    found[f"local Lipschitz constant, n = {slopes.n.min()}"] = slopes.set_index("attack").value.round(1)
    for eps, part in success.groupby("eps_255"):
        rows = al.results.black_box(part).loc[names]
        bounds = zip(rows.value, rows.ci_low, rows.ci_high, strict=True)
        found[f"success (%) at {eps:g}/255"] = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in bounds]
    display(Markdown(f"**MI-FGSM from each, {run}: {dataset}, {scale} scale, n = {success.n.min()}**"), found)
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

# %% [markdown] tags=["slide"]
# ## How to read the result
#
# On this page, `shapes` at laptop scale, 19 images count in Tables 6.1 and 6.2 and 190 in Table 6.3, at 8/255. No effect of a
# technique is clear: the intervals are 25 to 30 points to each side. What can be seen:
#
# 1. *They do not add up.* LRS-F alone adds 7 points to MI-FGSM against undefended targets from one surrogate and 11 from two, and 11
#    against defended ones; on top of both others it makes between -3 and 7. GNP changes little, whatever it stands on (main
#    effects between -0.9 and 2.6 points). EM-RE takes away in 11 of 12 cases, up to 18 points.
# 2. *Cost decides before the technique does.* Every member of the Pareto fronts of Figure 6.1 has LRS-F in it, and takes 10 or 20
#    passes, against adversarially trained targets 60 at most. The dearest attacks, 18 times the passes, are among the weakest.
# 3. *The composite is not a base to build on at 32 pixels*: DIM, TIM and SIM take 19 points from MI-FGSM against undefended targets from
#    one surrogate and 41 from two, which chapter 2 traces to the kernel of TIM.
# 4. *Adversarial training stops all of it*: 5 % is the most that any of the 32 attacks reaches (1 to 25 %).
# 5. *A flat minimum does not transfer, a smoother input does not follow.* The same ResNet trained with SAM and CR-SAM is as accurate (97.0 and 96.4 %
#    beside 97.3 of 2,000 test images), its local Lipschitz constant is lower (34 and 29, from 42), and its images transfer as those of SGD do: 67 and
#    69 % beside 66 (95 % intervals of 7 points to each side).
#
# ## Summary
#
# - A technique on the data, one on the optimizer and one on the model are options of one attack, and are compared at their cost in
#   passes: `al.attack(x, y, al.norm_penalty(al.gradient(net, transform)), momentum=...)`.
# - Whether techniques are complementary is a question about differences of differences: print main effects, and what each adds to
#   nothing and to all others.
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
