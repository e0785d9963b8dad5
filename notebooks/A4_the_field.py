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
# # A4. The field
#
# The thesis compares with some ten attacks and names twenty more. Which of them should one run? This appendix puts all of
# them on one page: a family tree, a paragraph for each with the line of code that runs it, and one leaderboard, from one
# surrogate, on the same images, with what each costs. From its front comes a piece of advice, `al.attacks.recommended`.
# Beside it stand the attacks that ask the target itself, and the optimizers of chapter 5 with their relatives.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10 or imagenet; the last is the ImageNet-compatible set
eps_255: list[float] = []  # budgets in 1/255, empty takes 8 on 32-pixel images and the thesis' 16 on imagenet;
# each from 0 to 255
attacks: list[str] = []  # rows of the leaderboard, by name or pattern such as EM-FGSM*, empty takes all
n: int = 0  # images to attack, 0 takes the number of the scale; at least 0
n_val: int = 0  # validation images to choose on, 0 takes the number of the scale; at least 0
epochs: int = 0  # of a fine-tuning that collects networks, 0 takes the number of the scale; at least 0
seed: int = 0  # of every random draw; at least 0
bfloat16: bool = False  # run the surrogates in bfloat16, about twice as fast where the processor has it

# %%
import inspect
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import pandas as pd
import torch
from IPython.display import Markdown, display

import advlib as al

# %%
SETTINGS = {
    "smoke": {"n": 6, "n_val": 6, "steps": 2, "points": 2, "epochs": 1, "networks": 2, "n_tuning": 512,
              "rap": 4, "layers": 1, "queries": 200, "n_asked": 2, "n_judged": 100, "n_sharp": 10, "trial": 1,
              "batch": 64},
    "laptop": {"n": 40, "n_val": 40, "steps": 10, "points": 20, "epochs": 1, "networks": 10, "n_tuning": 0,
               "rap": 40, "layers": 3, "queries": 1000, "n_asked": 10, "n_judged": 1000,
               "n_sharp": 100, "trial": 2, "batch": 128},
    "paper": {"n": 1000, "n_val": 500, "steps": 10, "points": 20, "epochs": 10, "networks": 40, "n_tuning": 0,
              "rap": 400, "layers": 3, "queries": 10_000, "n_asked": 100, "n_judged": 10_000,
              "n_sharp": 1000, "trial": 0, "batch": 0},
}  # fmt: skip
RUN = al.chapters.begin("A4", globals(), SETTINGS)
n, n_val, steps, points, epochs = RUN["n", "n_val", "steps", "points", "epochs"]
device = RUN.device
eps_255 = eps_255 or [16.0 if dataset == "imagenet" else 8.0]
print(RUN)

# %% [markdown]
# ## The family tree
#
# All of them maximise a loss, or lower a distance, inside a small ball. They differ in what they change about that:
#
# 1. [the step](#The-step): what is remembered from one gradient to the next, and where the next one is taken;
# 2. [the gradient](#The-gradient): averaged over points, or with a penalty;
# 3. [the input](#The-input): what the surrogate is shown;
# 4. [the network](#The-network): what its layers compute on the way back, or which features the loss is about;
# 5. [several networks](#Several-networks): an ensemble, or many weights of one network;
# 6. [the question](#The-question): no surrogate at all, the target itself is asked.

# %%
BRANCHES = {
    "the step": ["FGSM", "I-FGSM", "PGD", "MI-FGSM", "NI-FGSM", "EM-FGSM", "VMI-FGSM", "EMI-FGSM"],
    "the gradient": ["GNP", "PGN", "noise-averaged", "TAIG", "RAP"],
    "the input": ["DIM", "RDIM", "TIM", "SIM", "Admix", "RE", "Composite"],
    "the network": ["LinBP", "SGM", "ghosts", "ILA++", "AA", "ATA", "AoA", "LRS"],
    "several networks": ["logits", "probabilities", "losses", "SVRE", "LGV", "Bayesian"],
    "the question": ["NES", "NAttack", "Boundary", "Sign Flip"],
}
fig = al.plotting.tree("maximise the loss in a ball", BRANCHES)
al.plotting.save(fig, "fig_A4_1_family_tree", RUN)
fig

