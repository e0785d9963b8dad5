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
# ![Two panels with a row for each defence. On the left, where the attacker does not know of it: behind Bit-Red, JPEG, FD and R&P nearly as many images are wrong under MI-FGSM as without a defence; HGD halves them, RS and the trained networks leave a third or less. On the right, where the attacker knows: all that were measured come close to everything wrong, HGD among them, but for the network trained by PGD.](../figures/A2/fig_A2_1_recovered_cifar10.svg)
#
# *Small CIFAR-10 networks, 8/255. Each row is one defence; the chapter explains them one by one. A mark says how many
# answers are wrong, with its 95 % interval. Left: 1,500 images, attacked on four other networks. Right: 200 images.*
#
# - **What is asked.** An adversarial image meets a network that is defended. How often does the defence help, what does
#   it cost, and does it still help when the attacker knows of it?
# - **What the thesis finds.** Its attack EM-RE-Composite fools each of nine defences more often than two other
#   composites do.
# - **What we find.** That order holds in all our cases on small CIFAR-10 networks, if at far lower rates. The defences
#   that cost little recover little. And almost every gain is gone once the attacker knows: only the network that was
#   trained with PGD keeps a part of it.
#
# We first train networks on attacks, then put nine defences in front of a network, and measure what they cost and recover
# (Table 2.5 of the thesis). At the end the attacker is told. Chapters 3 and 4 attack six of these
# targets, too.
#
# Where there is a committed run on CIFAR-10, it comes first, because it is the better evidence. The run that you repeat is
# on `shapes`, the built-in teaching set. This page was executed on it.

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
import inspect
from dataclasses import replace
from functools import partial
from textwrap import dedent

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

# %%
RUN = al.chapters.begin("A2", globals(), SETTINGS)
n, n_clean, steps, device = *RUN["n", "n_clean", "steps"], RUN.device
print(RUN)

# %%
ours, independent = dataset != "imagenet", dataset == "imagenet" and scale != "paper"
in_print = not (ours or independent)
eps_255 = eps_255 or [8.0 if ours else 16.0]
eps = eps_255[0] / 255

# %% [markdown]
# ## Two ways to defend
#
# *Train the network otherwise.* Show it attacked images while it learns. Or *put something in front of it*: anything
# that makes the image harmless before the network sees it.

# %%
boxes = {"image": (0, 1), "attack": (1, 1), "something\nin front": (2, 1)}
boxes |= {"network": (3, 1), "answer": (3, 0), "training\non attacks": (3, 2)}
arrows = [*zip(list(boxes)[:4], list(boxes)[1:5], strict=True)]
arrows += [("training\non attacks", "network")]
fig = al.plotting.diagram(boxes, arrows)
al.plotting.save(fig, "fig_A2_2_two_ways", RUN)
fig

# %% [markdown]
# *Where a defence can stand: in front of the network, or in its training.*
#
# The attack of this picture stands in front of both. Does the attacker know what comes behind? In most of this chapter
# not: the image was made on other networks. That is a *transfer attack*, the subject of the thesis.
#
# ## Training on attacks
#
# ### The worst image in the ball
#
# Plain training lowers the loss of the images as they are. *Adversarial training* lowers the loss of the worst image that
# an attacker may show in place of each. Two searches are nested: inside, the attacker climbs; outside, the weights
# $\theta$ go down.
#
# $$\min_\theta \; \mathbb{E}_{(x, y)} \left[ \max_{\|x' - x\|_\infty \le \epsilon} \ell(f_\theta(x'), y) \right]$$
#
# By hand, on an image of two pixels and a network of two weights: it says the second class where $2 z_1 + z_2$ is above
# zero. What can the attacker do within 0.1 of every pixel? Each pixel goes against the sign of its weight, all the way.
# The score falls by 0.1 times the sum of the weights, and by no image in the ball does it fall further.

# %%
weights = torch.tensor([2.0, 1.0])
line = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
line[1].weight.data = torch.stack([-weights / 2, weights / 2])
line[1].bias.data.zero_()
z, label = torch.tensor([[[[0.3, 0.6]]]]), torch.tensor([1])

# %% tags=["nbval-check-output"]
worst = al.attacks.i_fgsm(line, z, label, eps=0.1)
before, after = ((weights * image.flatten()).sum() for image in (z, worst))
assert torch.allclose(before - after, 0.1 * weights.abs().sum())
print(f"score {before:.1f} to {after:.1f} at", [f"{p:.1f}" for p in worst.flatten()])

# %% [markdown]
# A network of more layers has no such formula. PGD (projected gradient descent) takes its place: some steps uphill from a
# random point of the ball, each brought back into it. The code is the equation, the attack inside and the loss outside:

# %%
print(dedent(inspect.getsource(al.objectives.Adversarial.__call__)))

# %% [markdown]
# What does it change? Eight images of two pixels, two classes. The second pixel tells the classes apart without an error,
# but only just: far less than the attacker's 0.1. The first pixel tells them apart by a wide margin, and is wrong
# twice.

# %%
first = [[0.14, 0.42], [0.24, 0.45], [0.33, 0.41], [0.60, 0.44]]
second = [[0.40, 0.57], [0.68, 0.54], [0.77, 0.58], [0.86, 0.55]]
x8, y8 = torch.tensor(first + second)[:, None, None], torch.tensor([0] * 4 + [1] * 4)
reach = 0.1


