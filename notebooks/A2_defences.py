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
# # A2. Defences
#
# Table 2.5 of the thesis attacks nine defences, Tables 3.3 and 4.4 six "secured" networks. This appendix trains those
# that are networks, shows what each defence costs on clean images and what it recovers on adversarial ones, repeats
# Table 2.5, and attacks three of them *knowing that they are there*, so that nobody leaves with the belief that they
# are secure.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10, cifar100 or imagenet; the last is the ImageNet-compatible set
retrain: list[str] = []  # nets to train again though their weights are committed;
# each one of vgg-pgd, vgg-ens3, vgg-ens4, pyramidnet-ens1, vgg-noise, hgd, comdefend or nrp
epochs: int = 0  # of a training, 0 takes the number of the recipe; at least 0
eps_255: list[float] = []  # budgets in 1/255, empty takes 8 on 32-pixel images and the thesis' 16 on imagenet;
# each from 0 to 255
n: int = 0  # images to attack, 0 takes the number of the scale; at least 0
n_clean: int = 0  # images for the clean accuracy, 0 takes the number of the scale; at least 0
seed: int = 0  # of weights, order of images and every random draw; at least 0
bfloat16: bool = False  # run the surrogates in bfloat16, about twice as fast where the processor has it
checkpoints: str = ""  # folder with the authors' files, for imagenet (advlib/defenses/authors.py names them)

# %%
from functools import partial

import pandas as pd
import torch
from IPython.display import Markdown, display

import advlib as al

# %%
SETTINGS = {
    "smoke": {"n": 6, "n_clean": 50, "steps": 2, "draws": 2, "few": 4, "copies": 100},
    "laptop": {"n": 40, "n_clean": 200, "steps": 10, "draws": 5, "few": 200,
               "copies": 200},
    "paper": {"n": 1000, "n_clean": 5000, "steps": 10, "draws": 30, "few": 1000,
              "copies": 10_000},
}  # fmt: skip
RUN = al.chapters.begin("A2", globals(), SETTINGS)
n, n_clean, steps, device = *RUN["n", "n_clean", "steps"], RUN.device
print(RUN)

# %%
ours, independent = dataset != "imagenet", dataset == "imagenet" and scale != "paper"
eps_255 = eps_255 or [8.0 if ours else 16.0]
eps = eps_255[0] / 255

# %% [markdown]
# ## Two ways to defend
#
# *Train the network otherwise.* Adversarial training minimises the loss at the end of an attack on the network
# itself (`-pgd`); ensemble adversarial training at one-step examples of other, fixed networks (`-ens3`, `-ens4`,
# `-ens1`: so many of them), the recipe behind the thesis' Inc-v3ens3, Inc-v3ens4 and IncRes-v2ens1. Noise alone
# (`-noise`) is what randomized smoothing needs.
#
# *Put something in front of it.* Some of the nine are fixed transformations: fewer bits (Bit-Red), a JPEG file, a
# quantised DCT (FD), random resizing and padding (R&P), a team of four under distortions (NIPS-r3), a vote under noise
# (RS). Three are networks: a denoiser guided by the logits (HGD), a compression to 12 bits a pixel (ComDefend), a
# purifier trained without labels (NRP).
#
# On ImageNet below paper scale there are the six of them that need no training, over EfficientNet-Lites, which were not
# trained against attacks either: no network of ImageNet that was is to be had without a download.
#
# ## Training what is missing
#
# A killed run loses at most one epoch; a net that `retrain` names begins anew. At smoke scale a training is a trial of
# one epoch on a few images, and its weights go to the build folder.


# %%
def tell(name, total, row):
    """A line after each epoch."""
    epoch, seconds, accuracy = row["epoch"], row["seconds"], row["val_accuracy"]
    print(f"{name}: {epoch}/{total}, {seconds:.0f} s, {accuracy:.1%} of the clean validation images", flush=True)


trial = RUN.weights if scale == "smoke" else None
options = {"device": device, "report": tell, "seed": seed, "epochs": epochs}
wanted = al.secured.OURS if ours else ()
print(al.trainees.provide(dataset, wanted, retrain, RUN.checkpoints, trial, **options))

