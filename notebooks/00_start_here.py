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
# # 0. Start here
#
# How can a picture be changed so little that nobody notices, and so that a neural network gives it a wrong name? And why
# does the same picture often fool other networks, too, for which the change was not made?
#
# ![Three rows of six CIFAR-10 images. Top: clean, both networks are right. Middle: the change, ten times enlarged, looks like coloured noise with a grain. Bottom: the adversarial images look like the clean ones, and both networks are wrong.](../figures/00/fig_0_1_gallery_cifar10.svg)
#
# *Six images of CIFAR-10. The change was made with the gradients of a small ResNet. Below each image stand the answers of
# that ResNet, and of a VGG that the attack never saw. A pixel changes by at most eight of its 255 levels.*
#
# - **What is asked.** How often does an image that was made to fool one network fool another one?
# - **What the thesis says.** Often, and that is a danger: an attacker needs to know nothing about the network that he
#   attacks. Its chapters look for images that *transfer* better.
# - **What we find.** On CIFAR-10, at the budget of the picture, more than nine of ten such images fool each of four other
#   small networks. We counted 80 images, so that the true share may be some points lower; a smaller budget fools fewer.
#
# This chapter attacks one network, looks at the result, measures how far it carries over to four others, and shows how
# this book is used. It takes five minutes to read and less than one to run.
#
# The book is a runnable companion to the dissertation of Tao Wu, *Adversarial Transferability and
# Generalization in Robust Deep Learning* (Missouri University of Science and Technology, 2024), called "the
# thesis" from here on. You need to know PyTorch. You need no GPU and no download: by default everything runs
# on `shapes`, a small set of pictures that is made on the fly. This page was executed on it.

# %% [markdown]
# ## The knobs
#
# Every chapter begins with a cell like the next one. What stands there can be changed here, or from outside
# (see [below](#Turning-a-knob)).

# %% tags=["parameters"]
scale: str = "laptop"  # how many images; one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10, cifar100 or imagenet
eps_255: float = 8.0  # budget: the largest change of a pixel, in 1/255; from 0 to 255
steps: int = 10  # gradient steps of the attack; at least 1
seed: int = 0  # where all randomness comes from; at least 0

# %%
import pandas as pd
import torch

import advlib as al

# %% [markdown]
# A *scale* is a set of numbers and nothing else: the code below is the same for a test of a few seconds and
# for a run on a large machine. `RUN` holds the numbers of the scale that was chosen, and says how far what it
# measures can be compared with the thesis.

# %%
SETTINGS = {
    "smoke": {"n": 8, "shown": 4},
    "laptop": {"n": 100, "shown": 6},
    "paper": {"n": 1000, "shown": 6},
}  # fmt: skip
RUN = al.chapters.begin("00", globals(), SETTINGS)
device, eps = RUN.device, eps_255 / 255
print(RUN)

# %% [markdown]
# ## Load
#
# Images are a float tensor of shape `(N, 3, H, W)`, with values from zero to one. A model is anything that maps such images to
# logits; the subtraction of a mean and the division by a standard deviation happen *inside* the model. Most
# mistakes with attacks come from not keeping to this.
#
# The five networks below belong to five families (appendix A1 draws them), and each was trained by itself on the same
# training set. For `imagenet` the images are those of the NIPS 2017 competition, and nobody here trained the networks.

# %%
source = "imagenet_compatible" if dataset == "imagenet" else dataset
data = al.datasets.load(source, "test", RUN["n"]).to(device)
zoo = list(al.models.zoo(dataset).items())[:5]
models = {name: model.to(device) for name, model in zoo}
x, y = data.x, data.y

# %%
hits = {name: al.evaluation.predictions(f, data) == y for name, f in models.items()}
accuracy = {name: right.float().mean().item() for name, right in hits.items()}
said = f"{scale} scale, {dataset}: accuracy on {len(data)} test images"
print(f"{said} that no network was trained on")
print(", ".join(f"{name} {100 * a:.0f} %" for name, a in accuracy.items()))

# %% [markdown]
# ## Attack
#
# A network is trained by moving its *weights* so that the loss falls. An attack moves the *pixels* so that the loss rises.
# The gradient of the loss has one number for each pixel, and its sign says to which side that pixel has to move.
#
# By hand, on an image of two pixels: the loss falls with the first and rises with the second. A step of a twentieth
# makes the first darker and the second brighter.