# %%
def learned(objective, steps=100):
    """A network of two weights that has lowered the objective."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
    optimizer, draw = torch.optim.Adam(net.parameters(), lr=0.5), al.draws.Draw(0, y8)
    for step in range(steps):
        optimizer.zero_grad()
        objective(net, x8, y8, draw.at(step=step)).backward()
        optimizer.step()
    return net.requires_grad_(False)


# %%
nets = {"plain training": learned(al.objectives.Classification())}
worst_case = al.objectives.Adversarial(eps=reach, steps=1, alpha=2 * reach)
nets["adversarial training"] = learned(worst_case)


# %%
def score(net):
    """Images of two pixels, (..., 2), to the second logit less the first."""
    return lambda z: net[1](z).diff(dim=-1)[..., 0]


panels = {title: score(net) for title, net in nets.items()}
classes8 = {"first class": x8[:4, 0, 0], "second class": x8[4:, 0, 0]}
fig = al.plotting.boundaries(classes8, panels, reach)
al.plotting.save(fig, "fig_A2_3_two_pixels", RUN)
fig

# %% [markdown]
# *Each image in the middle of its ball, which on two pixels is a square. Plain training finds a boundary that separates all
# images, and cuts half of the squares. Adversarial training gives up two images, and cuts no square of the others.*

# %%
rows, heads = {}, ("right, clean (of 8)", "right, attacked (of 8)")
for title, net in nets.items():
    attacked = al.attacks.i_fgsm(net, x8, y8, eps=reach)
    named = [(net(images).argmax(1) == y8).sum().item() for images in (x8, attacked)]
    rows[title] = dict(zip(heads, named, strict=True))
two = pd.DataFrame(rows).T
assert (two.loc["plain training"] == [8, 4]).all()
assert (two.loc["adversarial training"] == [6, 6]).all()
two

# %% [markdown]
# So adversarial training pays with clean accuracy. What tells the classes apart by little is of no use to it.
#
# ### Attacks made on other networks
#
# *Ensemble adversarial training* wants less: to hold against images that come from elsewhere. It needs only one step, and
# takes it on another network $f_k$ of a fixed pool, drawn anew for each batch:
#
# $$\min_\theta \; \mathbb{E}_{(x, y), k} \left[ \tfrac{1}{2} \ell(f_\theta(x), y)
# + \tfrac{1}{2} \ell\left(f_\theta\left(x + \epsilon' \operatorname{sign} \nabla_x \ell(f_k(x), y)\right), y\right) \right]$$
#
# Why another network? A network that is shown one-step attacks on itself can learn a trick: it bends its own gradient
# until the step leads nowhere. The gradient of another network it cannot bend. (In the code below it has its own turn, too, as
# one of many.) The radius $\epsilon'$ is drawn for
# each image.

# %%
print(dedent(inspect.getsource(al.objectives.EnsembleAdversarial.__call__)))

# %% [markdown]
# The names that follow say how a network was trained: `-pgd` adversarially; `-ens3`, `-ens4` and `-ens1` on the examples
# of a pool of so many networks, where the one in training has its turn, too. The thesis' Inc-v3ens3, Inc-v3ens4
# and IncRes-v2ens1 are of this kind. `-noise` was trained under noise alone; we need it for a vote further down.
#
# A training that is killed loses at most one epoch; a net that `retrain` names begins anew. At smoke scale a training is
# a trial of one epoch on a few images, and its weights go to the build folder.


# %%
def tell(name, total, row):
    """A line after each epoch."""
    epoch, seconds = row["epoch"], row["seconds"]
    right = f"{row['val_accuracy']:.1%} of the clean validation images"
    print(f"{name}: {epoch}/{total}, {seconds:.0f} s, {right}", flush=True)


trial = RUN.weights if scale == "smoke" else None
options = {"device": device, "report": tell, "seed": seed, "epochs": epochs}
wanted = al.secured.OURS if ours else ()
print(al.trainees.provide(dataset, wanted, retrain, RUN.checkpoints, trial, **options))

# %% tags=["hide-output"]
listed, rows = al.weights.manifest(), {}
for name in (*al.nets.FAMILIES, *al.secured.OURS):
    if e := listed.get(f"{dataset}/{name}"):
        rows[name] = {"parameters (thousands)": round(e["parameters"] / 1000)}
        right = round(100 * e["accuracy"], 1)
        rows[name] |= {"right, clean (%)": right, "images": e["n"]}
        rows[name] |= {"epochs": e["recipe"]["epochs"], "trained on": e["trained_on"]}
        objective = e["recipe"].get("objective", "Classification").split("(")[0]
        rows[name]["minimises"] = objective
display(Markdown(f"*{dataset}, test images; for a purifier, of the VGG behind it*"))
pd.DataFrame(rows).T.fillna("")

# %%
photographs = "imagenet_compatible"
images = al.datasets.load(dataset if ours else photographs, "test", n).to(device)
VGG = al.purification.CLASSIFIER
plain_name = "Inc-v3" if in_print else VGG if ours else "efficientnet_lite1"
plain = "timm/inception_v3.tf_in1k" if in_print else f"{dataset}/{plain_name}"
plain = al.models.load(plain).to(device)
trained = {} if independent else al.secured.trained(dataset, checkpoints)
trained = {name: model.to(device) for name, model in trained.items()}

# %% [markdown]
# On ImageNet below paper scale there are no networks that were trained against attacks: none is to be had without a
# download.
#
# ### What it buys
#
# PGD on the network itself, from a random start. How many answers are still right?


# %%
def right(answer, data, attack=lambda x, y, index: x):
    """How many images of `data` get the right answer, after `attack`."""
    hits = 0
    for batch in data.batches(100):
        adv = attack(x=batch.x, y=batch.y, index=batch.index)
        with torch.no_grad():
            hits += int((answer(adv) == batch.y).sum())
    return hits


# %%
def classes(model):
    """Images to the classes that a network names."""
    return lambda x: model(x).argmax(1)


# %%
pgd, rows = partial(al.attacks.pgd, eps=eps, steps=2 * steps, seed=seed), {}
head = f"right, PGD at {eps_255[0]:g}/255 (%)"
for name, model in {plain_name: plain, **trained}.items():
    answer = classes(model)
    hits = [right(answer, images), right(answer, images, partial(pgd, model))]
    low, high = al.intervals.wilson(hits[1], n)
    rows[name] = {"right, clean (%)": round(100 * hits[0] / n, 1)}
    rows[name][head] = round(100 * hits[1] / n, 1)
    rows[name]["95 % interval"] = f"{low:.0f} to {high:.0f}"
said = f"PGD with {2 * steps} steps, {n} test images"
display(Markdown(f"*{dataset}, {scale} scale, {said}*"))
pd.DataFrame(rows).T

# %% [markdown]
# Without a defence nothing is left. PGD training keeps most of it on `shapes`. The one-step training against other networks is
# not meant for attackers of this kind, and keeps little.
#
# ## Nine defences
#
# They come in three groups: those that round the image, those that look at it several times at random, and those
# that let a network clean it. In `advlib` a defence wraps a model and is one, `al.defenses.JPEG(quality=75)(model)`.
# Here they all are, over our networks; each is explained below.

# %%
guards = partial(al.secured.nine, dataset, seed, checkpoints)
nine = al.secured.stand_ins(seed) if independent else guards()
nine = {name: guard.to(device) for name, guard in nine.items()}
if left_out := [name for name in al.secured.NINE if name not in nine]:
    files = "for want of the authors' files (`advlib/defenses/authors.py`)"
    why = "since they need training" if independent else files
    display(Markdown(f"**Left out, {why}**: {', '.join(left_out)}"))

# %% [markdown]
# For each group one picture: two images, the same two under attack, and the change between them, eight times as strong,
# on grey. Below the first row stands what a defence makes of them. A defence that worked perfectly would leave the third
# picture grey. The attack is MI-FGSM on a ResNet, which none of the defences guards.

# %%
zoo = al.models.thesis_chapter_2() if in_print else al.models.zoo(dataset)
elsewhere = next(iter(zoo.values())).to(device)
attack = partial(al.attacks.mi_fgsm, elsewhere, eps=eps, steps=steps, seed=seed)
adv = torch.cat([attack(b.x, b.y, index=b.index) for b in images.batches(100)])
draw = al.draws.Draw(seed, images.index, stream=al.draws.Stream.DEFENCE)


# %%
def views(name):
    """What a defence makes of the images and of the attacked ones, on one draw."""
    if name not in nine:
        return images.x, adv
    with torch.no_grad():
        return [nine[name].defence.purified(x, draw) for x in (images.x, adv)]


# %%
def group(*names):
    """The picture of a group."""
    rows = {}
    for name in ("no defence", *filter(nine.get, names)):
        clean, changed = (x[:2] for x in views(name))
        change = 0.5 + 8 * (changed - clean)
        rows[name] = [x[k] for k in range(2) for x in (clean, changed, change)]
    fig = al.plotting.gallery(rows, ["image", "attacked", "change, x 8"] * 2, side=0.92)
    file = f"fig_A2_views_{names[0].replace('&', '')}_{dataset}"
    al.plotting.save(fig, file, RUN)
    return fig


# %%
def left(*names):
    """Mean size of the change behind each defence, as a share of the attack's."""
    sizes = {}
    for name in ("no defence", *filter(nine.get, names)):
        clean, changed = views(name)
        sizes[name] = (changed - clean).abs().mean().item()
    shares = 100 * pd.Series(sizes, name="change left (%)") / sizes["no defence"]
    return shares.round().astype(int).to_frame()