# %% [markdown]
# *Figure A4.1. Attacks by what they change. Each has its paragraph below.*
#
# In the formulas $\ell(x)$ is the loss of the surrogate at $x$, $g(x) = \nabla_x \ell(x)$, $\bar u$ is $u$ over the mean of its
# absolute values, $\Pi$ the projection onto the ball and $[0, 1]$, and $\alpha = \epsilon / T$ the length of a step. The
# constants are those of the papers, and the defaults here.
#
# ### The step
#
# A rule makes a direction of gradients and remembers what it needs. Its memory belongs to one call of `al.attack`; a rule of
# yours is two methods (`advlib/rules.py`).
#
# - **FGSM** (Goodfellow et al. 2015). One step, as long as the budget: $x^{adv} = \Pi(x + \epsilon \operatorname{sign} g(x))$.
#   `al.attacks.fgsm`
# - **I-FGSM** (Kurakin et al. 2017). Many short steps, each along its own gradient:
#   $x_{t+1} = \Pi(x_t + \alpha \operatorname{sign} g(x_t))$. `al.attacks.i_fgsm`
# - **PGD** (Madry et al. 2018). The same from a random point of the ball, with longer steps: $\alpha = 2.5\,\epsilon / T$.
#   `al.attacks.pgd`
# - **MI-FGSM** (Dong et al. 2018). The steps follow a decaying sum of gradients, which evens out their turns:
#   $m_{t+1} = \mu m_t + \bar g(x_t)$, $x_{t+1} = \Pi(x_t + \alpha \operatorname{sign} m_{t+1})$, $\mu = 1$. `al.attacks.mi_fgsm`
# - **NI-FGSM** (Lin et al. 2020), **EM-FGSM** (thesis chapter 2). MI's sum is going to move the point on; its gradient is
#   therefore taken where that leads: $\bar g(x_t + \alpha \sigma m_t)$, $\sigma = \mu$ for NI and 2 for EM. With `project="ball"`
#   it is $\bar g(\Pi(x_t + \alpha \sigma m_t))$. `al.attacks.ni_fgsm`, `al.attacks.em_fgsm`
# - **VMI-, VNI-FGSM** (Wang & He 2021). Each gradient is corrected by how it varied around the last iterate:
#   $\overline{g(x_t) + v_t}$, $v_{t+1} = \frac{1}{N} \sum_i g(x_t + r_i) - g(x_t)$ in MI's or NI's sum; $N = 20$ points $r_i$
#   within $1.5\,\epsilon$. `al.attacks.vmi_fgsm`, `al.attacks.vni_fgsm`
# - **EMI-FGSM** (Wang et al. 2021). The gradient is averaged over a line through the iterate, along the last such mean:
#   $\hat g_t = \frac{1}{N} \sum_i g(x_t + \alpha c_i \bar{g}_{t-1})$ with $\bar{g}_{t-1}$ the normalised $\hat g_{t-1}$, $N = 11$ and
#   $c_i$ evenly from $-7$ to $7$. `al.attacks.emi_fgsm`
#
# ### The gradient
#
# - **GNP** (thesis chapter 3). The gradient of $\ell - \lambda \|g\|_2$, by a forward difference:
#   $(1 + \beta)\, g(x) - \beta\, g(x + r\, g(x) / \|g(x)\|_2)$, $r = 0.01$, $\beta = 0.8$. `**al.GNP`. Its other side, a mean of
#   two gradients: $(1 - \beta)\, g(x) + \beta\, g(x - r\, g(x) / \|g(x)\|_2)$. `al.norm_penalty(g, difference="backward")`
# - **PGN** (Ge et al. 2023). The backward penalty, averaged over points: the mean of
#   $(1 - \beta)\, g(x_i) + \beta\, g(x_i - \alpha\, \bar g(x_i))$, $\beta = 0.5$, at 20 points $x_i$ within $3\,\epsilon$ of $x$.
#   `al.attacks.pgn`
# - **Noise-averaged gradient** (Wu & Zhu 2020; the thesis' "SGM [49]"). The mean of $g(x + \xi_i)$ over 20 points, $\xi_i$ normal
#   with a deviation of 15/255: what is rough in the surrogate alone averages out. `al.attacks.smoothed_gradient`
# - **TAIG** (Huang & Kong 2022). The steps follow integrated gradients, from black to the image:
#   $x \odot \frac{1}{20} \sum_k g(\frac{k}{20} x)$, of the logit of the class; straight (S), or with noise on every point (R).
#   `al.attacks.taig`
# - **RAP** (Qin et al. 2022). The gradient is taken where the loss nearby is *lowest*: $g(x_t + n_t)$, $n_t$ from 8 sign steps
#   that lower the loss within $\epsilon$. What is still high there lies on flat ground. 400 steps, the last 300 so.
#   `al.attacks.rap`
#
# ### The input
#
# - **DIM** (Xie et al. 2019). $\nabla_x \ell(D(x))$: half of the time $D$ shrinks the image, by up to a tenth, and puts it
#   somewhere on a black canvas. **RDIM** (Zou et al. 2020): always, on a canvas 14 % larger. `al.attacks.dim`, `al.attacks.rdim`
# - **TIM** (Dong et al. 2019). $W * g(x)$, smoothed with a Gaussian of 7 pixels, as if averaged over shifts of the image.
#   `al.attacks.tim`
# - **SIM** (Lin et al. 2020). The mean over darkened copies: $\frac{1}{5} \sum_{i=0}^{4} \nabla_x \ell(x / 2^i)$. **Admix** (Wang
#   et al. 2021): with a fifth of another image $z_j$ in each, $\frac{1}{15} \sum_{i,j} \nabla_x \ell((x + 0.2\, z_j) / 2^i)$, three
#   of them. `al.attacks.sim`, `al.attacks.admix`
# - **RE** (thesis chapter 2). The mean over five copies, $\frac{1}{5} \sum_i \nabla_x \ell(RE_i(x))$: one intact, four in which,
#   half of the time, a rectangle of up to 40 % is filled with noise. `al.attacks.re_fgsm`
# - **Composite**. DIM, TIM and SIM together; with `**al.EM_RE` the thesis' EM-RE-Composite. `al.attacks.composite`
#
# ### The network
#
# - **LinBP** (Guo et al. 2020). Behind a layer, the backward pass takes every ReLU for the identity.
#   `al.linear_backward(f, layer)`
# - **SGM** (Wu et al. 2020). The way back through a residual branch counts half: $1 + \gamma F'(z)$ in place of $1 + F'(z)$,
#   $\gamma = 0.5$. `al.skip_gradient(f, layers, 0.5)`
# - **Ghost networks** (Li et al. 2020). Another network for each image and step, made of the one there is: features dropped,
#   1.2 % of them, or skip connections scaled, $\lambda z + F(z)$ with $\lambda$ from 0.78 to 1.22.
#   `al.dropout_erosion(f, layers)`, `al.skip_erosion(f, layers)`
# - **ILA++** (Guo et al. 2022). A first run of I-FGSM gives a direction $w$ in the features $h$ of a layer, the sum of its
#   iterates' changes weighted by their losses; a second one, from $x$ again, raises $w \cdot h(x)$. `al.layers.ila_plus_plus`
# - **AA** (Inkawhich et al. 2019). No logit is looked at: raise $\|h(x) - h(x_0)\|_2$ in the features of a layer, $x_0$ the clean
#   image, or lower the distance to an image of the class wanted. `al.attacks.aa`
# - **ATA** (Wu et al. 2020). Raise the loss, and change what the network attends to: $\ell(x) + \|H(x) - H(x_0)\|^2$, $H$ the map
#   of attention to the class (as in Grad-CAM). `al.attacks.ata`
# - **AoA** (Chen et al. 2020). Draw the attention from the class $y$ to the second one, $z$:
#   $\ell(x) + \log \|h(x, z)\|_1 - \log \|h(x, y)\|_1$, $h(x, c)$ a heat map of class $c$. `al.attacks.aoa`
# - **LRS** (thesis chapter 4). The surrogate itself is fine-tuned to be smooth.
#   `al.models.load("cifar10/densenet-lrs2")`
#
# ### Several networks
#
# - **Ensembles** (Liu et al. 2017). The loss of the mean logits, $\ell(\frac{1}{K} \sum_k f_k(x))$, or of the mean probabilities,
#   or the mean of the losses. `al.ensemble([f, h])`, `al.ensemble([f, h], by="probabilities")`,
#   `al.averaged([al.gradient(f), al.gradient(h)])`
# - **SVRE** (Xiong et al. 2022). Networks disagree, and the mean hides by how much: between two steps of the ensemble, a walk
#   along single networks from $x_t$, each corrected by how it differs, $g_k(z) - g_k(x_t) + g(x_t)$. `al.attacks.svre`
# - **LGV** (Gubri et al. 2022). Another network in each step, $g_{k(t)}(x_t)$, of 40 that were collected along a fine-tuning
#   with a high learning rate. `al.training.collect`, `al.attacks.lgv`
# - **Bayesian substitute** (Li et al. 2023). The same with networks drawn from a normal distribution of weights around the mean
#   of a flat fine-tuning. `al.training.posterior`
#
# ### The question
#
# - **NES** (Ilyas et al. 2018). The gradient from differences of scores,
#   $\frac{1}{2 \sigma N} \sum_i (\ell(x + \sigma u_i) - \ell(x - \sigma u_i))\, u_i$, with 25 normal $u_i$ and $\sigma = 0.001$.
#   `al.attack(x, y, al.queries.nes(h), eps=8 / 255)`
# - **NAttack** (Li et al. 2019). The mean of a normal distribution is learned from scores, until its samples are adversarial.
#   `al.queries.nattack`
# - **Boundary** (Brendel et al. 2018). A walk along the decision boundary toward the clean image, from answers alone.
#   `al.decisions.boundary`
# - **Sign Flip** (Chen et al. 2020). Random signs of the change are flipped while it shrinks. `al.decisions.sign_flip`
#
# **L-BFGS** (Szegedy et al. 2014), **JSMA** (Papernot et al. 2016) and **C&W** (Carlini & Wagner 2017) look for the smallest
# change, and not for the largest loss in a ball: `al.minimum_norm.lbfgs`, `al.saliency.jsma`, `al.carlini_wagner`. They have
# no row below.