# %%
listed = al.weights.manifest()
rows = {
    name: {
        "parameters (thousands)": round(e["parameters"] / 1000),
        "clean accuracy (%)": round(100 * e["accuracy"], 1),
        "n": e["n"],
        "epochs": e["recipe"]["epochs"],
        "trained on": e["trained_on"],
        "minimises": e["recipe"].get("objective", "Classification").split("(")[0],
    }
    for name in (*al.nets.FAMILIES, *al.secured.OURS)
    if (e := listed.get(f"{dataset}/{name}"))
}
display(Markdown(f"*{dataset}, test images; for a purifier, the accuracy of the VGG behind it*"))
pd.DataFrame(rows).T.fillna("")

# %% [markdown]
# ## What adversarial training buys
#
# PGD on the network itself (white-box, from a random start): what is left of the accuracy?

# %%
images = al.datasets.load(dataset if ours else "imagenet_compatible", "test", n).to(device)
in_print = not (ours or independent)
plain_name = "Inc-v3" if in_print else al.purification.CLASSIFIER if ours else "efficientnet_lite1"
plain = al.models.load("timm/inception_v3.tf_in1k" if in_print else f"{dataset}/{plain_name}").to(device)
trained = {} if independent else al.secured.trained(dataset, checkpoints)
trained = {name: model.to(device) for name, model in trained.items()}


def right(answer, data, attack=lambda x, y, index: x):
    """How many images of `data` get the right answer, after `attack`."""
    hits = 0
    for batch in data.batches(100):
        adv = attack(x=batch.x, y=batch.y, index=batch.index)
        with torch.no_grad():
            hits += int((answer(adv) == batch.y).sum())
    return hits


def classes(model):
    """Images to the classes that a network names."""
    return lambda x: model(x).argmax(1)


rows = {}
pgd = partial(al.attacks.pgd, eps=eps, steps=2 * steps, seed=seed)
for name, model in {plain_name: plain, **trained}.items():
    hits = [right(classes(model), images), right(classes(model), images, partial(pgd, model))]
    low, high = al.intervals.wilson(hits[1], n)
    rows[name] = {
        "clean (%)": round(100 * hits[0] / n, 1),
        f"PGD, {eps_255[0]:g}/255 (%)": round(100 * hits[1] / n, 1),
        "95 % interval": f"{low:.0f} to {high:.0f}",
    }
display(Markdown(f"*Accuracy, {dataset}, {scale} scale, PGD with {2 * steps} steps, n = {n} test images*"))
pd.DataFrame(rows).T

# %% [markdown]
# One-step training against *other* networks does little against a white-box attack, and is not meant to: it hardens
# a network against examples that come from elsewhere.
#
# ## The nine defences

# %%
nine = al.secured.stand_ins(seed) if independent else al.secured.nine(dataset, seed, checkpoints)
nine = {name: guard.to(device) for name, guard in nine.items()}
rows = {name: {"kind": guard.defence.kind, "gradients": guard.defence.gradients} for name, guard in nine.items()}
if left_out := [name for name in al.secured.NINE if name not in nine]:
    why = "since they need training" if independent else "for want of the authors' files (`advlib/defenses/authors.py`)"
    display(Markdown(f"**Left out, {why}**: {', '.join(left_out)}"))
pd.DataFrame(rows).T

# %% [markdown]
# *faithful*: the published transformation; *retrained*: the published architecture, small, trained by us.
# *straight-through*: an attacker gets the gradient of the identity in place of the defence's own, which is zero.
#
# What the network behind each of them is shown (of many draws the first; of the team, the first member's view):

# %%
some = images[:4]
draw = al.draws.Draw(seed, al.draws.content(some.x))
views = {"image": some.x}
for name, guard in nine.items():
    views[name] = guard.defence.purified(some.x, draw).detach()
fig = al.plotting.gallery(views, side=0.8)
al.plotting.save(fig, f"fig_A2_views_{dataset}", RUN)
fig

# %% [markdown]
# ### What they cost
#
# Accuracy on clean images. RS may decline to answer, which is neither right nor wrong.

# %%
clean = al.datasets.load(dataset if ours else "imagenet_compatible", "test", n_clean).to(device)
targets = {f"no defence ({plain_name})": plain, **nine, **trained}
config = {"bfloat16": bfloat16}
counted = "both right" if independent else "all right"
book = al.experiment.Experiment(RUN, targets, images, eps_255, steps, seed, config, counted)