# %% [markdown]
# ### Those that round: Bit-Red, JPEG, FD
#
# The change is small. If the image is rounded coarsely, will the change not be rounded away?
#
# **Bit-Red** (bit reduction) keeps four bits of each value. From one grey to the next that is $1/15$, which is twice our
# budget:
#
# $$D(x) = \frac{\operatorname{round}(15 \, x)}{15}$$
#
# By hand on two pixels, in units of 1/255. Let the attacker raise both by eight.

# %% tags=["nbval-check-output"]
bits = partial(al.defenses.BitReduction(bits=4).purified, draw=None)
pixels = torch.tensor([[20.0, 30.0], [28.0, 38.0]])  # clean, attacked
shown = 255 * bits(pixels / 255)
print("clean", shown[0].tolist(), "attacked", shown[1].tolist())
assert shown.round().tolist() == [[17, 34], [34, 34]]

# %% [markdown]
# The change of one pixel is gone, and that of the other has doubled. On average over all greys nothing is gained: rounding
# loses no change, it deals it out anew.

# %%
grey = torch.arange(248.0)
change = 255 * (bits((grey + 8) / 255) - bits(grey / 255))
assert abs(change.mean() - 8) < 0.3 and set(change.round().tolist()) == {0, 17}

# %% [markdown]
# **FD** (feature distillation) rounds something else. It writes each block of eight by eight pixels as a sum of waves,
# the cosine transform $B x B^\top$, rounds how much there is of each wave to multiples of a step $s$, and goes back. The
# step is finer for long waves, which carry most of the picture:
#
# $$D(x) = B^\top \left( s \cdot \operatorname{round} \left( \frac{B x B^\top}{s} \right) \right) B$$

# %%
print(dedent(inspect.getsource(al.defenses.FeatureDistillation.purified)))

# %% [markdown]
# By hand on two pixels there are two waves: their sum and their difference. A change that flickers lifts one pixel and
# lowers the other; a smooth one lifts both. With a step of 25 for both waves:

# %% tags=["nbval-check-output"]
basis = al.defenses.transformations.dct_basis(2).float()
pixels = torch.tensor([120.0, 130.0])
for change in ([0, 0], [8, -8], [8, 8]):
    waves = basis @ (pixels + torch.tensor(change))
    kept = basis.T @ (25 * (waves / 25).round())
    print(change, "waves", waves.round().tolist(), "back", kept.round().tolist())

# %% [markdown]
# The flicker is gone. The smooth change is not: it moved one wave over the edge to the next step, and came out
# larger. The attacks that survive FD are smooth, and we will meet them again.
#
# **JPEG** does the same in the file format of that name, with its own steps, after the colours were split into brightness
# and tint. Ours is the real codec, at quality 75.

# %%
fig = group("Bit-Red", "JPEG", "FD")
fig

# %% [markdown]
# *The group that rounds. In the third and sixth picture the change is coarser than without a defence, but it is there.*

# %%
left("Bit-Red", "JPEG", "FD")

# %% [markdown]
# Rounding does not remove the change. The table is the mean over the attacked images of this page's run.
#
# ### Those that look at random: R&P, NIPS-r3, RS
#
# An attack fits the image, pixel by pixel. Shift it a little, and it may no longer fit.
#
# **R&P** (resizing and padding) draws a size and a place, puts the image there on a larger grey canvas, and flips it half
# of the time. The answer is the mean over some such draws $T_k$, of probabilities $p$:
#
# $$p_D(x) = \frac{1}{K} \sum_{k=1}^{K} p(T_k(x))$$
#
# By hand: an image of two pixels, 0.2 and 0.8, in four draws. Grey is 0.5.

# %% tags=["nbval-check-output"]
placed = al.defenses.RandomResizePad().purified
four = al.draws.Draw(0, torch.arange(4), stream=al.draws.Stream.DEFENCE)
for canvas in placed(torch.tensor([0.2, 0.8]).expand(4, 1, 1, 2), four)[:, 0]:
    print([[round(value, 1) for value in row] for row in canvas.tolist()])

# %% [markdown]
# **NIPS-r3**, third in a competition of that conference, is a team: four networks, each looks at the image under a
# distortion of its own, and their logits are added with fixed weights. In the original two of the four were trained on
# attacks, and so are two of ours.

# %%
source = inspect.getsource(al.defenses.NIPSr3.logits)
print(dedent(source[source.index("return") - 8 :]))

# %% [markdown]
# **RS** (randomized smoothing) adds strong noise, many times, and takes a vote. The class that wins most votes is the
# answer; where the vote is close, RS declines to answer. Noise of this strength drowns the change, and most of the picture.
# The network behind it was therefore trained under the same noise. RS is the only one of the nine that proves something: see
# [A certificate](#A-certificate).
#
# $$D(x) = \arg\max_c \; P\left(f(x + \sigma \xi) = c\right), \qquad \xi \sim N(0, I)$$

# %%
fig = group("R&P", "NIPS-r3", "RS")
fig

# %% [markdown]
# *The group that looks at random: one draw of each, and of the team the first member's view. The change is moved with the
# image. Behind RS it is hidden in the noise, which is the same in both pictures and therefore not in their difference.*
#
# ### Those that clean: HGD, ComDefend, NRP
#
# The last three are networks themselves. They take an image and return a cleaner one. What they differ in is what they
# were trained for.
#
# **HGD** (denoiser guided by high-level representation) adds to the image what its network $d$ proposes. It is not asked to
# give the pixels back. It is asked that the classifier $f$ behind it gives the same logits as for the clean image $x$:
#
# $$D(x') = x' + d(x'), \qquad \min_d \; \mathbb{E} \left\| f(D(x')) - f(x) \right\|_1$$
#
# Why not the pixels? By hand, with our network of two weights, (2, 1): an error of (0.1, -0.2) is large in pixels, and the
# network does not notice.

# %% tags=["nbval-check-output"]
error = torch.tensor([0.1, -0.2])
in_score = (weights * error).sum().abs()
print(f"error in pixels {error.abs().sum():.1f}, in the score {in_score:.1f}")
assert in_score < 1e-6

# %%
source = inspect.getsource(al.objectives.GuidedDenoising.__call__)
print(dedent(source[source.index("adv =") - 8 :]))

# %% [markdown]
# **ComDefend** compresses. An encoder $e$ has to say each pixel in twelve bits in place of 24, and a decoder $r$ paints the
# image from them. In training noise is laid on the code, so that only what is said loudly survives; attacks are
# not needed:
#
# $$\min_{e, r} \; \mathbb{E} \left[ \| r(c) - x \|_2^2 + 10^{-4} \, \| c \|_2^2 \right], \qquad
# c = \operatorname{sigmoid}(e(x) - 20 \, \xi), \quad \xi \sim N(0, I)$$
#
# By hand: how often does the noise turn a bit over that is said as 10, and one that is said as 100?

# %% tags=["nbval-check-output"]
said = torch.tensor([10.0, 100.0])
flips = torch.special.ndtr(-said / 20)  # the share of the noise that is beyond it
print([f"{share:.5f}" for share in flips.tolist()])
assert flips[0] > 0.3 and flips[1] < 1e-6

# %% [markdown]
# A small change of the image seldom changes a loud bit. That is the hope.
#
# **NRP** (neural representation purifier) needs no label. It makes its own attacks, which move the features $F$ of a
# network as far as they can, and learns to bring the features back:
#
# $$x' = \arg\max_{\|x' - x\|_\infty \le \epsilon} \left\| F(x') - F(x) \right\|, \qquad
# \min_D \; \mathbb{E} \left\| F(D(x')) - F(x) \right\|_1 + \ldots$$
#
# The dots are a small weight on the pixels, and a critic that wants the result to look like an image.

# %%
print(dedent(inspect.getsource(al.objectives.SelfSupervisedPurification.__call__)))