# %% tags=["nbval-check-output"]
pixels = torch.tensor([0.6, 0.4])
gradient = torch.tensor([-1.2, 1.6])
moved = pixels + 0.05 * gradient.sign()
assert torch.allclose(moved, torch.tensor([0.55, 0.45]))
for name, image in {"before": pixels, "after": moved}.items():
    print(name, [round(v, 2) for v in image.tolist()])

# %% [markdown]
# The attack below takes ten such steps, and asks for a new gradient before each. To keep a steady direction it adds up the
# gradients of all steps so far. That is *momentum*, and the attack is called MI-FGSM (chapter 1, eq. 1.3). No pixel may
# end further than `eps` from where it began: that is the *budget*. The network whose gradients the attack uses is the
# *surrogate*.

# %%
surrogate, target = list(models)[:2]
f, h = models[surrogate], models[target]
adv = al.attacks.mi_fgsm(f, x, y, eps=eps, steps=steps, seed=seed, index=data.index)

# %% [markdown]
# Two things must hold for every attack in this book. The result is an image, and it lies in the ball $\|x^{adv} - x\|_\infty \le \epsilon$.

# %% tags=["nbval-check-output"]
assert adv.shape == x.shape and adv.min() >= 0 and adv.max() <= 1
assert (adv - x).abs().max() <= eps + 1e-6
print("same shape, values in [0, 1], no pixel further than eps from the clean image")

# %% [markdown]
# ## Look
#
# Each column is one image that both networks named correctly. The middle row is the change, ten times
# enlarged around grey: without that you would see nothing. Below each image stand the answers of the
# surrogate, which was attacked, and of a second network, the *target*, which the attack knew nothing about.

# %%
right = (f(x).argmax(1) == y) & (h(x).argmax(1) == y)
show = right.nonzero()[: RUN["shown"], 0]


def answers(images):
    """One note for each image: what the two networks see."""
    pairs = zip(f(images).argmax(1).tolist(), h(images).argmax(1).tolist(), strict=True)
    named = [(data.classes[a], data.classes[b]) for a, b in pairs]
    return [f"{surrogate}: {a}\n{target}: {b}" for a, b in named]


# %%
change = 0.5 + 10 * (adv - x)
rows = {"clean": x[show], "change x 10": change[show], "adversarial": adv[show]}
notes = {"clean": answers(x[show]), "adversarial": answers(adv[show])}
fig = al.plotting.gallery(rows, notes=notes, side=1.25)
al.plotting.save(fig, f"fig_0_1_gallery_{dataset}", RUN)
fig

# %% [markdown]
# The change is not noise: it follows edges and has a grain, because it is made of the signs of a gradient.
# Noise of the same size does far less; chapter 1 measures it.
#
# Where the target's answer changed as well, the adversarial image has *transferred*. That is what this book is about. It
# is how one attacks a network that one can neither look into nor ask.

# %% [markdown]
# ## Who fools whom
#
# The same attack once on each of the five networks, and each result shown to all five. Rows are written to a
# table as they are finished, so that a run that was stopped goes on where it was.

# %%
book = al.experiment.Experiment(RUN, models, data, [eps_255], steps, seed)
rates = book.measure("0.1", {"MI-FGSM": al.attacks.mi_fgsm}, models)

# %%
n_common = rates[rates.metric == "asr"].n.iloc[0]
title = f"MI-FGSM, {eps_255:g}/255, {dataset}, {n_common} images"
fig = al.plotting.heatmap(al.evaluation.matrix(rates), title=title)
al.plotting.save(fig, f"fig_0_2_transfer_{dataset}", RUN)
fig

# %% [markdown]
# **Rows** are surrogates: where the gradients came from. **Columns** are targets: who looked at the result.
# The number is the *attack success rate* (ASR), the share of images that the target now names wrongly.
#
# **The diagonal** (framed) is the *white-box* case: surrogate and target are the same network. Off the
# diagonal is the *black-box* case. White-box attacks nearly always succeed. The art is to succeed off the diagonal.
#
# The matrix is not symmetric. Some networks are good surrogates and some are easy targets, and the two are
# different properties: compare a row with the column of the same name.

# %% tags=["nbval-check-output"]
m = al.evaluation.matrix(rates).to_numpy()
largest = (m.diagonal() >= m.max(1)).sum()
print(f"{m.shape[0]} surrogates, {m.shape[1]} targets")
print(f"the white-box number is the largest of its row in {largest} of {len(m)} rows")

