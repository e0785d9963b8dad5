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
# on top of DIM, TIM and SIM, from one surrogate and from two, against undefended and defended targets, and each at its
# cost in gradient passes.
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
# targets are of two kinds: the networks of appendix A1 and the independent ones, which nobody defended, and the six secured
# networks of Table 4.4, three trained against attacks and three behind a defence.

# %%
undefended = {name: model.to(device) for name, model in al.models.zoo(dataset).items()}
secured = {name: model.to(device) for name, model in al.secured.six(dataset, seed).items()}
targets = undefended | secured
original, second = undefended["densenet"], undefended["resnet"]
smooth = al.models.load(f"{dataset}/densenet-lrsf").to(device)
images = al.datasets.load(dataset, "test", n).to(device)
print("undefended:", ", ".join(undefended), "| secured:", ", ".join(secured))

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
    options = {"momentum": al.Elastic(mu=1.0, sigma=2.0)} if data else {"momentum": al.Elastic(mu=1.0)}
    chain = [al.RandomErasure(copies)] if data else []
    chain += [al.ScaleCopies(copies), al.InputDiversity()] if composite else []
    wrap = al.norm_penalty if optimizer else None
    attack = partial(with_momentum, transform=chain, kernel=7 if composite else 1, wrap=wrap, steps=steps, **options)
    return al.evaluation.Cushioned(attack, networks[model])


def with_momentum(net, x, y, eps, *, transform, kernel, wrap, momentum, **options):
    """The loop of chapter 2, with everything of chapters 2 and 3 as an option."""
    g = al.gradient(net, transform)
    g = al.smoothed(g, kernel) if kernel > 1 else g
    return al.attack(x, y, wrap(g) if wrap else g, momentum=momentum, eps=eps, **options)


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
config = {"copies": copies, "steps": steps}
table_6_1 = book.measure("6.1", every(single), {"densenet": single[False]})
table_6_2 = book.measure("6.2", every(both), {al.results.ensemble_name(["densenet", "resnet"]): both[False]})


def summary(rows, nets):
    """Mean black-box success by attack, beside its passes per image, over some of the targets."""
    kept = al.results.mark_white_box(rows[(rows.metric == "asr") & rows.target.isin(nets)])
    cost = kept.groupby("attack", sort=False).passes.first()
    mean = al.results.black_box(kept)
    return mean.join(cost).assign(**{"per pass": lambda d: d.value / d.passes})


KINDS = {"undefended": list(undefended), "secured": list(secured)}
shown = {
    (table, kind): summary(rows, nets)
    for table, rows in {"one surrogate": table_6_1, "two": table_6_2}.items()
    for kind, nets in KINDS.items()
}
for (table, kind), rows in shown.items():
    display(
        Markdown(f"**From {table}, {kind} targets**, {dataset}, {scale} scale, {eps_255:g}/255, n = {rows.n.min()}")
    )
    display(rows[["value", "ci_low", "ci_high", "n", "passes", "per pass"]].round(1))

# %%
committed = {table: al.results.committed(table, "laptop", "cifar10") for table in ("6.1", "6.2")}
for table, rows in committed.items():
    if rows is None:
        display(Markdown(f"*No cifar10 run of Table {table} is committed yet.*"))
    else:
        for kind, nets in KINDS.items():
            found = summary(rows, nets)
            display(Markdown(f"**Committed run**, Table {table}, cifar10, {kind} targets, n = {found.n.min()}"))
            display(found[["value", "ci_low", "ci_high", "n", "passes", "per pass"]].round(1))

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
def difference(rows, better, worse):
    """Points, and the interval of 95 %, as if the images were others."""
    (k1, n1), (k2, n2) = ((round(rows.value[a] / 100 * rows.n[a]), int(rows.n[a])) for a in (better, worse))
    return [rows.value[better] - rows.value[worse], *al.results.newcombe(k1, n1, k2, n2)]


def effects(rows, composite):
    """The main effect of each technique, what it adds to nothing, and to both others."""
    found = {}
    for place, name in enumerate(PERSPECTIVES):
        pairs = {}
        for rest in product((False, True), repeat=2):
            on, off = [*rest[:place], True, *rest[place:]], [*rest[:place], False, *rest[place:]]
            pairs[rest] = difference(rows, named(*on, composite), named(*off, composite))
        mean, low, high = (sum(values) / 4 for values in zip(*pairs.values(), strict=True))
        alone, on_top = pairs[False, False][0], pairs[True, True][0]
        found[name] = {"effect": mean, "low": low, "high": high, "alone": alone, "on both others": on_top}
    return pd.DataFrame(found).T


for (table, kind), rows in shown.items():
    parts = {"MI": effects(rows, False), "Composite": effects(rows, True)}
    display(Markdown(f"**From {table}, {kind} targets**: points of black-box success, n = {rows.n.min()}"))
    display(pd.concat(parts, names=["on", "technique"]).round(1))