# %%
fig = group("HGD", "ComDefend", "NRP")
fig

# %% [markdown]
# *The group that cleans. HGD and NRP change what the eye hardly sees. ComDefend paints the image anew.*

# %%
left("HGD", "ComDefend", "NRP")

# %% [markdown]
# None of them gives the pixels back. HGD need not: what is left is what its classifier does not notice.
#
# ### What is ours about them
#
# Five of the nine are the published transformation as it is, and of a sixth, RS, we trained the network. The
# three that clean are small networks of the published kind, trained by us. The last column says how an attacker gets a
# gradient through them; [a later section](#Attackers-who-know) explains the words.

# %%
KIND = {"faithful": "as published", "retrained": "published kind, trained by us"}
rows = {name: [KIND[g.defence.kind], g.defence.gradients] for name, g in nine.items()}
pd.DataFrame(rows, ["the defence", "gradient"]).T

# %% [markdown]
# On 32-pixel images HGD, R&P, Bit-Red, JPEG, FD, ComDefend and NRP guard one and the same VGG. On ImageNet below paper
# scale there are the six that need no training, over EfficientNet-Lites.
#
# ## What they cost
#
# Accuracy on clean images. RS may decline to answer, which is neither right nor wrong.

# %%
clean = al.datasets.load(dataset if ours else photographs, "test", n_clean).to(device)
targets = {f"no defence ({plain_name})": plain, **nine, **trained}
config = {"bfloat16": bfloat16}
counted = "both right" if independent else "all right"
setting = steps, seed, config, counted
book = al.experiment.Experiment(RUN, targets, images, eps_255, *setting)


# %%
def costs(rows):
    """Rows of clean accuracy, a line for each network."""
    kinds = ("accuracy", al.evaluation.ABSTAINED)
    hits, silent = (rows[rows.metric == m].set_index("target") for m in kinds)
    ends = zip(hits.ci_low, hits.ci_high, strict=True)
    table = pd.DataFrame({"right, clean (%)": hits.value.round(1)})
    table["95 % interval"] = [f"{low:.1f} to {high:.1f}" for low, high in ends]
    table["no answer (%)"] = silent.value.reindex(hits.index).fillna(0).round(1)
    table["ms an image"] = (1000 * hits.seconds / hits.n).round(2)
    return table


# %%
cost_cifar = al.results.committed("A2.1", "laptop", "cifar10")
said = f"cifar10, laptop scale, {cost_cifar.n.min():,} test images"
display(Markdown(f"**Committed run**: {said}"))
display(costs(cost_cifar))

# %% [markdown]
# HGD costs nothing. Among those that always answer, PGD training costs most. RS gives up a third of the images, about half
# of them by not answering, and its votes take the most time. The same on the run that you repeat:

# %% tags=["hide-output"]
cost = costs(book.accuracy("A2.1", clean))
display(Markdown(f"**This run**: {dataset}, {scale} scale, {len(clean)} test images"))
cost

# %% [markdown]
# ## Table 2.5: what they recover
#
# These attackers know of no defence. As in the thesis, they attack one network, and an ensemble of four at once. Their
# three attacks are *composites*: DIM, TIM and SIM together, which chapter 2 explains, with the momentum of MI-FGSM, with
# that of NI-FGSM, and with the thesis' elastic momentum and random erasure (EM-RE-Composite). Plain MI-FGSM stands
# beside them.
#
# Beside the nine stand a network without a defence, and the adversarially trained ones, which are no part of the
# thesis' table. One caution: HGD and the ensemble adversarially trained networks saw examples of some of these very
# source networks in training, as their originals did.

# %%
names = ["resnet", "densenet", "resnext", "wrn"]
if in_print:
    names = ["Inc-v3", "Inc-v4", "IncRes-v2", "Res-101"]
if independent:
    names = [*zoo][:3]
fast = partial(al.accelerate, dtype=torch.bfloat16 if bfloat16 else None)
surrogates = {name: fast(zoo[name].to(device)) for name in names}

# %%
one, every = next(iter(surrogates)), list(surrogates.values())
together = al.results.ensemble_name(surrogates)
sources = {one: surrogates[one], together: al.ensemble(every)}

# %%
elastic = partial(al.attacks.composite, momentum=al.Elastic(sigma=1.0))
attacks = {
    "MI-FGSM": al.attacks.mi_fgsm,
    "MI-Composite": al.attacks.composite,
    "NI-Composite": elastic,
    "EM-RE-Composite": partial(al.attacks.composite, **al.EM_RE),
}

# %% [markdown]
# ### On CIFAR-10
#
# First in the thesis' own terms: only images that every network gets right, and the rate at which they are fooled.

# %%
everything = al.results.committed("2.5", "laptop", "cifar10")
committed = book.committed("2.5", targets=al.secured.NINE, whole=True)

# %% [markdown]
# In every column the composites stand in one order, EM-RE before NI before MI. Plain MI-FGSM is far ahead of them
# wherever a defence was not trained on attacks, and far behind on HGD and NIPS-r3.
#
# The same examples over *all* images, with those that were wrong from the start. This is what an attacked image costs
# with each defence, and without one.


# %%
def wrong(rows, cost):
    """Wrong answers (%) of every network under every attack from the ensemble."""
    part = rows[rows.metric == al.evaluation.ALL]
    part = part[part.source == part.source.iloc[-1]]
    part = part[part.eps_255 == part.eps_255.iloc[0]]
    wide = part.pivot(index="target", columns="attack", values="value")
    wide = wide.loc[cost.index, part.attack.unique()].rename_axis(columns=None)
    wide.insert(0, "clean", 100 - cost["right, clean (%)"] - cost["no answer (%)"])
    row = part.iloc[0]
    said = f"{row.dataset}, {row['scale']} scale, {row.eps_255:g}/255, {row.n:,} images"
    display(Markdown(f"*Wrong answers (%), {said}, from {row.source}*"))
    return wide.round(1)