# %%
def costs(rows):
    """Rows of clean accuracy, a line for each network."""
    hits, silent = (rows[rows.metric == m].set_index("target") for m in ("accuracy", al.evaluation.ABSTAINED))
    return pd.DataFrame(
        {
            "clean (%)": hits.value.round(1),
            "95 % interval": [f"{low:.1f} to {high:.1f}" for low, high in zip(hits.ci_low, hits.ci_high, strict=True)],
            "abstains (%)": silent.value.reindex(hits.index).fillna(0).round(1),
            "ms an image": (1000 * hits.seconds / hits.n).round(2),
        }
    )


# %%
cost = costs(book.accuracy("A2.1", clean))
display(Markdown(f"**This run**: {dataset}, n = {len(clean)} test images"))
cost

# %%
found = al.results.committed("A2.1", "laptop", "cifar10")
if found is not None:
    display(Markdown(f"**Committed run**: cifar10, laptop scale, n = {found.n.min()} test images"))
    display(costs(found))

# %% [markdown]
# ### Table 2.5: what they recover
#
# The attacks know nothing of any defence. As in the thesis they come from one network and from an ensemble of four:
# DIM + TIM + SIM with the momentum of MI, with that of NI, and with EM and RE; and plain MI-FGSM beside them. A network
# without a defence stands beside the nine, and so do the adversarially trained ones, which are no part of the
# thesis' table. HGD and the ensemble adversarially trained networks saw examples of some of these very sources in
# training, as their originals did.

# %%
zoo = al.models.thesis_chapter_2() if in_print else al.models.zoo(dataset)
OURS = ("resnet", "densenet", "resnext", "wrn")
names = OURS if ours else ("Inc-v3", "Inc-v4", "IncRes-v2", "Res-101") if in_print else [*zoo][:3]
surrogates = {name: zoo[name] for name in names}
dtype = torch.bfloat16 if bfloat16 else None
surrogates = {name: al.accelerate(net.to(device), dtype=dtype) for name, net in surrogates.items()}
sources = {
    next(iter(surrogates)): next(iter(surrogates.values())),
    al.results.ensemble_name(surrogates): al.ensemble(list(surrogates.values())),
}
attacks = {
    "MI-FGSM": al.attacks.mi_fgsm,
    "MI-Composite": al.attacks.composite,
    "NI-Composite": partial(al.attacks.composite, momentum=al.Elastic(sigma=1.0)),
    "EM-RE-Composite": partial(al.attacks.composite, **al.EM_RE),
}
rows = book.measure("2.5", attacks, sources)
table_2_5 = rows[rows.target.isin(al.secured.NINE)]
book.show(table_2_5)

# %%
book.beside("2.5", table_2_5)

# %%
committed = book.committed("2.5", targets=al.secured.NINE, whole=True)

# %% [markdown]
# The same examples, counted over *all* images, with the images that a target got wrong from the start: what an
# attacked image costs with each defence, and without one. *clean* is what the table of costs above leaves over.


# %%
def fooled(rows, cost):
    """Wrong answers (%) of every network under every attack from the ensemble, at the first budget."""
    part = rows[(rows.metric == al.evaluation.ALL) & (rows.source == rows.source.iloc[-1])]
    part = part[part.eps_255 == part.eps_255.iloc[0]]
    wide = part.pivot(index="target", columns="attack", values="value").loc[cost.index, part.attack.unique()]
    wide.insert(0, "clean", 100 - cost["clean (%)"] - cost["abstains (%)"])
    setting = f"{part.dataset.iloc[0]}, {part.scale.iloc[0]} scale, {part.eps_255.iloc[0]:g}/255"
    display(Markdown(f"*Wrong answers (%), {setting}, from {part.source.iloc[0]}, n = {part.n.min()}*"))
    display(wide.round(1))


fooled(rows, cost)
abstained = rows[(rows.metric == al.evaluation.ABSTAINED) & (rows.source == list(sources)[1])]
if len(abstained):
    silent = ", ".join(f"{row.attack} {row.value:.1f} %" for row in abstained.itertuples())
    display(Markdown(f"RS declines to answer, of the images that count in Table 2.5: {silent}."))

# %%
everything = al.results.committed("2.5", "laptop", "cifar10")
if everything is not None and found is not None:
    display(Markdown("**Committed run**"))
    fooled(everything, costs(found))

# %%
CLAIMS = [
    ("2.5", "EM-RE-Composite", "MI-Composite"),
    ("2.5", "EM-RE-Composite", "NI-Composite"),
    ("2.5", "NI-Composite", "MI-Composite"),
]
book.verdicts(CLAIMS, {"2.5": table_2_5}, {"2.5": committed})