# %% [markdown]
# ## The leaderboard
#
# One surrogate, a small ResNet. Undefended targets, adversarially trained ones and defended ones (three of the nine of
# appendix A2) stand apart. Ten steps for every attack that takes steps, except RAP, which has 40 at laptop scale and 400 in
# its paper; the cost is in passes (forward and backward runs of one network for one image) and in seconds of this machine.
#
# With `dataset="imagenet"` the networks are the six independent ones of chapter 2, of which none is adversarially trained; the
# surrogate is MobileNet v2, and a success is counted, for each target, over the images that it and the surrogate name rightly.
# All rows take hours there: `-p attacks=DIM,SIM,EM-FGSM*` chooses some. Those that the others are compared with are always there.

# %%
photographs = dataset == "imagenet"
if photographs:
    source, second, smooth = "mobilenet_v2_relu*", "efficientnet_lite0*", "squeezenet1_1*"
    asked, chooses = "squeezenet1_0*", ("squeezenet1_0*", "efficientnet_lite2*")
    layers, first = ["features.14", "features.7", "features.3"], "conv"
    norms, branches = "features.*.conv.*.1", "features.*.conv"
    trained, guarded = {}, al.secured.stand_ins(seed)
    images, val = al.datasets.split(al.datasets.load("imagenet_compatible", "test", n + n_val), n, seed)