# %% [markdown]
# ![Five by five table of success rates on CIFAR-10: 100 on the diagonal, 91 to 99 elsewhere.](../figures/00/fig_0_2_transfer_cifar10.svg)
#
# *The same on CIFAR-10, the committed run: at this budget nearly every image transfers. To tell attacks apart one needs a
# smaller budget, or stronger targets; later chapters take both.*

# %% [markdown]
# ### Which images count
#
# An image that the target got wrong from the start needs no attack. There are two ways to deal with it. Both are in use,
# and they give different numbers, so that every table of this book has both:
#
# - `asr`: over the images that *all* networks of the comparison name correctly. This is the protocol of the
#   thesis, and the number that figures show.
# - `asr_all`: over all images. A target's own mistakes count as successes, so that this number is usually the
#   larger.
#
# ### How sure are we
#
# Another hundred images would give another rate. The *95 % interval* says within which limits it would usually be; ours is
# that of Wilson (1927), and stands in brackets.

# %%
own = rates[rates.source == surrogate]
cells = []
for r in own.itertuples():
    cells.append(f"{r.value:.0f} % of {r.n} [{r.ci_low:.0f}, {r.ci_high:.0f}]")
both = own.assign(cell=cells).pivot(index="target", columns="metric", values="cell")
both = both.loc[list(models)]
both.columns = ["right for all networks (asr)", "all images (asr_all)"]
both.rename_axis(f"source {surrogate}, target:")

# %% [markdown]
# *Success rate of images made on the first network, on each target. The first row is the white-box case.*
#
# The interval shrinks with the square root of the number of images: ten times as many give a third of the width. Two
# attacks on the same images are compared image by image. Their difference has an interval of its own, and we call it
# *clear* if that interval leaves out zero.

# %% tags=["nbval-check-output"]
for k, n in ((60, 100), (600, 1000)):
    low, high = al.intervals.wilson(k, n)
    print(f"{k} of {n}: 60 %, interval {low:.0f} to {high:.0f} %")

# %% [markdown]
# ## Turning a knob
#
# *In the notebook*: change the cell of parameters and run all cells.
#
# *From the command line*, in the folder of the repository. Names and types are checked before anything runs,
# and the executed notebook, its tables and its figures go to a folder in `_build` that the parameters name:
#
# ```
# python -m advlib list                                    every chapter, its parameters and their help
# python -m advlib run 00 -p eps_255=4
# python -m advlib run 00 --scale paper --dataset cifar10
# python -m advlib doctor                                  which data, weights and versions are here, what is missing
# ```
#
# *With plain papermill*, which does the same without the checks:
#
# ```
# papermill notebooks/00_start_here.ipynb out.ipynb -p eps_255 4
# ```
#
# *From your own code*, without any notebook:
#
# ```python
# import advlib as al
# f, data = al.models.load("shapes/resnet"), al.datasets.load("shapes", n=100)
# adv = al.attacks.mi_fgsm(f, data.x, data.y, eps=4/255)
# ```

# %% [markdown]
# The last one, here: half the budget and twice the budget, the same images, surrogate and target.

# %%
rows = []
options = {"steps": steps, "seed": seed, "index": data.index}
for budget in (eps_255 / 2, eps_255, 2 * eps_255):
    other = al.attacks.mi_fgsm(f, x, y, eps=budget / 255, **options)
    fooled = h(other).argmax(1)[right] != y[right]
    low, high = al.intervals.wilson(int(fooled.sum()), len(fooled))
    rate = 100 * fooled.float().mean()
    interval = f"{low:.0f} to {high:.0f}"
    rows.append([f"{budget:g}", f"{rate:.0f} %", len(fooled), interval])
heads = ["budget (1/255)", f"{target} fooled", "images", "95 % interval"]
pd.DataFrame(rows, columns=heads).set_index("budget (1/255)")

# %% [markdown]
# *Images made on the surrogate. These count over the images that these two networks name correctly, more than in the
# matrix. A larger budget fools more.*
#
# *With a slider, in JupyterLab*: put this into a new cell. It attacks whenever you press the button.
#
# ```python
# from ipywidgets import interact_manual
#
# @interact_manual(budget=(0.0, 32.0, 1.0))
# def turned(budget):
#     other = al.attacks.mi_fgsm(f, x, y, eps=budget / 255, **options)
#     fooled = h(other).argmax(1)[right] != y[right]
#     print(f"{100 * fooled.float().mean():.0f} % of {len(fooled)} images fool the {target}")
# ```