# %% [markdown]
# ## What does a pass buy? Figure 6.1

# %% tags=["slide"]
panels, bands = {}, {}
for (table, kind), r in shown.items():
    panels[f"{table}, {kind}"] = {name: (row.passes, row.value) for name, row in r.iterrows()}
    bands[f"{table}, {kind}"] = {name: (row.ci_low, row.ci_high) for name, row in r.iterrows()}
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

# %%
FLAT = {"SAM": "sam", "CR-SAM": "crsam"}
missing = [v for v in FLAT.values() if v in retrain or f"{dataset}/resnet-{v}" not in al.models.manifest()]
for variant in missing if scale != "smoke" else []:
    name = f"{dataset}/resnet-{variant}"
    al.training.train_member(name, checkpoints=RUN / "checkpoints", device=device)
listed = al.models.manifest()
flat = {"SGD": "resnet"} | {k: f"resnet-{v}" for k, v in FLAT.items() if f"{dataset}/resnet-{v}" in listed}
surrogates = {k: al.models.load(f"{dataset}/{name}").to(device) for k, name in flat.items()}
print("trained now:", ", ".join(missing) or "nothing, all weights are committed")

# %%
more = al.datasets.load(dataset, "test", n_flat).to(device)
others = {name: net for name, net in undefended.items() if name != "resnet"}
judges = al.report.Experiment("06", scale, dataset, others, more, [eps_255], steps, seed, {"bfloat16": bfloat16})
fast = {name: al.accelerate(net, dtype=dtype) for name, net in surrogates.items()}
attacks = {k: al.evaluation.Cushioned(al.attacks.mi_fgsm, net) for k, net in fast.items()}
table_6_3 = judges.measure("6.3", attacks, {"resnet": fast["SGD"]})

# %%
sharp = al.datasets.load(dataset, "val", setting["few"]).to(device)


def shape(net):
    """Slope and smoothness over the input, on validation images."""
    slope = al.norms.l2_norm(al.lipschitz.point(net, sharp.x, sharp.y).gradient).mean().item()
    return {
        "gradient norm": slope,
        "local Lipschitz constant": al.lipschitz.local_lipschitz(net, sharp.x).mean().item(),
    }


facts = {k: {"accuracy (%)": 100 * listed[f"{dataset}/{name}"]["accuracy"]} for k, name in flat.items()}
facts = {k: row | shape(surrogates[k]) for k, row in facts.items()}
means = al.results.black_box(table_6_3[table_6_3.metric == "asr"])[["value", "ci_low", "ci_high", "n"]]
display(
    Markdown(
        f"*MI-FGSM from each, {dataset}, {scale} scale, {eps_255:g}/255; Lipschitz constants on {len(sharp)} images*"
    )
)
pd.DataFrame(facts).T.join(means.rename(columns={"value": "black-box success (%)"})).round(2)

# %%
claims = [("6.3", a, b) for a, b in (("SAM", "SGD"), ("CR-SAM", "SGD"), ("CR-SAM", "SAM")) if a in surrogates]
judged = [al.results.wins(table_6_3[table_6_3.metric == "asr"], better, worse) for _, better, worse in claims]
pd.DataFrame(judged)

# %% [markdown] tags=["slide"]
# ## How to read the result
#
# On this page, `shapes` at laptop scale, 20 images count in Tables 6.1 and 6.2 and 190 in Table 6.3, at 8/255. No effect of a
# technique is clear: the intervals are 25 points to each side. What can be seen:
#
# 1. *They do not add up.* LRS-F alone adds 7 points to MI-FGSM against undefended targets and 6 against secured ones from one surrogate, 11 and 11
#    from two; on top of both others it takes 5 away in the first case, and adds 1 to 3 in the rest. GNP changes nothing, whatever it stands on (main
#    effects between -0.6 and 1.0 points). EM-RE takes away in seven of eight cases, 10 to 17 points on MI.
# 2. *Cost decides before the technique does.* Everything on the Pareto fronts of Figure 6.1 takes 10 or 20 passes and has LRS-F in it.
#    The dearest attacks, 18 times the passes, are among the weakest.
# 3. *The composite is not a base to build on at 32 pixels*: DIM, TIM and SIM together lose 18 to 40 points against undefended targets,
#    which chapter 2 traces to the kernel of TIM.
# 4. *A flat minimum does not transfer, a smoother input does not follow.* The same ResNet trained with SAM and CR-SAM is as accurate (97.0 and 96.4 %
#    beside 97.3 of 2,000 test images), its local Lipschitz constant is lower (36 and 30, from 45), and its images transfer as those of SGD do: 67 and
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