# %%
wrong(everything, costs(cost_cifar))

# %% [markdown]
# Rounding and R&P hardly help. HGD halves the errors under MI-FGSM, and helps little against EM-RE-Composite. A likely reason:
# what HGD saw in training has a rough texture, and TIM, a part of every composite, smooths it. The trained networks
# are steadier, and RS is the steadiest.
#
# ### The run that you repeat

# %%
rows = book.measure("2.5", attacks, sources)
table_2_5 = rows[rows.target.isin(al.secured.NINE)]

# %% tags=["hide-output"]
book.show(table_2_5)

# %% tags=["hide-output"]
book.beside("2.5", table_2_5)

# %% tags=["hide-output"]
display(wrong(rows, cost))
quiet = rows[(rows.metric == al.evaluation.ABSTAINED) & (rows.source == together)]
quiet = quiet.rename(columns={"value": "RS gives no answer (%)"}).set_index("attack")
quiet[["RS gives no answer (%)", "n"]].round(1)

# %% [markdown]
# On `shapes` few images count, so that only the large differences mean something. They are those of CIFAR-10: HGD, NIPS-r3
# and the trained networks help, rounding does not.
#
# ### In how many cases?
#
# A case is one defence and one source. In how many is the first attack ahead of the second?

# %%
CLAIMS = [
    ("2.5", "EM-RE-Composite", "MI-Composite"),
    ("2.5", "EM-RE-Composite", "NI-Composite"),
    ("2.5", "NI-Composite", "MI-Composite"),
]
book.verdicts(CLAIMS, {"2.5": table_2_5}, {"2.5": committed})

# %% [markdown]
# *"18 : 0 of 18, clear 8 : 0" reads: ahead in all cases; in some of them the interval of the difference leaves out 0.* The
# thesis' order of EM-RE-Composite is there on CIFAR-10. That of the other two is turned round.
#
# ## A certificate
#
# All of the above is experience: these attacks failed. RS can say more: *no* change shorter than some radius would have
# changed the answer.
#
# ### One pixel by hand
#
# Let an image be one number $x$, and let the network say "bright" wherever that is above 0.3. Under noise of deviation
# $\sigma$ the share of the votes for "bright" is the area of a bell curve to the right of 0.3:
#
# $$p(x) = \Phi\left(\frac{x - 0.3}{\sigma}\right)$$
#
# Turn that round. Whoever has seen the share $p$ knows how far away the edge is, without having looked for it:
#
# $$R = \sigma \, \Phi^{-1}(p)$$
#
# For this network $R$ is the distance to the edge, exactly. The theorem of Cohen et al. says that it is a safe distance
# for *every* network with that share, in any number of pixels, if distance is measured in $L_2$. A single edge is
# the worst case: all that speaks for the class lies on one side, as near as can be.

# %%
sigma, edge = 0.25, 0.3
z = torch.linspace(0, 1, 101)
ways = {"one edge at 0.3": lambda at: at > edge}
ways["three edges"] = lambda at: ((at > edge) & (at < 0.7)) | (at > 0.85)
torch.manual_seed(0)
noise = sigma * torch.randn(20_000, 1)
share = {name: says(z + noise).float().mean(0) for name, says in ways.items()}
safe = {name: sigma * torch.special.ndtri(p).clamp(min=0) for name, p in share.items()}

# %%
panels = {
    "votes for bright": {name: (z.tolist(), p.tolist()) for name, p in share.items()},
    "certified radius": {name: (z.tolist(), r.tolist()) for name, r in safe.items()},
}
ylabels = ["share of the votes", "radius (pixel value)"]
xlabel = "the pixel (0 black, 1 white)"
fig = al.plotting.curves(panels, xlabel, ylabels, sharey=False)
al.plotting.save(fig, "fig_A2_4_certificate_by_hand", RUN)
fig

# %% [markdown]
# *Left: under noise a hard edge becomes a slope, and a network with three edges changes as slowly as one with a single one.
# Right: the radius that follows from the votes. For the single edge it is the straight line, the distance itself.*

# %%
assert (safe["one edge at 0.3"][31:71] - (z[31:71] - edge)).abs().max() < 0.03

# %% [markdown]
# ### From votes to a share
#
# Nobody knows $p$; one counts votes. Of $n$ votes let $k$ be for the class. The share is then, with probability
# $1 - \alpha$, at least as large as a bound $\underline{p}$, by Clopper and Pearson, and that goes into the formula:
#
# $$R = \sigma \, \Phi^{-1}(\underline{p}), \qquad P(\text{at least } k \text{ of } n \mid \underline{p}) = \alpha$$
#
# By hand: if all $n$ votes agree, $\underline{p}^n = \alpha$. More votes give a longer radius, and never an infinite one.


# %%
def bright(x):
    """A network of one pixel and one edge."""
    return torch.stack([edge - x.flatten(), x.flatten() - edge], 1)


RS = al.defenses.RandomizedSmoothing(sigma=sigma, n=100, alpha=0.001)

# %%
found = {}
for votes in (100, 1000, 10_000):
    (answer,), (radius,) = RS.certify(bright, torch.full((1, 1, 1, 1), 0.8), n=votes)
    all_agree = sigma * torch.special.ndtri(torch.tensor(0.001 ** (1 / votes))).item()
    found[votes] = {"certified radius": radius.item(), "if all agreed": all_agree}
    found[votes]["distance to the edge"] = 0.8 - edge
by_votes = pd.DataFrame(found).T.rename_axis("votes").round(3)