# %% [markdown]
# ## A certificate
#
# RS is the one of the nine that can prove something: the radius around an image within which no perturbation, measured
# in $L_2$, changes the answer. `certify` finds it from a vote, with probability $1 - \alpha$.

# %%
few = images[: RUN["few"]]
if "RS" in nine:
    smoothing, network = nine["RS"].defence, nine["RS"].model
    found = [(b.y, *smoothing.certify(network, b.x, RUN["copies"], seed)) for b in few.batches(100)]
    y, answers, radii = (torch.cat(parts) for parts in zip(*found, strict=True))
    share = {r: 100 * ((answers == y) & (radii >= r)).float().mean().item() for r in (0.0, 0.1, 0.25, 0.5)}
    found = ", ".join(f"{v:.0f} % at {r:g}" for r, v in share.items())
    conditions = f"{dataset}, n = {len(few)}, {RUN['copies']} noisy copies of each image"
    display(Markdown(f"*{conditions}.* Right, and certified to be within a radius: {found}."))
    longest = eps * few.x[0].numel() ** 0.5
    display(Markdown(f"A perturbation within {eps_255[0]:g}/255 of every pixel is up to {longest:.2f} long."))

# %% [markdown]
# ## White-box honesty: attackers who know
#
# Three defences, each attacked by PGD on the network behind it (the attacker does not know of the defence) and by PGD
# through the defence: straight through the JPEG file as if it were the identity, averaged over the draws of R&P,
# exactly through HGD's denoiser.

# %%
guards = {
    "JPEG": ("straight through", nine["JPEG"]),
    "R&P": (f"mean of {RUN['draws']} draws", al.defenses.RandomResizePad(RUN["draws"])(nine["R&P"].model, seed + 1)),
    "HGD": ("exact gradient", nine.get("HGD")),
}
honest = {}
for name, (how, guard) in guards.items():
    if guard is None:
        continue
    ways = {"clean": {}, "attack on the network": {"attack": partial(pgd, guard.model)}}
    ways["attack through the defence"] = {"attack": partial(pgd, guard)}
    honest[f"{name}, {how}"] = {
        f"{k} (%)": 100 * right(nine[name].predict, few, **options) / len(few) for k, options in ways.items()
    }
honest = pd.DataFrame(honest).T
display(
    Markdown(f"*Accuracy, {dataset}, {scale} scale, PGD with {2 * steps} steps, {eps_255[0]:g}/255, n = {len(few)}*")
)
honest.round(1)

# %% tags=["nbval-check-output"]
knowing, unknowing = honest["attack through the defence (%)"], honest["attack on the network (%)"]
print("whoever knows the defence does at least as well against each:", bool((knowing <= unknowing + 1e-6).all()))