# %% [markdown]
# ## How the book is laid out
#
# | chapter | question |
# |---|---|
# | 0 Start here | what is an adversarial image, how is this book used |
# | 1 Adversarial examples | how are they made, from FGSM to Carlini & Wagner, and which of them transfer |
# | 2 Elastic momentum, random erasure | does looking ahead, and hiding parts of the image, make them transfer better |
# | 3 Gradient norm penalty | does it help to look for flat maxima of the loss over the image |
# | 4 Lipschitz regularized surrogates | do images of a smoother surrogate transfer better |
# | 5 Curvature regularized SAM | what does flatness over the weights do for accuracy, and what does it cost |
# | 6 Three perspectives, together | do the methods of chapters 2, 3 and 4 add up |
# | A1 Training the zoo | where the small networks come from |
# | A2 Defences | which defences hold, and against whom |
# | A3 Speed | what an attack costs, and how to make it cheaper |
# | A4 The field | all attacks and optimizers that the thesis names, on one page; which one to take |
#
# - **Scales.** `smoke` takes seconds and shows only that the code runs. `laptop`, the default, takes minutes
#   on two CPU cores. `paper` uses as many images as the thesis and wants a GPU. It does not bring the thesis' networks
#   everywhere: each chapter says which ones it takes.
# - **Data sets.** `shapes` is built in. `cifar10`, `cifar100` and `imagenet` are looked for in `$ADVLIB_DATA`
#   and `data/cache`; if they are missing, the error says how to get them.
# - **Results** of a run are in `_build/<scale>/<dataset>/`, with `,name=value` behind it for every parameter
#   that is not the default: executed notebooks, and by chapter `tables` and `figures`. The tables that the README
#   quotes are kept in `data/results`, those of the thesis, as printed, in `data/published`.
# - **Code.** The functions behind the chapters are in `advlib/`, one short file for each topic. Each chapter
#   names the function that is an equation, and tests it on numbers small enough to check by hand.

# %% [markdown]
# ## The rule of honest numbers
#
# A success rate says nothing unless the rest is said too. Every number here comes with its scale, data set, number of
# images, interval, budget, and *passes*: how many forward and backward passes for each image the attack cost. Where our
# numbers do not agree with the thesis, the chapter says so, and shows both.
#
# `shapes` is a teaching set. It lets you see every mechanism at work on any machine; nothing that is measured
# on it is a result of the thesis, or says anything about one.

# %%
print(RUN)

# %% [markdown]
# ## What we found
#
# 1. **The change is too small to see, and it fools.** On its own network the attack succeeds on nearly every image.
# 2. **It carries over.** The same images fool networks for which they were not made: often on `shapes`, nearly always on
#    CIFAR-10 at this budget.
# 3. **Who attacks and who is attacked matters.** The matrix is not symmetric, and one number for an attack hides that.
#
# ## Summary
#
# - An attack climbs the loss of a surrogate inside the ball $\|x^{adv} - x\|_\infty \le \epsilon$.
# - The transfer matrix shows who fools whom.
# - A rate needs the number of images and its interval. There are two ways to count; look which one you have.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* Run this chapter with `steps=1` (then it is FGSM) and with `steps=40`. What happens on
#    the diagonal, and what off it? Is a stronger white-box attack a better black-box attack?
# 2. *Derive.* Let a target name a share $a$ of the clean images correctly, and let an attack with ASR $s$
#    over those leave the images that were wrong from the start wrong. Show that `asr_all` is $1 - a + a s$.
#    For which attack is it smaller than that? (The matrix uses the images that *all* networks get right; what
#    changes?)
# 3. *Build one thing.* Attack two networks at once, `al.ensemble([f, h])`, and add it to the matrix as a
#    sixth surrogate. Which targets gain? Mind the cost: one step is now two passes.
#
# ## References
#
# - T. Wu. *Adversarial Transferability and Generalization in Robust Deep Learning.* Doctoral dissertation,
#   Missouri University of Science and Technology, 2024. Doctoral Dissertations 3353,
#   scholarsmine.mst.edu/doctoral_dissertations/3353.
# - Y. Dong, F. Liao, T. Pang, H. Su, J. Zhu, X. Hu, J. Li. Boosting adversarial attacks with momentum. *IEEE
#   Conference on Computer Vision and Pattern Recognition*, pages 9185-9193, 2018.
# - E. B. Wilson. Probable inference, the law of succession, and statistical inference. *Journal of the
#   American Statistical Association* 22(158), pages 209-212, 1927.