# %% tags=["nbval-check-output"]
assert (by_votes["certified radius"] < by_votes["distance to the edge"]).all()
assert by_votes["certified radius"].is_monotonic_increasing
by_votes

# %% [markdown]
# The certificate is always below the truth, and comes closer with more votes.
#
# ### On images


# %%
few = images[: RUN["few"]]
radii = [0.02 * k for k in range(31)]


def certified(guard):
    """Share (%) of the images that are right, and proven so within each radius."""
    prove = partial(guard.defence.certify, guard.model, n=RUN["copies"], seed=seed)
    votes = [(b.y, *prove(b.x)) for b in few.batches(100)]
    y, answers, reach = (torch.cat(parts) for parts in zip(*votes, strict=True))
    return [100 * ((answers == y) & (reach >= r)).float().mean().item() for r in radii]


# %%
proven = certified(nine["RS"])
panels = {f"{dataset}, {len(few)} images": {"RS": (radii, proven)}}
names = "radius ($L_2$)", "right and proven (%)"
fig = al.plotting.curves(panels, *names, ylim=(0, 100))
al.plotting.save(fig, f"fig_A2_5_certificate_{dataset}", RUN)
fig

# %% [markdown]
# *How many images are right, and proven to stay so within a radius. The curve ends where all votes agree.*
#
# ![The same for CIFAR-10: the curve starts at somewhat more than half of the images and falls steadily to about a fifth at the radius where it ends.](../figures/A2/fig_A2_5_certificate_cifar10.svg)
#
# *The same on CIFAR-10 (200 images, laptop scale).*

# %%
longest = eps * few.x[0].numel() ** 0.5
print(f"The longest change within {eps_255[0]:g}/255 of every pixel: {longest:.2f}")

# %% [markdown]
# The proof covers only a small part of the ball of our attacks, whose corners are far beyond the end of the curve. It is a
# proof all the same.

# %% [markdown]
# ## Attackers who know
#
# So far the attacker did not know. An attacker who knows attacks the network with its defence, as one function: an
# *adaptive attack*. For that it needs a gradient through the defence. HGD and NRP are networks, so that their gradient is there. Two kinds of
# defence have none that is of use.
#
# ### A staircase: pass straight through (BPDA)
#
# Rounding is a staircase. Its slope is zero on every step, and infinite at the edges. An attack that follows the slope
# does not move. But the staircase as a whole climbs. So the attack takes the identity in place of the defence on the way
# back. That is *backward pass differentiable approximation*, BPDA:
#
# $$\hat{x} = D(x), \qquad \frac{\partial \hat{x}}{\partial x} := I, \qquad \text{so that} \quad
# g = \nabla_{\hat{x}} \, \ell(f(\hat{x}), y)$$

# %%
print(inspect.getsource(al.defenses.straight_through))

# %% [markdown]
# ### Many slopes: take their mean (EOT)
#
# A random defence shows the network another image each time. Each has its own slope, and that of a single draw may point
# anywhere. The mean over draws points uphill. *Expectation over transformation*, EOT, is that mean:
#
# $$\nabla_x \, \mathbb{E}_T \left[ \ell(f(T(x)), y) \right] \approx \frac{1}{K} \sum_{k=1}^{K} \nabla_x \, \ell(f(T_k(x)), y)$$
#
# For defences such as R&P that average probabilities, our attacker takes the loss of the mean probability, which is what
# the defence itself computes.
#
# Both by hand, on one pixel whose loss is four times its value:


# %%
def stairs(z):
    """Behind a defence that rounds to eighths."""
    return 4 * (8 * z).round() / 8


def one_draw(z, phase):
    """Behind a defence that shows something else in each draw."""
    return 4 * z + 0.3 * torch.sin(30 * z + phase)


# %%
z = torch.linspace(0.25, 0.75, 201)
phases = 2 * torch.pi * torch.arange(12) / 12
mean = torch.stack([one_draw(z, phase) for phase in phases]).mean(0)

# %%
lines = {"no defence": 4 * z, "behind the defence": stairs(z)}
draws = {"one draw": one_draw(z, phases[0]), "another": one_draw(z, phases[5])}
draws["mean of 12 draws"] = mean
panels = {"a staircase (BPDA)": lines, "random draws (EOT)": draws}
for title, of in panels.items():
    panels[title] = {name: (z.tolist(), v.tolist()) for name, v in of.items()}
fig = al.plotting.curves(panels, "the pixel (0 black, 1 white)", "loss (nats)")
al.plotting.save(fig, "fig_A2_6_adaptive", RUN)
fig

# %% [markdown]
# *Left: the staircase is flat nearly everywhere; the dark line, which BPDA follows, has its direction. Right: single draws
# go up and down; their mean is a straight line.*

# %% tags=["nbval-check-output"]
at = torch.tensor(0.45, requires_grad=True)
(flat,) = torch.autograd.grad(stairs(at), at)
shown = al.defenses.straight_through(at, (8 * at).round() / 8)
(bpda,) = torch.autograd.grad(4 * shown, at)
slopes = torch.stack([torch.autograd.grad(one_draw(at, p), at)[0] for p in phases])
print(f"staircase {flat:.0f}, BPDA {bpda:.0f}")
print(f"draws {slopes.min():.0f} to {slopes.max():.0f}, mean {slopes.mean():.0f}")
assert flat == 0 and bpda == 4 and (slopes.mean() - 4).abs() < 1e-4

# %% [markdown]
# ### Told and not told
#
# PGD, once on the network without the defence (*not told*) and once on the whole (*told*): straight through JPEG, over the
# mean of some draws of R&P, exactly through HGD, and on the trained networks themselves. The target is always the
# defended network.