# %% [markdown]
# ## How to read the result
#
# *On this page: `shapes`, laptop scale, 40 images, of which those that every network gets right count in Table 2.5.*
#
# 1. *What was trained against attacks helps against attackers who do not know of it.* HGD and the adversarially trained
#    networks bring the errors under MI-FGSM down from 7 in 10 to between 1 and 2 in 10, and so does NIPS-r3, whose team
#    has two of them. The fixed transformations (R&P, Bit-Red, JPEG, FD) recover next to nothing at this budget, and
#    cost next to nothing.
# 2. *What pays in clean accuracy.* RS gives up a third of the clean images, most of them by not answering; ComDefend
#    and the PGD-trained network give up about one in ten.
# 3. *What is hidden is not gone.* HGD looks like the best of the nine, until the attacker takes the gradient through
#    it: then hardly anything is left. Of everything here only PGD training, and the certificate of RS within its small
#    radius, hold against an attacker who knows.
# 4. *The order of the attacks.* In the thesis EM-RE-Composite beats both others against every defence. Here it is ahead
#    of them or level in most cases, one of them clear at this size. With more images (n = 540 of 900 count, the rows
#    are in `data/results/laptop/shapes`) it is ahead of MI-Composite in 10 of 18 cases and behind it in 7 (7 and 5 of
#    them clear), and behind NI-Composite in 12 (3 clear). All composites are weaker than plain MI-FGSM: chapter 2 says
#    why (TIM's kernel is a fifth of the image).
#
# *On photographs: the committed run (CIFAR-10, laptop scale, small networks, 8/255; n = 1,000 test images for the clean
# accuracy, n = 1,500 for the wrong answers, and the n = 718 of them that every network gets right for Table 2.5).*
#
# 5. *The orders of Table 2.5 hold, its sizes do not.* EM-RE-Composite is ahead of MI-Composite in 18 of 18 cases, 14 of
#    them clear (the 95 % interval of the difference leaves out 0), and ahead of NI-Composite in 18 of 18, 6 of them clear; in the print both
#    are 18 of 18, with 8 and 15 clear. One order turns round: NI-Composite is behind MI-Composite in 13 of the 18
#    printed cases, and ahead of it in 17 of ours. All stand far below the print (42 against 72.5 % for
#    EM-RE-Composite, at half the budget and on other networks).
# 6. *A composite is not always the stronger attack.* Against no defence, or a fixed transformation, plain MI-FGSM fools
#    between 65 and 98 % where the best composite fools between 48 and 69. Against whatever was trained on attacks it is
#    the other way round: HGD stops MI-FGSM (6 and 15 %) and lets EM-RE-Composite through (29 and 48 %), and the
#    adversarially trained networks do so too, on a smaller scale. A likely reason: what they saw in training has a
#    rough texture, and TIM smooths it.
# 7. *What it costs.* Of 88.8 % right without a defence, HGD keeps all, NRP, R&P and Bit-Red lose up to three points,
#    FD, ComDefend and JPEG five to seven, the trained networks nine to 23, NIPS-r3 eleven. RS keeps 64.8 %; it
#    declines to answer on 17.7 %, and is outright wrong on 17.5. Its 100 votes take 88 ms an image on two threads of a
#    processor, or 18 s for 200 images; R&P's 30 draws take 32, the others no more than 5.
# 8. *What it recovers.* Of the 99 % wrong answers that MI-FGSM from the ensemble causes, RS leaves 22 %, the ensemble
#    adversarially trained ones 34 to 37, the PGD-trained one 38, NIPS-r3 40, HGD 46, NRP 71, and the fixed
#    transformations, with ComDefend, between 88 and 99. Under EM-RE-Composite (82 % without a defence) no purifier
#    and no transformation in front of the VGG takes more than eleven points away.
# 9. *Who knows, wins.* The first table of this appendix attacks each network itself. Run it on CIFAR-10, and compare the
#    plain network, the ensemble adversarially trained ones and the PGD-trained one with their lines in Table 2.5.
#
# ## Summary
#
# - A defence wraps a model and is one: `al.defenses.JPEG(quality=75)(model)`; it says whether it is the published
#   transformation, the published architecture trained by us, or a proxy, and how gradients pass.
# - What helps against an attacker who does not know of it need not help against one who does.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* How does the clean accuracy behind `BitReduction(bits)` fall with `bits`, and how much does it
#    recover from MI-FGSM? Where is the best compromise, and on which images did you choose it?
# 2. *Derive.* Randomized smoothing with $n = 100$ votes and $\alpha = 0.001$: with how many votes for the second class
#    does it just not abstain?
# 3. *Build.* Write a defence that blurs (subclass `Defence`, give `purified`), and attack through it.
#
# ## References
#
# - A. Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
# - F. Tramèr et al., *Ensemble adversarial training: attacks and defenses*, ICLR 2018.
# - F. Liao et al., *Defense against adversarial attacks using high-level representation guided denoiser* (HGD), CVPR
#   2018.
# - C. Xie et al., *Mitigating adversarial effects through randomization* (R&P), ICLR 2018.
# - A. Thomas, O. Elibol, *Defense against adversarial attacks, 3rd place* (NIPS-r3), github.com/anlthms/nips-2017.
# - W. Xu et al., *Feature squeezing* (Bit-Red), NDSS 2018.
# - C. Guo et al., *Countering adversarial images using input transformations* (JPEG), ICLR 2018.
# - Z. Liu et al., *Feature distillation: DNN-oriented JPEG compression against adversarial examples* (FD), CVPR 2019.
# - X. Jia et al., *ComDefend: an efficient image compression model to defend adversarial examples*, CVPR 2019.
# - J. Cohen et al., *Certified adversarial robustness via randomized smoothing* (RS), ICML 2019.
# - M. Naseer et al., *A self-supervised approach for adversarial robustness* (NRP), CVPR 2020.
# - A. Athalye et al., *Obfuscated gradients give a false sense of security*, ICML 2018.