else:
    source, second, smooth, asked, chooses = "resnet", "densenet", "densenet", "vgg", ("wrn", "resnext")
    layers, first, norms, branches = ["layer3", "layer2", "layer1"], "0", "bn*", "layer*.*.bn2"
    trained, guarded = al.secured.trained(dataset), al.secured.nine(dataset, seed)
    images, val = (al.datasets.load(dataset, split, k) for split, k in (("test", n), ("val", n_val)))

# %%
images, val, models = images.to(device), val.to(device), al.models.zoo(dataset)
guarded = {name: guarded[name] for name in ("JPEG", "FD", "NRP") if name in guarded}
targets = {name: model.to(device) for name, model in (models | trained | guarded).items()}
models, layers = {name: targets[name] for name in models}, layers[: RUN["layers"]]
dtype = torch.bfloat16 if bfloat16 else None
plain, f = models[source], al.accelerate(models[source], dtype=dtype)
config, counted = {"bfloat16": bfloat16}, "both right" if photographs else "all right"
book = al.experiment.Experiment(RUN, targets, images, eps_255, None, seed, config, counted)
print("targets:", ", ".join(targets))

# %%
A = al.attacks
T = {"steps": steps}
mi = {"MI-FGSM": partial(A.mi_fgsm, **T)}
STEP = mi | {
    "FGSM": A.fgsm,
    "I-FGSM": partial(A.i_fgsm, **T),
    "PGD": partial(A.pgd, **T),
    "NI-FGSM": partial(A.ni_fgsm, **T),
    "NI-FGSM, ball": partial(A.em_fgsm, sigma=1.0, project="ball", **T),
    "EM-FGSM": partial(A.em_fgsm, **T),
    "EM-FGSM, ball": partial(A.em_fgsm, project="ball", **T),
    "VMI-FGSM": partial(A.vmi_fgsm, points=points, **T),
    "VNI-FGSM": partial(A.vni_fgsm, points=points, **T),
    "EMI-FGSM": partial(A.emi_fgsm, **T),
    "MI-FGSM, 2T": partial(A.mi_fgsm, steps=2 * steps),
    "MI-FGSM, 10T": partial(A.mi_fgsm, steps=10 * steps),
}
GRADIENT = mi | {
    "GNP": partial(A.mi_fgsm, **al.GNP, **T),
    "GNP, backward": partial(A.mi_fgsm, wrap=partial(al.norm_penalty, difference="backward"), **T),
    "PGN": partial(A.pgn, points=points, **T),
    "noise-averaged": partial(A.smoothed_gradient, points=points, momentum=al.Elastic(1.0), **T),
    "TAIG-S": partial(A.taig, points=points, **T),
    "RAP": partial(A.rap, steps=RUN["rap"], late=RUN["rap"] // 4),
}
taught = "imagenet_sample" if photographs else dataset
pool = al.datasets.load(taught, "val", 50).x.to(device)
INPUT = mi | {
    "DIM": partial(A.dim, **T),
    "RDIM": partial(A.rdim, **T),
    "TIM": partial(A.tim, **T),
    "TIM, 3 pixels": partial(A.tim, kernel=3, std=0.7, **T),
    "SIM": partial(A.sim, **T),
    "Admix": partial(A.admix, pool=pool, **T),
    "RE": partial(A.re_fgsm, **T),
    "Composite": partial(A.composite, **T),
    "DIM+SIM": partial(A.composite, kernel=1, **T),
    "EM-RE-Composite": partial(A.composite, **al.EM_RE, **T),
}


# %%
INSIDE = ("LinBP", "ILA++", "AA", "ATA")
LATER = (*INSIDE, "SGM", "ghosts, dropout", "ghosts, skips", "AoA", "ensemble, logits", "ensemble, probabilities",
         "ensemble, losses", "SVRE", "LGV", "Bayesian", "PGD on LRS-1", "PGD on LRS-2", "PGD on LRS-F")  # fmt: skip
for pattern in attacks:
    if not any(fnmatchcase(name, pattern) for name in (*STEP, *GRADIENT, *INPUT, *LATER)):
        raise ValueError(f"attacks: {pattern!r} is no row of the leaderboard")


# %%
def chosen(name):
    """Whether the run is to measure a row."""
    return not attacks or any(fnmatchcase(name, pattern) for pattern in attacks)


def wanted(rows):
    """Those of a branch that are chosen, and the first, which they are compared with."""
    return {name: attack for k, (name, attack) in enumerate(rows.items()) if not k or chosen(name)}


tables = {
    "the step": book.measure("A4.1", wanted(STEP), {source: f}),
    "the gradient": book.measure("A4.2", wanted(GRADIENT), {source: f}),
    "the input": book.measure("A4.3", wanted(INPUT), {source: f}),
}

# %% [markdown]
# ### Inside the network
#
# Four of these need a layer. It is chosen on validation images, by the mean success on undefended targets.


# %%
def inside(layer):
    """Attacks at one layer of the surrogate."""
    return {
        "LinBP": al.evaluation.OnNetwork(partial(A.mi_fgsm, **T), al.linear_backward(plain, f"{layer}.{first}")),
        "ILA++": partial(al.layers.ila_plus_plus, layer=layer, steps=steps, refine=steps),
        "AA": partial(A.aa, layer=layer, **T),
        "ATA": partial(A.ata, layers=layer, **T),
    }


on_val = replace(book, models=models, images=val, eps_255=eps_255[:1], config={**config, "split": "validation"})
best_layer, names = {}, [*filter(chosen, INSIDE)]
if names:
    grid = {f"{name}, {layer}": inside(layer)[name] for layer in layers for name in names}
    found = on_val.measure("A4.4", grid, {source: plain}, stem="table_A4_4_validation")
    mean = al.results.black_box(found[found.metric == "asr"]).value
    best_layer = {name: max(layers, key=lambda layer: mean[f"{name}, {layer}"]) for name in names}
print("layers chosen:", best_layer)

# %%
on = al.evaluation.OnNetwork
NETWORK = mi | {name: inside(layer)[name] for name, layer in best_layer.items()}
NETWORK |= {
    "SGM": on(partial(A.mi_fgsm, **T), al.skip_gradient(plain, branches, 0.5)),
    "ghosts, dropout": on(partial(A.mi_fgsm, **T), al.dropout_erosion(plain, norms)),
    "ghosts, skips": on(partial(A.mi_fgsm, **T), al.skip_erosion(plain, branches)),
    "AoA": partial(A.aoa, **T),
}
tables["the network"] = book.measure("A4.4", wanted(NETWORK), {source: plain})

# %% [markdown]
# ### With several networks
#
# The ensembles add a second network, the DenseNet, which therefore is no target of theirs. LGV and the Bayesian substitute have one network to
# start from, and fine-tune it: at laptop scale for one epoch in batches of 128, where the papers have ten, of 256 and 1,024.


# %%
def in_turn(model, x, y, eps, **options):
    """Another member of an ensemble in each step."""
    return A.lgv(list(model.members), x, y, eps, momentum=al.Elastic(1.0), **options)


def by_losses(model, x, y, eps, **options):
    """The mean of the members' losses, where an ensemble averages logits."""
    g = al.averaged([al.gradient(member) for member in model.members])
    return al.attack(x, y, g, eps=eps, momentum=al.Elastic(1.0), **options)


h = al.accelerate(models[second], dtype=dtype)
both = al.ensemble([f, h])
MANY = mi | {
    "ensemble, logits": on(partial(A.mi_fgsm, **T), both),
    "ensemble, probabilities": on(partial(A.mi_fgsm, **T), al.ensemble([f, h], by="probabilities")),
    "ensemble, losses": on(partial(by_losses, **T), both),
    "SVRE": on(partial(A.svre, **T), both),
}

# %%
train, held_back = al.datasets.load(taught, "train", RUN["n_tuning"] or None), al.datasets.load(taught, "val", n_val)
tuning = {"epochs": epochs, "seed": seed} | ({"batch_size": RUN["batch"]} if RUN["batch"] else {})
tuning |= {"batch_size": 16} if photographs else {}  # of the size of an image
NETWORKS = {
    "LGV": lambda: al.training.collect(plain, train, held_back, per_epoch=max(1, RUN["networks"] // epochs), **tuning),
    "Bayesian": lambda: al.training.posterior(plain, train, held_back, **tuning).samples(RUN["networks"], seed),
}
for name in filter(chosen, NETWORKS):
    MANY[name] = on(partial(in_turn, **T), al.ensemble(NETWORKS[name]()))
others = replace(book, models={name: model for name, model in book.models.items() if name != second})
tables["several networks"] = others.measure("A4.5", wanted(MANY), {source: f})

# %% [markdown]
# ### A better surrogate
#
# Chapter 4 fine-tunes a DenseNet, and on ImageNet a SqueezeNet. Its surrogates are attacked with PGD, as there, and are
# compared with PGD on the network that they were.


# %%
def smoothed(variant):
    """A surrogate of chapter 4, from the zoo; on ImageNet it is made in the run."""
    if not photographs:
        return al.models.load(f"{dataset}/{smooth}-{variant}")
    name = f"{dataset}/{smooth.rstrip('*')}"
    al.trainees.smoothed(name, RUN, [variant], seed)
    return al.surrogates.load(f"{name}-{variant}", RUN.weights)


pgd = {f"PGD, {'SqueezeNet' if photographs else 'DenseNet'}": partial(A.pgd, **T)}
LRS = pgd | {
    f"PGD on {kind}": on(partial(A.pgd, **T), smoothed(kind.lower().replace("-", "")).to(device))
    for kind in ("LRS-1", "LRS-2", "LRS-F")
    if chosen(f"PGD on {kind}")
}
unsmooth = h if smooth == second else al.accelerate(models[smooth], dtype=dtype)
tables["a better surrogate"] = book.measure("A4.6", LRS, {smooth: unsmooth})

# %% [markdown]
# ### All of them
#
# Success (%) on each kind of target, and in brackets the points above MI-FGSM from the same surrogate (above PGD for the last
# table) with their 95 % interval, ▲ or ▼ where it leaves out 0.

# %%
for branch, rows in tables.items():
    display(
        Markdown(f"**{branch.capitalize()}** ({dataset}, {scale} scale)"), book.gains(rows, next(iter(rows.attack)))
    )


# %%
def leaderboard(tables, budget):
    """Success against passes of all attacks, a panel for each kind of target."""
    panels, bands = {}, {}
    for rows in tables.values():
        first = rows.attack.iloc[0]
        for row in al.claims.gains(rows, first).query("eps_255 == @budget").itertuples():
            panels.setdefault(row.kind, {}).setdefault(row.attack, (row.passes, row.value))
            interval = al.intervals.wilson(round(row.value / 100 * row.n), row.n)
            bands.setdefault(row.kind, {}).setdefault(row.attack, interval)
    return al.plotting.front(panels, bands, "passes per image", "black-box success (%)")


fig = leaderboard(tables, eps_255[0])
al.plotting.save(fig, f"fig_A4_2_leaderboard_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A4.2. Success against cost at the first budget; filled and named: the front, which no cheaper attack reaches. What
# was paid once, for fine-tuning a surrogate or collecting networks, is not in it. RAP takes more steps than the others.*
#
# Seconds beside passes: what an attack costs besides them, such as other networks, or drawing and resizing.

# %%
rows = pd.concat([part.drop_duplicates("attack") for part in tables.values()]).drop_duplicates("attack")
cost = rows.assign(milliseconds=1000 * rows.seconds / len(images)).set_index("attack")[["passes", "milliseconds"]]
cost.rename(columns={"passes": "passes per image", "milliseconds": "ms per image"}).round(1).sort_values(
    "passes per image"
)

# %% [markdown]
# ### On photographs
#
# The committed runs: first ImageNet-compatible photographs, then CIFAR-10.


# %%
def committed(dataset):
    """The committed rows of a data set by branch, each shown beside its own first row."""
    found = {}
    for k, branch in enumerate(tables, 1):
        display(Markdown(f"**{branch.capitalize()}**"))
        rows = al.results.committed(f"A4.{k}", "laptop", dataset)
        first = None if rows is None else rows.attack.iloc[0]
        found[branch] = book.committed(f"A4.{k}", dataset, baseline=first)
    return {branch: rows for branch, rows in found.items() if rows is not None}


on_imagenet = committed("imagenet")

# %%
on_cifar = committed("cifar10")

# %%
fig = leaderboard(on_cifar, 4.0)
al.plotting.save(fig, "fig_A4_3_leaderboard_committed", RUN)
fig

# %% [markdown]
# *Figure A4.3. The committed CIFAR-10 run at 4/255, as Figure A4.2.*

# %% [markdown]
# ## Asking the target
#
# These need no surrogate. They ask the target, many times: scores in the case of NES and NAttack, answers alone in the
# case of Boundary and Sign Flip. The target is the VGG (SqueezeNet 1.0 on ImageNet), and some images that it gets right. Boundary has no budget: it shrinks the
# change as far as its questions go; here it counts where that is within the ball.

# %%
judge = models[asked]
few = images[al.evaluation.predictions(judge, images) == images.y][: RUN["n_asked"]]
eps, limit = eps_255[0] / 255, RUN["queries"]
nes = al.attack(few.x, few.y, al.queries.nes(judge), eps=eps, steps=max(1, limit // 50), momentum=al.Elastic(1.0),
                seed=seed, index=few.index)  # fmt: skip
options = {"seed": seed, "index": few.index}
found = {
    "NAttack": al.queries.nattack(judge, few.x, few.y, eps=eps, population=100, steps=max(1, limit // 100), **options),
    "Sign Flip": al.decisions.sign_flip(judge, few.x, few.y, eps=eps, steps=limit // 2, **options),
    "Boundary": al.decisions.boundary(judge, few.x, few.y, steps=limit // 2, **options),
}

# %%
fooled = {"NES": (judge(nes).argmax(1) != few.y, torch.full_like(few.y, 50 * max(1, limit // 50)), nes)}
fooled |= {name: (judge(a.images).argmax(1) != few.y, a.queries, a.images) for name, a in found.items()}
rows = {
    name: {
        f"within {eps_255[0]:g}/255 (%)": 100
        * (hit & ((adv - few.x).abs().amax((1, 2, 3)) <= eps + 1e-6)).float().mean(),
        "queries, median": queries.float().median(),
        "L2 distance, median": al.norms.l2_norm(adv - few.x).median(),
    }
    for name, (hit, queries, adv) in fooled.items()
}
display(Markdown(f"*{dataset}, {scale} scale, target {asked}, n = {len(few)}, up to about {limit} queries*"))
pd.DataFrame({name: {k: v.item() for k, v in row.items()} for name, row in rows.items()}).T.round(1)

# %% [markdown]
# Ten images and a thousand questions show how the attacks work, not how good they are; published numbers take ten to a
# hundred times as many.

# %% [markdown]
# ## The optimizers
#
# Chapter 5's CR-SAM has relatives, most of which want SAM's flat minimum for less than SAM's two passes a step. Each is an
# optimizer around SGD (`al.sam`, `al.sam_family`) but SAF, which is a loss:
#
# - **SAM** (Foret et al. 2021): the gradient at $w + \rho\, g / \|g\|$. **ASAM** (Kwon et al. 2021): the step scaled by the
#   weights, $\rho = 0.5$.
# - **CR-SAM** (thesis chapter 5): three gradients, at $w$ and at $w \pm \rho\, g / \|g\|$.
# - **GSAM** (Zhuang et al. 2022): SAM's gradient less a fifth of the part of $g$ at right angles to it, which lowers the
#   surrogate gap.
# - **LookSAM** (Liu et al. 2022): SAM every fifth step; in between its sideways part is reused.
# - **ESAM** (Du et al. 2022): 60 % of the weights are perturbed, and the second pass sees the half of the batch whose loss
#   rose most.
# - **SSAM** (Mi et al. 2022): half of the weights, those of the largest Fisher information, are perturbed.
# - **AE-SAM** (Jiang et al. 2023): SAM where the gradient is long for its recent history, SGD elsewhere.
# - **SAF** (Du et al. 2022): no second pass; the outputs are held near those of some epochs ago.
#
# Trained here from the same weights with the recipe of the zoo, one seed each, at laptop scale for two epochs. That shows
# what each *costs*; which is better needs whole trainings and several seeds (chapter 5 has three for its own). Networks for
# 32 pixels are trained, with `dataset="imagenet"` those of `shapes`.

# %%
VARIANTS = ("SAM", "ASAM", "CR-SAM", "GSAM", "LookSAM", "ESAM", "SSAM", "AE-SAM", "SAF")
OPTIMIZERS = {"SGD": "resnet", **{name: f"resnet-{name.lower().replace('-', '')}" for name in VARIANTS}}
small = "shapes" if photographs else dataset
lesson, check = al.datasets.load(small, "train", RUN["n_tuning"] or None), al.datasets.load(small, "val", n_val)
start = partial(al.models.create, "resnet", "small", small)
training = al.seeds.Trainings(lambda seed: start(seed=seed).to(device), lesson, check, RUN.checkpoints)
judged = al.datasets.load(small, "test", RUN["n_judged"]).to(device)
fields = {"epochs": RUN["trial"]} if RUN["trial"] else {}
few = judged[: RUN["n_sharp"]]


def sharp(net):
    """Accuracy on test images; on a few of them trace, C(w) and the rise of the loss in the box of eps-sharpness."""
    loss, weights = al.curvature.mean_loss(net.eval(), few), al.curvature.weights(net)
    trace = al.curvature.hutchinson_trace(loss, weights, probes=8, deflate=0).value
    slope = al.curvature.norm(al.curvature.gradient(loss, weights)).item()
    return {
        "accuracy (%)": 100 * al.training.accuracy(net, judged),
        "Hessian trace": trace,
        "C(w)": trace / slope,
        "eps-sharpness (%)": 100 * al.sharpness.epsilon_sharpness(loss, weights, steps=5),
    }


# %%
rows = {}
for name, net in OPTIMIZERS.items():
    recipe = replace(al.recipes.recipe_for(f"{small}/{net}"), seed=seed, **fields)
    optimized, history = training(name, recipe)
    rows[name] = {"seconds": sum(row["seconds"] for row in history), **sharp(optimized)}
shown = pd.DataFrame(rows).T
seconds = shown.pop("seconds")
shown.insert(0, "time, SGD = 1", seconds / seconds["SGD"])
display(
    Markdown(f"*{small}, {scale} scale, accuracy on {len(judged)} test images, the last three columns on {len(few)}*")
)
shown.round(2)

# %% [markdown]
# ## Which one, then?
#
# A transfer attack is a composition: a momentum, copies of the input, points around the iterate, a penalty. Here are some
# for 1, 5, 10 and 50 passes a step (10, 50, 100 and 500 in ten steps; only on `cifar10` more than 100). They are compared on *validation* images and on
# *other targets* than those of the report: the best at each cost is what `al.attacks.recommended` says, and its expected
# success is that on the test images and the remaining targets.

# %%
print(inspect.getsource(al.attacks.compositions))

# %%
judges = {name: models[name] for name in chooses if name in models}
rest = {name: model for name, model in book.models.items() if name not in judges}
costs = (10, 50) if scale == "smoke" else al.advice.PASSES if dataset == "cifar10" else (10, 50, 100)
candidates = {name: partial(attack, **T) for cost in costs for name, attack in A.compositions(cost).items()}
chosen_on = replace(
    book, models={source: models[source]} | judges, images=val, config={**config, "split": "validation"}
)
validation = chosen_on.measure("A4.7", candidates, {source: f}, stem="table_A4_7_validation")
reported = replace(book, models=rest).measure("A4.7", candidates, {source: f})


# %%
def best(cost, budget):
    """The composition of that cost with the highest mean success on validation images and networks."""
    part = validation[~validation.white_box & (validation.metric == "asr") & (validation.eps_255 == budget)]
    return part[part.attack.isin(A.compositions(cost))].groupby("attack").value.mean().idxmax()


found = {(cost, f"{eps:g}/255"): best(cost, eps) for cost in costs for eps in eps_255}
pd.Series(found, name="best on validation images").rename_axis(["passes", "budget"]).to_frame()

# %%
replace(book, models=rest).gains(reported, next(iter(candidates)))

# %% [markdown]
# *All candidates on test images and the remaining targets, beside plain MI-FGSM.*

# %%
advice = {passes: al.attacks.recommended(passes) for passes in al.advice.PASSES}
rows = {passes: {"composition": a.name, "its passes": a.passes, **a.success} for passes, a in advice.items()}
one = advice[10]
display(Markdown(f"*{one.dataset}, {one.scale} scale, {one.eps_255:g}/255, n = {one.n}*"))
pd.DataFrame(rows).T.rename_axis("at most so many passes")

# %% [markdown]
# *What `al.attacks.recommended` says, from the committed CIFAR-10 run: success (%) per kind of target. On other networks and
# images expect the order, not the numbers.*

# %% [markdown]
# ## How to read the result
#
# A page of `shapes` is an illustration: a few dozen images tell a collapse from a success, and little else. The committed CIFAR-10 rows are the
# evidence (laptop scale, small networks, only images that every network gets right). Three findings, at 4/255 and, where nothing
# else is said, against undefended targets; at 8/255 the order is nearly the same, with less room at the top.
#
# 1. *The cheapest things are among the best.* PGD's longer steps, and a look-ahead that stays inside the ball, cost nothing more than MI-FGSM and
#    gain as much as twenty points around the iterate do. A line of eleven along the last gradient (EMI) gains a little
#    more. Fifty passes a step do no better than ten, and more steps bring hardly anything; `al.attacks.recommended` does
#    not spend what brings nothing.
# 2. *Another network is worth more than another attack.* The mean of two networks' logits gains more than any trick on one, and SVRE
#    more than that. Against secured networks a smoother surrogate is the strongest thing there is: PGD on LRS-2 gains there and loses nothing
#    elsewhere, while LRS-1 and LRS-F gain and lose.
# 3. *What changes the image loses on 32 pixels*, and the more it changes it the more: these transforms were made for 299.
#    Behind a defence those that resize (DIM, RDIM) gain. Hardly anything fools the adversarially trained networks at this budget,
#    whatever the attack. That is what they are for.
#
# Not every method is at its best here. Constants are those of the papers, for ImageNet. RAP has a tenth of its steps; LGV and the
# Bayesian substitute fine-tune for one epoch. The form of the attack on attention (AoA) was chosen among six on sixty test
# images of CIFAR-10, because the first ones failed. Of the optimizers, SAF has not begun after two epochs: it is SGD here. LookSAM does not learn on
# the page that you read: it reuses a direction at 0.7 times the gradient's length, which its paper chose for vision
# transformers; with a fifth of that length, or none, it learns.
#
# ## Summary
#
# - Every attack is a step, a gradient, an input, a network, or several of each. In `advlib` these are values that compose.
# - What an attack costs belongs beside what it does: the front of Figure A4.2 is short.
# - `al.attacks.recommended(passes).attack(f, x, y, eps)` is the line for a reader who only wants a strong transfer attack.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* VMI-FGSM has a radius. Draw its success against `radius` from 0 to 3 at the cost of ten gradients a step.
#    What is it at 0?
# 2. *Derive.* Show that for a quadratic loss the mean gradient over points drawn evenly around $x$ is the gradient at $x$,
#    whatever the radius. What then do VMI-FGSM and PGN do on a quadratic?
# 3. *Build.* Write a step rule that takes the gradient at the mean of all iterates so far, and give it to `al.attack`. Where
#    does it stand on the front?
#
# ## References
#
# - T. Wu, *Adversarial Transferability and Generalization in Robust Deep Learning*, PhD thesis, Missouri University
#   of Science and Technology, 2024, sections 1.2 and 5.2, whose reference numbers the docstrings give.
# - X. Wang, K. He, *Enhancing the transferability of adversarial attacks through variance tuning*, CVPR 2021.
# - X. Wang et al., *Boosting adversarial transferability through enhanced momentum*, BMVC 2021.
# - Y. Xiong et al., *Stochastic variance reduced ensemble adversarial attack for boosting the adversarial transferability*,
#   CVPR 2022.
# - Z. Ge et al., *Boosting adversarial transferability by achieving flat local maxima*, NeurIPS 2023.
# - L. Wu, Z. Zhu, *Towards understanding and improving the transferability of adversarial examples in deep neural networks*,
#   ACML 2020.
# - J. Zou et al., *Improving the transferability of adversarial examples with resized-diverse-inputs, diversity-ensemble and
#   region fitting*, ECCV 2020.
# - N. Inkawhich et al., *Feature space perturbations yield more transferable adversarial examples*, CVPR 2019.
# - W. Wu et al., *Boosting the transferability of adversarial samples via attention*, CVPR 2020.
# - S. Chen et al., *Universal adversarial attack on attention and the resulting dataset DAmageNet*, IEEE TPAMI 2020.
# - Y. Li et al., *Learning transferable adversarial examples via ghost networks*, AAAI 2020.
# - M. Gubri et al., *LGV: boosting adversarial example transferability from large geometric vicinity*, ECCV 2022.
# - Q. Li et al., *Making substitute models more Bayesian can enhance transferability of adversarial examples*, ICLR 2023.
# - A. Ilyas et al., *Black-box adversarial attacks with limited queries and information*, ICML 2018.
# - Y. Li et al., *NATTACK: learning the distributions of adversarial examples for an improved black-box attack on deep neural
#   networks*, ICML 2019.
# - W. Brendel, J. Rauber, M. Bethge, *Decision-based adversarial attacks*, ICLR 2018.
# - N. Papernot et al., *The limitations of deep learning in adversarial settings*, EuroS&P 2016.
# - J. Du et al., *Efficient sharpness-aware minimization for improved training of neural networks* (ESAM), ICLR 2022.
# - P. Mi et al., *Make sharpness-aware minimization stronger: a sparsified perturbation approach* (SSAM), NeurIPS 2022.
# - J. Du et al., *Sharpness-aware training for free* (SAF), NeurIPS 2022.
# - W. Jiang et al., *An adaptive policy to employ sharpness-aware minimization* (AE-SAM), ICLR 2023.
# - J. Zhuang et al., *Surrogate gap minimization improves sharpness-aware training* (GSAM), ICLR 2022.
# - W. Chen et al., *Boosting decision-based black-box adversarial attacks with random sign flip*, ECCV 2020.