# %%
told = {name: nine[name] for name in ("JPEG", "R&P", "HGD") if name in nine} | trained
mean_of = al.defenses.RandomResizePad(RUN["draws"])
attacked = {**told, "R&P": mean_of(nine["R&P"].model, seed + 1)}
through = {"plain": nine["JPEG"].model}
through |= {f"{name}, told": network for name, network in attacked.items()}
knowing = replace(book, models=told, images=few, steps=2 * steps, eps_255=eps_255[:1])


# %%
def adaptive(rows):
    """Wrong answers (%) under PGD on the plain network, and on the target itself."""
    rows = rows[rows.metric == al.evaluation.ALL].set_index(["source", "target"])
    table = {}
    for name in dict.fromkeys(rows.index.get_level_values("target")):
        pair = rows.loc[("plain", name)], rows.loc[(f"{name}, told", name)]
        ends = [f"{r.value:.1f} ({r.ci_low:.0f} to {r.ci_high:.0f})" for r in pair]
        table[name] = dict(zip(("not told", "told"), ends, strict=True))
    row = rows.iloc[0]
    said = f"{row.dataset}, {row['scale']} scale, {row.eps_255:g}/255, {row.n:,} images"
    display(Markdown(f"*Wrong answers under PGD (%), 95 % interval; {said}*"))
    return pd.DataFrame(table).T


# %%
told_cifar = al.results.committed("A2.2", "laptop", "cifar10")
display(adaptive(told_cifar))

# %% [markdown]
# This is the committed run on CIFAR-10. An attacker who is told is stopped by none of the three defences in front, and hardly
# by ensemble adversarial training. Only the PGD-trained network holds in part. The run that you repeat:

# %%
rows = knowing.measure("A2.2", {"PGD": al.attacks.pgd}, through)
adaptive(rows)

# %% tags=["nbval-check-output"]
whole = rows[rows.metric == al.evaluation.ALL].set_index(["source", "target"]).value
least = [whole[f"{name}, told", name] - whole["plain", name] for name in told]
print("whoever knows the defence does at least as well against each:", min(least) >= 0)

# %% [markdown]
# ## Three findings
#
# The picture at the head of this page is drawn here, from Tables A2.1, 2.5 and A2.2.

# %%
NAMES = {"no defence (vgg)": "no defence"}
NAMES |= {"vgg-pgd": "PGD-trained", "vgg-ens3": "ensemble-trained"}
SHOWN = ["no defence", "Bit-Red", "JPEG", "FD", "R&P", "NIPS-r3", "RS"]
SHOWN += ["HGD", "ComDefend", "NRP", "ensemble-trained", "PGD-trained"]


def marks(rows):
    """Name of a target -> wrong answers (%) with their interval."""
    rows = rows.assign(target=rows.target.replace(NAMES))
    rows = rows[rows.target.isin(SHOWN)].set_index("target")
    return {k: (r.value, r.ci_low, r.ci_high) for k, r in rows.iterrows()}


# %%
of_all = everything[everything.metric == "asr_all"]
of_all = of_all[of_all.source == together]
untold = {a: marks(of_all[of_all.attack == a]) for a in ("MI-FGSM", "EM-RE-Composite")}
part = told_cifar[told_cifar.metric == "asr_all"]
pairs = {"PGD, not told": part.source == "plain"}
pairs["PGD, told"] = part.source == part.target + ", told"
panels = {"the attacker does not know": untold}
knows = {name: marks(part[chosen]) for name, chosen in pairs.items()}
panels["the attacker knows"] = knows
fig = al.plotting.forest(panels, SHOWN, "wrong answers (%)", tall=0.33)
al.plotting.save(fig, "fig_A2_1_recovered_cifar10", RUN)
fig

# %% [markdown]
# *Left: from an ensemble of four networks, Table 2.5 over all images. Right: PGD, Table A2.2. Both CIFAR-10, 8/255, laptop
# scale.*
#
# 1. **The thesis' order holds, its sizes do not.** Among the composites EM-RE-Composite is ahead in every case on
#    CIFAR-10. But all of them stay far below the print, at half its budget and on other networks. And a composite is
#    not always the strongest attack: where nothing was trained on attacks, plain MI-FGSM fools more. Chapter 2 says why.
# 2. **What costs little recovers little.** Rounding and random resizing keep the clean accuracy and stop next to nothing.
#    Training on attacks, and a vote under noise, stop most of it and pay in clean images. HGD seems to be the exception:
#    it costs nothing and halves the errors under MI-FGSM.
# 3. **What is hidden is not gone.** Where the attacker does not know, HGD and the ensemble adversarially trained networks look
#    best under PGD. Once told, it fools them nearly always. PGD training keeps about a third of the images, and the certificate of
#    RS holds by proof, within its small radius.
#
# **How sure is that?** The networks are small, the images have 32 pixels, and the budget is half of the thesis'. Orders may
# carry over; sizes do not. For the third finding, no more is needed than that one attack succeeds: a stronger one can
# only make it worse for the defence.
#
# ## Summary
#
# - Adversarial training is a minimum of a maximum: the attack inside, the weights outside. It gives up what tells classes
#   apart by less than the budget.
# - A defence wraps a model and is one: `al.defenses.JPEG(quality=75)(model)`. It says whether it is the published
#   transformation or was trained by us, and how gradients pass.
# - Rounding deals a change out anew, and does not remove it.
# - Randomized smoothing turns votes into a distance within which nothing changes the answer.
# - Test a defence with an attack that knows of it: straight through what rounds, the mean over what is random.
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
# - T. Wu, *Adversarial Transferability and Generalization in Robust Deep Learning*, PhD thesis, Missouri University
#   of Science and Technology, 2024, chapter 2, Table 2.5.
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
# - A. Athalye et al., *Obfuscated gradients give a false sense of security* (BPDA, EOT), ICML 2018.
