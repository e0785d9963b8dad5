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
# ![Two panels, success against passes on a logarithmic axis. On undefended targets a dozen open circles crowd around MI-FGSM; of the named ones FGSM is far below, a look-ahead of ten passes well above, an ensemble of two networks higher, and SVRE, the dearest, the highest. On defended targets PGD on LRS-2 with ten passes is above everything else.](../figures/A4/fig_A4_3_leaderboard_committed.svg)
#
# *Every attack of this chapter on CIFAR-10 at 4/255 and six hundred images, from a small ResNet (LRS: a DenseNet). Filled
# and named: nothing cheaper reaches as much. Bars are 95 % intervals.*
#
# - **What is asked.** The literature has some thirty transfer attacks. Which one should you run, and what does each gradient
#   that you pay for buy?
# - **What the thesis finds.** It compares about ten of them, and its own combination is the strongest in its
#   tables. What an attack costs is not in them.
# - **What we find.** On small CIFAR-10 networks most attacks are not clearly better than MI-FGSM; a look-ahead inside the
#   ball is free and clearly is. A second network is worth more than any trick on one, and where targets are defended, a smoother
#   network is worth most. The intervals are narrow, but this is one surrogate on images of 32 pixels.
#
# The chapter goes through the field family by family: what each changes, on two pixels and on pictures. Then it says what an
# honest comparison is, and compares. Beside the attacks stand those that ask the target itself, those that look for the
# smallest change, and the optimizers around SAM.
#
# The committed run on CIFAR-10 comes first, because it is the better evidence. The run that you repeat is on `shapes`, the
# built-in teaching set. This page was executed on it.

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
import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from textwrap import dedent

import pandas as pd
import torch
from IPython.display import Markdown, display

import advlib as al

# %%
SETTINGS = {
    "smoke": {"n": 6, "n_val": 6, "steps": 2, "points": 2, "epochs": 1, "networks": 2,
              "n_tuning": 512, "rap": 4, "layers": 1, "queries": 200, "n_asked": 2,
              "n_judged": 100, "n_sharp": 10, "trial": 1, "batch": 64},
    "laptop": {"n": 40, "n_val": 40, "steps": 10, "points": 20, "epochs": 1, "rap": 40,
               "networks": 10, "n_tuning": 0, "layers": 3, "queries": 1000, "trial": 2,
               "n_asked": 10, "n_judged": 1000, "n_sharp": 100, "batch": 128},
    "paper": {"n": 1000, "n_val": 500, "steps": 10, "points": 20, "epochs": 10,
              "rap": 400, "networks": 40, "n_tuning": 0, "layers": 3, "trial": 0,
              "queries": 10_000, "n_asked": 100, "n_judged": 10_000, "n_sharp": 1000,
              "batch": 0},
}  # fmt: skip

# %%
RUN = al.chapters.begin("A4", globals(), SETTINGS)
n, n_val, steps, points, epochs = RUN["n", "n_val", "steps", "points", "epochs"]
device = RUN.device
eps_255 = eps_255 or [16.0 if dataset == "imagenet" else 8.0]
print(RUN)

# %% [markdown]
# ## The family tree
#
# All of them raise a loss $\ell$, or lower a distance, inside a small ball of radius $\epsilon$ around the image. They differ in
# what they change about that: the step, the gradient, the input, the network, the number of networks; or they ask
# the target a question in place of all that.

# %%
BRANCHES = {
    "the step": ["FGSM", "I-FGSM", "PGD", "MI-FGSM", "NI-FGSM", "EM-FGSM"],
    "the gradient": ["GNP", "PGN", "noise-averaged", "TAIG", "RAP"],
    "the input": ["DIM", "RDIM", "TIM", "SIM", "Admix", "RE", "Composite"],
    "the network": ["LinBP", "SGM", "ghosts", "ILA++", "AA", "ATA", "AoA", "LRS"],
    "several networks": ["ensembles", "SVRE", "LGV", "Bayesian"],
    "the question": ["NES", "NAttack", "Boundary", "Sign Flip"],
}
BRANCHES["the step"] += ["VMI-FGSM", "EMI-FGSM"]
fig = al.plotting.tree("maximise the loss in a ball", BRANCHES)
al.plotting.save(fig, "fig_A4_1_family_tree", RUN)
fig

# %% [markdown]
# *Figure A4.1. Attacks by what they change. The sections below take them in this order.*
#
# In the formulas $g(x) = \nabla_x \ell(x)$ is the gradient, $\bar u$ is $u$ over the mean of its absolute values, $\Pi$
# brings a point back into the ball and $[0, 1]$, $T$ is the number of steps, and $\alpha = \epsilon / T$ the length of one. Constants are those of the papers.
#
# The networks and the images first. On `shapes` and CIFAR-10 the surrogate is a small ResNet; the targets are the other
# families, adversarially trained networks, and three of the defences of appendix A2. With `dataset="imagenet"`
# they are the six independent networks of chapter 2, of which none is adversarially trained; the surrogate is MobileNet v2,
# and a success is counted, for each target, over the images that it and the surrogate name rightly.

# %%
photographs = dataset == "imagenet"
if photographs:
    source, second = "mobilenet_v2_relu*", "efficientnet_lite0*"
    smooth = "squeezenet1_1*"
    asked, chooses = "squeezenet1_0*", ("squeezenet1_0*", "efficientnet_lite2*")
    layers, first = ["features.14", "features.7", "features.3"], "conv"
    norms, branches = "features.*.conv.*.1", "features.*.conv"
else:
    source, second, smooth, asked = "resnet", "densenet", "densenet", "vgg"
    chooses = ("wrn", "resnext")
    layers, first = ["layer3", "layer2", "layer1"], "0"
    norms, branches = "bn*", "layer*.*.bn2"

# %%
if photographs:
    trained, guarded = {}, al.secured.stand_ins(seed)
    both = al.datasets.load("imagenet_compatible", "test", n + n_val)
    images, val = al.datasets.split(both, n, seed)
else:
    trained, guarded = al.secured.trained(dataset), al.secured.nine(dataset, seed)
    sets = ("test", n), ("val", n_val)
    images, val = (al.datasets.load(dataset, split, k) for split, k in sets)

# %%
images, val, models = images.to(device), val.to(device), al.models.zoo(dataset)
guarded = {name: guarded[name] for name in ("JPEG", "FD", "NRP") if name in guarded}
targets = models | trained | guarded
targets = {name: model.to(device) for name, model in targets.items()}
models, layers = {name: targets[name] for name in models}, layers[: RUN["layers"]]
dtype = torch.bfloat16 if bfloat16 else None
plain, f = models[source], al.accelerate(models[source], dtype=dtype)
config, counted = {"bfloat16": bfloat16}, "both right" if photographs else "all right"
setting = None, seed, config, counted
book = al.experiment.Experiment(RUN, targets, images, eps_255, *setting)
print("targets:", ", ".join(targets))


# %%
def code_of(thing):
    """Its source, without what it says about itself."""
    source = dedent(inspect.getsource(thing))
    return re.sub(r'\n +"""(.|\n)*?"""', "", source, count=1)


def scaled(g):
    """A gradient as a picture: grey is 0, the strongest hundredth is full."""
    size = g.abs().flatten(1).quantile(0.99, dim=1).clamp(min=1e-12)
    return (0.5 + g / (2 * size[:, None, None, None])).clamp(0, 1)


# %% [markdown]
# ### The step
#
# *The idea.* One gradient says where the loss rises here. A step rule remembers earlier gradients, or looks at more
# than one place, before it steps. What single gradients get wrong, several may get right.
#
# On two pixels an image is a point, and the loss a landscape. Here it is a slope with ripples on it. Where does each rule
# read its gradients?


# %%
def slope_with_ripples(z):
    """A broad ridge that rises to the right, and ripples on it."""
    u, v = z[..., 0], z[..., 1]
    ripples = 0.05 * torch.sin(45 * u) * torch.sin(45 * v)
    return 2 * u - 5 * (v - 0.365 - 0.3 * u) ** 2 + ripples


start, label, reach = torch.tensor([[[[0.45, 0.5]]]]), torch.tensor([0]), 0.15


# %%
def reads(steps=8, **options):
    """The points at which an attack on the two pixels reads a gradient."""
    seen = []

    def loss(z, y):
        seen.append(z.detach().clone())
        return slope_with_ripples(z)

    g = al.gradient(torch.nn.Flatten(), loss=loss)
    al.attack(start, label, g, eps=reach, steps=steps, **options)
    return torch.cat(seen)


# %%
MI = al.Elastic(mu=1.0)
ahead = al.Elastic(mu=1.0, sigma=2.0, project="ball")
walks = {"I-FGSM": reads(), "MI-FGSM": reads(momentum=MI)}
walks["EM-FGSM, in the ball"] = reads(momentum=ahead)
line = {"EMI-FGSM, one step": reads(momentum=al.EnhancedMomentum(MI))[-11:]}
line["VMI-FGSM, one step"] = reads(momentum=al.VarianceTuned(MI, points=10))[-11:]
panels = {"at the iterate, and ahead of it": walks, "around the iterate": line}
middle = start.flatten().tolist()
fig = al.plotting.trails(slope_with_ripples, panels, middle, reach)
al.plotting.save(fig, "fig_A4_4_step", RUN)
fig

# %% [markdown]
# *The landscape from above: bright is a high loss, the cross is the image, the dashed square the ball. Left: where three
# rules read a gradient in eight steps. I-FGSM stays at the top of the first ripple; what the others remember carries them over it.
# Right: where two more read within a single step, on a line and in a cloud.*
#
# - **FGSM** (fast gradient sign method). One step, as long as the budget: $x^{adv} = \Pi(x + \epsilon \operatorname{sign} g(x))$.
#   `al.attacks.fgsm`
# - **I-FGSM** (iterated). Many short steps, each along its own gradient:
#   $x_{t+1} = \Pi(x_t + \alpha \operatorname{sign} g(x_t))$. `al.attacks.i_fgsm`
# - **PGD** (projected gradient descent). The same from a random point of the ball, with steps that are 2.5 times as long.
#   `al.attacks.pgd`
# - **MI-FGSM** (momentum). The steps follow the sum of all gradients so far, which evens out their turns:
#   $m_{t+1} = \mu m_t + \bar g(x_t)$, $x_{t+1} = \Pi(x_t + \alpha \operatorname{sign} m_{t+1})$, $\mu = 1$. `al.attacks.mi_fgsm`
#
# By hand: the first gradient is (3, 1), the second (-1, 1). Divided by their mean sizes they are (1.5, 0.5) and (-1, 1). The
# sum is (0.5, 1.5). Both pixels go on upward, though the second gradient alone would turn the first one back.

# %% tags=["nbval-check-output"]
m = MI.accumulate(torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, 1.0]]]]))
m = MI.accumulate(m, torch.tensor([[[[-1.0, 1.0]]]]))
assert torch.allclose(m.flatten(), torch.tensor([0.5, 1.5]))
print(m.flatten().tolist())

# %% [markdown]
# - **NI-FGSM** (Nesterov), **EM-FGSM** (elastic momentum, thesis chapter 2). The sum is going to move the point on. The
#   gradient is therefore taken where that leads: $\bar g(x_t + \alpha \sigma m_t)$, with $\sigma$ one for NI and two for EM.
#   With `project="ball"` that point is brought back into the ball. `al.attacks.ni_fgsm`, `al.attacks.em_fgsm`
# - **VMI-FGSM, VNI-FGSM** (variance tuning). Each gradient is corrected by how it varied around the last iterate:
#   $\overline{g(x_t) + v_t}$, with $v_{t+1} = \frac{1}{N} \sum_i g(x_t + r_i) - g(x_t)$, in MI's or NI's sum.
#   `al.attacks.vmi_fgsm`, `al.attacks.vni_fgsm`
# - **EMI-FGSM** (enhanced momentum). The gradient is averaged over a line through the iterate, along the last such mean:
#   $\hat g_t = \frac{1}{N} \sum_i g(x_t + \alpha c_i \bar{g}_{t-1})$. `al.attacks.emi_fgsm`
#
# A rule in `advlib` is two methods: what it remembers, and what it makes of a gradient function. This is variance tuning:

# %%
print(code_of(al.VarianceTuned.update))

# %% [markdown]
# Where the gradient does not vary, tuning must change nothing. On a linear loss $v$ is zero, and VMI-FGSM is MI-FGSM:


# %%
def climbed(rule):
    """Two pixels after an attack on a linear loss."""
    loss = lambda z, y: z @ torch.tensor([2.0, -1.0])  # noqa: E731
    linear = al.gradient(torch.nn.Flatten(), loss=loss)
    return al.attack(start, label, linear, eps=reach, momentum=rule)


assert torch.allclose(climbed(al.VarianceTuned(MI, points=5)), climbed(MI))

# %% [markdown]
# ### The gradient
#
# *The idea.* The gradient of one network is rough: much of it belongs to that network alone. Another network shares only the
# smooth part. So average it over points nearby, or penalise what is steep.
#
# By hand, in one dimension: a slope of one that two networks share, and ripples of their own, $\ell = z + \tfrac{1}{10} \sin 40 z$.
# At many points the ripples decide which way is up. The mean slope over an interval of the length of some ripples points up
# everywhere.

# %% tags=["nbval-check-output"]
slope = lambda z: 1 + 4 * torch.cos(40 * z)  # noqa: E731
z = torch.linspace(0, 1, 1001)
near = torch.linspace(-0.2, 0.2, 41)
mean = slope(z[:, None] + near).mean(1)
print(f"single slopes {slope(z).min():.0f} to {slope(z).max():.0f}", end=", ")
print(f"means {mean.min():.1f} to {mean.max():.1f}")
assert (mean > 0).all() and (slope(z) < 0).any()

# %%
few = images[:3]
draw = al.draws.Draw(seed, few.index)
budget = eps_255[0] / 255
g, rows = al.gradient(plain), {"image": few.x}
for name, of in {
    "the gradient": g,
    "mean over points": al.neighbours(g, radius=3 * budget, points=points),
    "integrated": al.integrated(al.gradient(plain, loss="logit"), points=points),
    "smoothed (TIM)": al.smoothed(g, kernel=7 if photographs else 3, std=0.7),
}.items():
    rows[name] = scaled(of(few.x, few.y, draw))

# %%
fig = al.plotting.gallery(rows, side=0.95)
al.plotting.save(fig, f"fig_A4_5_gradients_{dataset}", RUN)
fig

# %% [markdown]
# *What is done to a gradient. Grey is zero. All four stand where the figure is. The mean over points has fewer speckles
# than the gradient itself, the integrated one follows the picture, and the smoothed one is blurred.*
#
# - **Noise-averaged gradient** (Wu & Zhu; the thesis' "SGM [49]"). The mean of $g(x + \xi_i)$ over 20 points, $\xi_i$ normal.
#   `al.attacks.smoothed_gradient`
# - **GNP** (gradient norm penalty, thesis chapter 3). The gradient of $\ell - \lambda \|g\|_2$, by a difference:
#   $(1 + \beta)\, g(x) - \beta\, g(x + r\, g(x) / \|g(x)\|_2)$. Its other side is a mean of two gradients:
#   $(1 - \beta)\, g(x) + \beta\, g(x - r\, g(x) / \|g(x)\|_2)$. `**al.GNP`, `al.norm_penalty(g, difference="backward")`
# - **PGN** (penalizing the gradient norm). The backward penalty, averaged over points around $x$. `al.attacks.pgn`
# - **TAIG** (integrated gradients). The mean gradient on the way from black to the image, times the image:
#   $x \odot \frac{1}{20} \sum_k g(\frac{k}{20} x)$, of the logit of the class. `al.attacks.taig`
# - **RAP** (reverse adversarial perturbation). The gradient is taken where the loss nearby is *lowest*: $g(x_t + n_t)$, with
#   $n_t$ from some steps downhill. What is still high there lies on flat ground. `al.attacks.rap`
#
# The mean over points, without its checks:

# %%
source_of = code_of(al.neighbours)
print(source_of[source_of.index("    def around") :])

# %% [markdown]
# On a quadratic loss the points on both sides cancel, and the mean is the gradient at the middle. What averaging changes
# is what is *not* quadratic. With pairs of opposite points the cancellation is exact:

# %%
quadratic = lambda z: torch.stack([4 * z[..., 0], z[..., 1]], -1)  # noqa: E731
here, away = start.flatten(), 0.1 * torch.randn(20, 2)
around = torch.cat([here + away, here - away])
assert torch.allclose(quadratic(around).mean(0), quadratic(here), atol=1e-5)

# %% [markdown]
# ### The input
#
# *The idea.* An image that fools the surrogate only as it stands there, pixel by pixel, fools nobody else. So the surrogate
# is shown something else in every step: the image smaller, darker, mixed, with a piece hidden. The gradient is averaged over
# such copies. Chapter 2 takes these one by one.

# %%
taught = "imagenet_sample" if photographs else dataset
pool = al.datasets.load(taught, "val", 50).x.to(device)
one, copies = images[:1], torch.arange(5, device=device)

# %%
VIEWS = {
    "DIM": al.InputDiversity(p=1.0),
    "RDIM": al.InputDiversity(p=1.0, scale=1.14),
    "SIM": al.ScaleCopies(5),
    "Admix": al.MixedImages(pool),
    "RE": al.RandomErasure(),
}
where = al.draws.Draw(seed, one.index.repeat(5), copy=copies)
stack = one.x.repeat(5, 1, 1, 1)
rows = {name: transform(stack, where, copies) for name, transform in VIEWS.items()}

# %%
fig = al.plotting.gallery(rows, [f"copy {k}" for k in range(5)], side=0.95)
al.plotting.save(fig, f"fig_A4_6_views_{dataset}", RUN)
fig

# %% [markdown]
# *What the surrogate is shown of one image, in five copies each.*
#
# - **DIM** (diverse inputs): $\nabla_x \ell(D(x))$. Half of the time $D$ shrinks the image, by up to a tenth, and puts it
#   somewhere on a black canvas. **RDIM** (resized): always, on a larger canvas. `al.attacks.dim`, `al.attacks.rdim`
# - **TIM** (translation invariant): $W * g(x)$, the gradient smoothed with a Gaussian, as if averaged over shifts of the image.
#   `al.attacks.tim`
# - **SIM** (scale invariant): the mean over darkened copies, $\frac{1}{5} \sum_{i=0}^{4} \nabla_x \ell(x / 2^i)$. **Admix**: with
#   a fifth of another image $z_j$ in each. `al.attacks.sim`, `al.attacks.admix`
# - **RE** (random erasure, thesis chapter 2): the mean over five copies, in four of which a rectangle is filled with noise, half
#   of the time. `al.attacks.re_fgsm`
# - **Composite**: DIM, TIM and SIM together; with `**al.EM_RE` the thesis' EM-RE-Composite. `al.attacks.composite`

# %%
print(code_of(al.ScaleCopies.__call__))

# %% [markdown]
# By hand, on a quadratic loss $\frac{1}{2} \|x\|^2$: the $i$-th copy is $x / 2^i$, and so is its gradient; the chain rule
# divides by $2^i$ once more. The mean is $x$ times the mean of $1, \frac{1}{4}, \frac{1}{16}, \ldots$, so that dark copies hardly
# count.

# %%
square = lambda z, y: z.square().sum(1) / 2  # noqa: E731
half = al.gradient(torch.nn.Flatten(), transform=al.ScaleCopies(5), loss=square)
found = half(start, label, al.draws.Draw(0, label))
share = sum(0.25**i for i in range(5)) / 5
assert torch.allclose(found, share * start)

# %% [markdown]
# ### The network
#
# *The idea.* The surrogate's answer stays, but its way back is changed, so that the gradient depends less on the accidents
# of one network. Or no answer is looked at at all: the attack moves what a layer inside sees, its *features*, which
# networks share more than their last layers.
#
# **The way back.** A ReLU lets a gradient through where its input is above zero, and stops it elsewhere. LinBP lets all
# through. A residual block computes $z + F(z)$; SGM lets the way through $F$ count half.

# %%
z = torch.linspace(-2, 2, 81)
gate = (z > 0).float()
relu = {"ReLU": gate, "LinBP": torch.ones_like(z)}
block = {"plain": 1 + 1.5 * gate, "SGM": 1 + 0.5 * 1.5 * gate}
panels = {"ReLU(z)": relu, "z + 1.5 ReLU(z)": block}
for title, of in panels.items():
    panels[title] = {name: (z.tolist(), v.tolist()) for name, v in of.items()}
fig = al.plotting.curves(panels, "input z of the layer", "slope on the way back")
al.plotting.save(fig, "fig_A4_7_way_back", RUN)
fig

# %% [markdown]
# *The slope that the way back uses, for a ReLU (left) and for a block with a skip connection (right). The forward pass is
# unchanged in both.*
#
# - **LinBP** (linear backpropagation). Behind a layer, the backward pass takes every ReLU for the identity.
#   `al.linear_backward(f, layer)`
# - **SGM** (skip gradient). $1 + \gamma F'(z)$ in place of $1 + F'(z)$, $\gamma = 0.5$. `al.skip_gradient(f, layers, 0.5)`
# - **Ghost networks**. Another network for each image and step, made of the one there is: features dropped, or skip
#   connections scaled a little up or down. `al.dropout_erosion(f, layers)`, `al.skip_erosion(f, layers)`
#
# By hand: two ReLUs, one of them shut. The gradient of the sum of $\operatorname{ReLU}(z)$ at $(2, -1)$ is $(1, 0)$. With
# LinBP it is $(1, 1)$, and the value is the same.

# %%
two = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU())
pixels = torch.tensor([[[[2.0, -1.0]]]], requires_grad=True)
for network, wanted in ((two, [1.0, 0.0]), (al.linear_backward(two, "1"), [1.0, 1.0])):
    value = network(pixels).sum()
    (found,) = torch.autograd.grad(value, pixels)
    assert value == 2 and found.flatten().tolist() == wanted

# %%
print(code_of(al.layers._Straight), code_of(al.layers._SkipGradient._decayed), sep="\n")

# %% [markdown]
# **The features.** Let $h(x)$ be what a layer makes of the image.
#
# - **ILA++** (intermediate level attack). A first run of I-FGSM gives a direction $w$ in the features, the sum of its iterates'
#   changes weighted by their losses; a second run, from $x$ again, raises $w \cdot h(x)$. `al.layers.ila_plus_plus`
# - **AA** (activation attack). No logit is looked at: raise $\|h(x) - h(x_0)\|_2$, $x_0$ the clean image, or lower the distance
#   to an image of the class wanted. `al.attacks.aa`
# - **ATA** (attention guided). Raise the loss, and change what the network attends to: $\ell(x) + \|H(x) - H(x_0)\|^2$, $H$ the
#   map of attention to the class. `al.attacks.ata`
# - **AoA** (attack on attention). Draw the attention from the class $y$ to the second one, $z$:
#   $\ell(x) + \log \|h(x, z)\|_1 - \log \|h(x, y)\|_1$, with $h(x, c)$ a heat map of class $c$. `al.attacks.aoa`
# - **LRS** (Lipschitz regularized surrogate, thesis chapter 4). The surrogate itself is fine-tuned to be smooth.
#   `al.models.load("cifar10/densenet-lrs2")`


# %%
def heat(x, y):
    """What speaks for class y: gradient of its logit times input, where positive."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(plain(x).gather(1, y[:, None]).sum(), x)
    found = (slope * x).relu().sum(1, keepdim=True).detach()
    most = found.flatten(1).quantile(0.99, dim=1)[:, None, None, None]
    return (found / most).expand(-1, 3, -1, -1)


# %%
at = {"eps": budget, "steps": steps, "index": few.index, "seed": seed}
moved = {"MI-FGSM": al.attacks.mi_fgsm(plain, few.x, few.y, **at)}
moved["AoA"] = al.attacks.aoa(plain, few.x, few.y, **at)

# %%
rows = {"image": few.x, "speaks for its class": heat(few.x, few.y)}
rows |= {f"after {name}": heat(x, few.y) for name, x in moved.items()}
fig = al.plotting.gallery(rows, side=0.95)
al.plotting.save(fig, f"fig_A4_8_attention_{dataset}", RUN)
fig

# %% [markdown]
# *Where a small ResNet finds what speaks for the right class, before and after two attacks. Each map is bright where its
# own strongest hundredth is; how much speaks for the class in all, a map does not say.*
#
# By hand, with features $h(x) = Wx$, the distance of AA has the gradient $W^\top \frac{W(x - x_0)}{\|W(x - x_0)\|}$. At $x_0$ itself
# there is none, which is why the attack starts at a random point:

# %%
w = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
network[1].weight.data = w
elsewhere = start + torch.tensor([0.1, 0.0])
found = al.activation(network, "1", start)(elsewhere, label, al.draws.Draw(0, label))
features = w @ torch.tensor([0.1, 0.0])
assert torch.allclose(found.flatten(), w.T @ (features / features.norm()), atol=1e-5)

# %% [markdown]
# ### Several networks
#
# *The idea.* What fools two networks at once is likely to fool a third. But how should two opinions be put together?
#
# - **Ensembles**. The loss of the mean logits, $\ell(\frac{1}{K} \sum_k f_k(x))$; or of the mean probabilities; or the mean
#   of the losses. `al.ensemble([f, h])`, `al.ensemble([f, h], by="probabilities")`,
#   `al.averaged([al.gradient(f), al.gradient(h)])`
# - **SVRE** (stochastic variance reduced ensemble). Networks disagree, and the mean hides by how much. Between two steps of the ensemble, it walks
#   along single networks from $x_t$, each corrected by how it differs: $g_k(z) - g_k(x_t) + g(x_t)$. `al.attacks.svre`
# - **LGV** (large geometric vicinity). Another network in each step, $g_{k(t)}(x_t)$, of some that were collected along a fine-tuning with a high
#   learning rate. `al.training.collect`, `al.attacks.lgv`
# - **Bayesian substitute**. The same with networks drawn from a normal distribution of weights around the mean of a
#   flat fine-tuning. `al.training.posterior`
#
# By hand: the first network is certain, with a margin of 8 logits that falls steeply along the way; the second is unsure, and its margin
# falls slowly.

# %%
z = torch.linspace(0, 1, 101)
margins = torch.stack([8 - 12 * z, 1 - 2 * z])
loss_of = torch.nn.functional.softplus  # of minus the margin, for two classes
p = torch.sigmoid(margins)
lines = dict(zip(("certain network", "unsure network"), loss_of(-margins), strict=True))
means = {"mean of logits": loss_of(-margins.mean(0))}
means |= {"of probabilities": -p.mean(0).log(), "of losses": loss_of(-margins).mean(0)}

# %%
panels = {"two networks": lines, "both together": means}
for title, of in panels.items():
    panels[title] = {name: (z.tolist(), v.tolist()) for name, v in of.items()}
fig = al.plotting.curves(panels, "along the attack", "loss (nats)")
al.plotting.save(fig, "fig_A4_9_ensembles", RUN)
fig

# %% [markdown]
# *Left: the loss of each of two networks along the attack. Right: three ways to put them together. They agree in where they
# lead, and differ in which network they listen to.*
#
# At the start, how much does each listen to the certain network? The mean of the logits takes half of its slope. The other two
# follow each network's own loss, and the loss of a network that is certain is flat: they hardly hear it.


# %% tags=["nbval-check-output"]
def heard(loss):
    """The certain network's part in the gradient at the start."""
    at = torch.tensor([8.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(at), at)
    return (slope[0] / slope.sum()).item()


parts = {"logits": heard(lambda m: loss_of(-m.mean()))}
parts["probabilities"] = heard(lambda m: -torch.sigmoid(m).mean().log())
parts["losses"] = heard(lambda m: loss_of(-m).mean())
assert parts["logits"] == 0.5 and max(parts["probabilities"], parts["losses"]) < 0.01
print({name: round(part, 3) for name, part in parts.items()})

# %%
print(code_of(al.VarianceReduced.update))

# %% [markdown]
# ### The question
#
# *The idea.* No surrogate at all: the target itself is asked, many times. Some targets say their scores, others only
# an answer.
#
# - **NES** (natural evolution strategies). The gradient from differences of scores,
#   $\frac{1}{2 \sigma N} \sum_i (\ell(x + \sigma u_i) - \ell(x - \sigma u_i))\, u_i$, with normal $u_i$.
#   `al.attack(x, y, al.queries.nes(h), eps=8 / 255)`
# - **NAttack**. The mean of a normal distribution is learned from scores, until its samples are adversarial.
#   `al.queries.nattack`
# - **Boundary**. A walk along the decision boundary toward the clean image, from answers alone. `al.decisions.boundary`
# - **Sign Flip**. Random signs of the change are flipped while it shrinks. `al.decisions.sign_flip`

# %%
print(code_of(al.queries.antithetic))

# %% [markdown]
# By hand, on two pixels and the loss $3 z_1 - z_2$: a pair of questions along $u = (1, 1)$ finds the slope 2, and says $(2, 2)$. Along
# $u = (1, -1)$ it finds 4, and says $(4, -4)$. The mean of the two is the gradient, $(3, -1)$.

# %%
slant = lambda z: z.flatten(1) @ torch.tensor([3.0, -1.0])  # noqa: E731
ways = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).view(2, 1, 1, 2)
said = al.queries.antithetic(slant, start.repeat(2, 1, 1, 1), ways, sigma=0.1)
assert torch.allclose(said.mean(0).flatten(), torch.tensor([3.0, -1.0]), atol=1e-4)

# %% [markdown]
# Two questions a pixel are enough on two pixels. An image has thousands. How well does the answer point along the true
# gradient?

# %%
PAIRS = (5, 25, 100) if scale == "smoke" else (5, 25, 100, 500)
true = g(few.x, few.y, draw).flatten(1)
cosines = []
for pairs in PAIRS:
    guess = al.queries.nes(plain, pairs=pairs)(few.x, few.y, draw).flatten(1)
    cosines.append(torch.cosine_similarity(guess, true).mean().item())
panels = {f"{true.shape[1]:,} values": {"NES": ([2 * k for k in PAIRS], cosines)}}
names = "questions in a step", "cosine with the gradient"
fig = al.plotting.curves(panels, *names, xscale="log", ylim=(0, 1))
al.plotting.save(fig, f"fig_A4_10_questions_{dataset}", RUN)
fig

# %% [markdown]
# *How well NES finds the gradient, by the number of its questions. Even with many it points only roughly along it. A sign
# step forgives that.*
#
# ### The smallest change
#
# *The idea.* Not the largest loss in a ball, but the shortest way out of the class. These attacks have no row in the
# leaderboard; the question is another one.
#
# - **L-BFGS**, after the optimizer. Minimise $\|x' - x\|_2^2 + c \, \ell(x')$ inside $[0, 1]$; search for the smallest $c$ that succeeds. `al.minimum_norm.lbfgs`
# - **C&W** (Carlini and Wagner). The same with the margin in place of the loss, so that nothing is gained by being wrong
#   with certainty: $\|x' - x\|_2^2 + c \max(\kappa - \text{margin}, 0)$. `al.carlini_wagner`
# - **JSMA** (Jacobian saliency map). Change as few values as possible, each all the way: those that most raise the class wanted and lower the
#   others. `al.saliency.jsma`
#
# By hand, for a linear network the shortest way out goes straight to the line where the two logits are equal. Its length is
# the margin over the length of the weights.

# %%
network[1].weight.data = torch.tensor([[0.0, 0.0], [2.0, -1.0]])
margin = 2 * 0.45 - 0.5
out = al.carlini_wagner(network, start, torch.tensor([1]), steps=400, kappa=0.0)
length = al.norms.l2_norm(out - start).item()
assert abs(length - margin / 5**0.5) < 0.01

# %%
shortest = {"PGD": al.attacks.pgd(plain, few.x, few.y, eps=budget, steps=steps)}
shortest["C&W"] = al.carlini_wagner(plain, few.x, few.y, steps=50, searches=3)
shortest["L-BFGS"] = al.lbfgs(plain, few.x, few.y, steps=30, searches=5)
most = min(0.145, 400 / few.x[0].numel())
shortest["JSMA"] = al.jsma(plain, few.x, few.y, gamma=most, pairs=False)

# %%
rows, notes = {"image": few.x}, {}
for name, x in shortest.items():
    change = x - few.x
    rows[name] = (0.5 + (2 if name == "JSMA" else 10) * change).clamp(0, 1)
    lengths = al.norms.l2_norm(change).flatten().tolist()
    notes[name] = [f"{length:.2f} long" for length in lengths]

# %%
fig = al.plotting.gallery(rows, notes=notes, side=0.95)
al.plotting.save(fig, f"fig_A4_11_smallest_{dataset}", RUN)
fig

# %% [markdown]
# *The change that each makes, on grey, ten times as strong (JSMA twice), and its $L_2$ length. PGD changes every value by
# as much as it may; C&W and L-BFGS change little and where it counts; JSMA changes few values, all the way.*
#
# ## What an honest comparison is
#
# *Equal cost.* An attack that reads twenty gradients a step should be compared with what twenty gradients buy elsewhere. The
# unit here is a *pass*: one network, run forward and backward for one image. Seconds depend on the machine, passes do not.
#
# *The same images, in pairs.* Two attacks meet the same images. Most of these fall to both, or to neither, and say nothing about
# which is better. Only where the two disagree is there evidence. An interval of the *difference*, from the pairs, is therefore far
# narrower than those of the two rates.
#
# By hand, a hundred images: both attacks succeed on sixty of them, only A on ten, only B on two.

# %% tags=["nbval-check-output"]
a = torch.tensor([True] * 70 + [False] * 30).numpy()
b = torch.tensor([True] * 60 + [False] * 10 + [True] * 2 + [False] * 28).numpy()
apart = al.intervals.newcombe(int(a.sum()), 100, int(b.sum()), 100)
points_ahead, *in_pairs = al.intervals.paired_difference(a, b)
print(f"{points_ahead:.0f} points ahead")
for name, ends in {"as if of two samples": apart, "in pairs": in_pairs}.items():
    print(f"{name}: {ends[0]:.0f} to {ends[1]:.0f}")
assert in_pairs[0] > 0 > apart[0]

# %% [markdown]
# *Like with like.* Undefended, adversarially trained and defended targets stand apart, since attacks change places between them.
# And what is chosen, such as a layer, is chosen on validation images.

# %% [markdown]
# ## The leaderboard
#
# One surrogate, all attacks, the same images. Every attack that takes steps takes ten, except RAP, which has forty at laptop
# scale, a tenth of its paper's. What was paid once, for fine-tuning a surrogate or collecting networks, is not counted.
#
# ### On CIFAR-10
#
# The committed run, laptop scale: only images that every network gets right, six hundred of them.

# %%
TABLES = {
    "the step": "A4.1",
    "the gradient": "A4.2",
    "the input": "A4.3",
    "the network": "A4.4",
    "several networks": "A4.5",
    "a better surrogate": "A4.6",
}


# %%
def kept(dataset):
    """The committed rows of a data set by branch, of the branches that there are."""
    there = {}
    for branch, table in TABLES.items():
        rows = al.results.committed(table, "laptop", dataset)
        if rows is not None:
            there[branch] = al.results.mark_white_box(rows[rows.metric == "asr"])
    return there


on_cifar, on_imagenet = kept("cifar10"), kept("imagenet")


# %%
def leaderboard(tables, budget, kinds=("undefended", "defended")):
    """Success against passes of all attacks, a panel for each kind of target."""
    panels, bands = {kind: {} for kind in kinds}, {kind: {} for kind in kinds}
    for rows in tables.values():
        gains = al.claims.gains(rows, rows.attack.iloc[0])
        chosen = gains[(gains.eps_255 == budget) & gains.kind.isin(kinds)]
        for row in chosen.itertuples():
            panels[row.kind].setdefault(row.attack, (row.passes, row.value))
            interval = al.intervals.wilson(round(row.value / 100 * row.n), row.n)
            bands[row.kind].setdefault(row.attack, interval)
    there = {kind: points for kind, points in panels.items() if points}
    return al.plotting.front(there, bands, "passes per image", "black-box success (%)")


# %%
fig = leaderboard(on_cifar, 4.0)
al.plotting.save(fig, "fig_A4_3_leaderboard_committed", RUN)
fig

# %% [markdown]
# *CIFAR-10 at 4/255: the picture at the head of this page. Filled and named: the front, which no cheaper attack
# reaches.* At twice the budget there is less room at the top:

# %%
fig = leaderboard(on_cifar, 8.0)
al.plotting.save(fig, "fig_A4_12_leaderboard_committed_8", RUN)
fig

# %% [markdown]
# *CIFAR-10 at 8/255. On undefended targets most attacks are above eighty percent. On defended ones the smooth
# surrogates stand apart.*
#
# Some of the attacks in numbers. In brackets the points above MI-FGSM from the same surrogate, or above PGD for a smooth one, with their
# 95 % interval from the pairs; ▲ or ▼ where it leaves out 0.

# %%
SOME = ["MI-FGSM", "PGD", "EM-FGSM, ball", "VNI-FGSM", "EMI-FGSM", "PGN", "RDIM"]
SOME += ["ILA++", "ensemble, logits", "SVRE", "PGD, DenseNet", "PGD on LRS-2"]


def compared(tables, budget):
    """Success and points above the first row of each branch, for all branches."""
    parts = [rows[rows.eps_255 == budget] for rows in tables.values()]
    found = pd.concat([book.gains(rows, rows.attack.iloc[0]) for rows in parts])
    return found[~found.index.duplicated()]


compared(on_cifar, 4.0).loc[SOME]

# %% [markdown]
# At no cost beyond MI-FGSM's, PGD's longer steps and a look-ahead inside the ball gain on undefended targets. Points around the iterate gain as
# much, at many times the cost. Hardly anything fools the adversarially trained networks at this budget. At twice the
# budget the order is nearly the same:

# %% tags=["hide-output"]
compared(on_cifar, 8.0).loc[SOME]

# %% [markdown]
# All rows are folded here:

# %% tags=["hide-output"]
compared(on_cifar, 4.0)

# %% [markdown]
# How much do pairs narrow an interval? NI-FGSM beside MI-FGSM on undefended targets:

# %%
pair = on_cifar["the step"].query("eps_255 == 4 and attack in ['MI-FGSM', 'NI-FGSM']")
pair = pair[~pair.white_box & (pair.target.map(al.published.kind) == "undefended")]
each = al.results.black_box(pair)
unpaired = al.intervals.difference(each.loc["NI-FGSM"], each.loc["MI-FGSM"])
in_pairs = al.differences.between(pair, "NI-FGSM", "MI-FGSM")[:3]
heads = ["points ahead", "95 %, from", "95 %, to"]
both = {"as if of two samples": unpaired, "in pairs": in_pairs}
pd.DataFrame(both, heads).T.round(1)

# %% [markdown]
# As two samples the difference would be open. In pairs it is clear.

# %%
if on_imagenet:
    display(Markdown("**Committed run** on ImageNet-compatible photographs"))
    display(compared(on_imagenet, 16.0))

# %% [markdown]
# ### The run that you repeat
#
# All rows take hours on ImageNet: `-p attacks=DIM,SIM,EM-FGSM*` chooses some. Those that the others are compared with are always
# there.

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
}

# %%
STEP |= {
    "VMI-FGSM": partial(A.vmi_fgsm, points=points, **T),
    "VNI-FGSM": partial(A.vni_fgsm, points=points, **T),
    "EMI-FGSM": partial(A.emi_fgsm, **T),
    "MI-FGSM, 2T": partial(A.mi_fgsm, steps=2 * steps),
    "MI-FGSM, 10T": partial(A.mi_fgsm, steps=10 * steps),
}

# %%
backward = partial(al.norm_penalty, difference="backward")
noisy = {"points": points, "momentum": al.Elastic(1.0)}
GRADIENT = mi | {
    "GNP": partial(A.mi_fgsm, **al.GNP, **T),
    "GNP, backward": partial(A.mi_fgsm, wrap=backward, **T),
    "PGN": partial(A.pgn, points=points, **T),
    "noise-averaged": partial(A.smoothed_gradient, **noisy, **T),
    "TAIG-S": partial(A.taig, points=points, **T),
    "RAP": partial(A.rap, steps=RUN["rap"], late=RUN["rap"] // 4),
}

# %%
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
LATER = (*INSIDE, "SGM", "ghosts, dropout", "ghosts, skips", "AoA", "ensemble, logits")
LATER += ("ensemble, probabilities", "ensemble, losses", "SVRE", "LGV", "Bayesian")
LATER += ("PGD on LRS-1", "PGD on LRS-2", "PGD on LRS-F")
for pattern in attacks:
    rows = *STEP, *GRADIENT, *INPUT, *LATER
    if not any(fnmatchcase(name, pattern) for name in rows):
        raise ValueError(f"attacks: {pattern!r} is no row of the leaderboard")


# %%
def chosen(name):
    """Whether the run is to measure a row."""
    return not attacks or any(fnmatchcase(name, pattern) for pattern in attacks)


def wanted(rows):
    """Those of a branch that are chosen, and the first, to compare them with."""
    first = next(iter(rows))
    kept = [name for name in rows if name == first or chosen(name)]
    return {name: rows[name] for name in kept}


# %%
tables = {
    "the step": book.measure("A4.1", wanted(STEP), {source: f}),
    "the gradient": book.measure("A4.2", wanted(GRADIENT), {source: f}),
    "the input": book.measure("A4.3", wanted(INPUT), {source: f}),
}

# %% [markdown]
# Four of the attacks inside the network need a layer. It is chosen on validation images, by the mean success on undefended
# targets.


# %%
def inside(layer):
    """Attacks at one layer of the surrogate."""
    straight = al.linear_backward(plain, f"{layer}.{first}")
    twice = partial(al.layers.ila_plus_plus, steps=steps, refine=steps)
    return {
        "LinBP": al.evaluation.OnNetwork(partial(A.mi_fgsm, **T), straight),
        "ILA++": partial(twice, layer=layer),
        "AA": partial(A.aa, layer=layer, **T),
        "ATA": partial(A.ata, layers=layer, **T),
    }


# %%
validated = {**config, "split": "validation"}
on_val = replace(book, models=models, images=val, eps_255=eps_255[:1], config=validated)
best_layer, names = {}, [*filter(chosen, INSIDE)]
if names:
    pairs = [(name, layer) for layer in layers for name in names]
    grid = {f"{name}, {layer}": inside(layer)[name] for name, layer in pairs}
    found = on_val.measure("A4.4", grid, {source: plain}, stem="table_A4_4_validation")
    mean = al.results.black_box(found[found.metric == "asr"]).value
    of = {name: lambda layer, name=name: mean[f"{name}, {layer}"] for name in names}
    best_layer = {name: max(layers, key=of[name]) for name in names}
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
# The ensembles add a second network, the DenseNet, which therefore is no target of theirs. LGV and the Bayesian substitute have one
# network to start from, and fine-tune it: at laptop scale for one epoch, where the papers have ten.


# %%
def in_turn(model, x, y, eps, **options):
    """Another member of an ensemble in each step."""
    return A.lgv(list(model.members), x, y, eps, momentum=al.Elastic(1.0), **options)


def by_losses(model, x, y, eps, **options):
    """The mean of the members' losses, where an ensemble averages logits."""
    g = al.averaged([al.gradient(member) for member in model.members])
    return al.attack(x, y, g, eps=eps, momentum=al.Elastic(1.0), **options)


# %%
h = al.accelerate(models[second], dtype=dtype)
both = al.ensemble([f, h])
by_probabilities = al.ensemble([f, h], by="probabilities")
MANY = mi | {
    "ensemble, logits": on(partial(A.mi_fgsm, **T), both),
    "ensemble, probabilities": on(partial(A.mi_fgsm, **T), by_probabilities),
    "ensemble, losses": on(partial(by_losses, **T), both),
    "SVRE": on(partial(A.svre, **T), both),
}

# %%
train = al.datasets.load(taught, "train", RUN["n_tuning"] or None)
held_back = al.datasets.load(taught, "val", n_val)
tuning = {"epochs": epochs, "seed": seed}
if photographs or RUN["batch"]:
    tuning["batch_size"] = 16 if photographs else RUN["batch"]
taken = {"per_epoch": max(1, RUN["networks"] // epochs), **tuning}


def drawn():
    """Networks of the Bayesian substitute."""
    around = al.training.posterior(plain, train, held_back, **tuning)
    return around.samples(RUN["networks"], seed)


# %%
collect = partial(al.training.collect, plain, train, held_back, **taken)
NETWORKS = {"LGV": collect, "Bayesian": drawn}
for name in filter(chosen, NETWORKS):
    MANY[name] = on(partial(in_turn, **T), al.ensemble(NETWORKS[name]()))
rest = {name: model for name, model in book.models.items() if name != second}
others = replace(book, models=rest)
tables["several networks"] = others.measure("A4.5", wanted(MANY), {source: f})

# %% [markdown]
# Chapter 4 fine-tunes a DenseNet, and on ImageNet a SqueezeNet. Its smooth surrogates are attacked with PGD, as there, and are
# compared with PGD on the network that they were.


# %%
def smoothed(variant):
    """A surrogate of chapter 4, from the zoo; on ImageNet it is made in the run."""
    if not photographs:
        return al.models.load(f"{dataset}/{smooth}-{variant}")
    name = f"{dataset}/{smooth.rstrip('*')}"
    al.trainees.smoothed(name, RUN, [variant], seed)
    return al.surrogates.load(f"{name}-{variant}", RUN.weights)


# %%
LRS = {f"PGD, {'SqueezeNet' if photographs else 'DenseNet'}": partial(A.pgd, **T)}
for kind in ("LRS-1", "LRS-2", "LRS-F"):
    if chosen(f"PGD on {kind}"):
        network = smoothed(kind.lower().replace("-", "")).to(device)
        LRS[f"PGD on {kind}"] = on(partial(A.pgd, **T), network)

# %%
unsmooth = h if smooth == second else al.accelerate(models[smooth], dtype=dtype)
tables["a better surrogate"] = book.measure("A4.6", LRS, {smooth: unsmooth})

# %%
fig = leaderboard(tables, eps_255[0])
al.plotting.save(fig, f"fig_A4_2_leaderboard_{dataset}", RUN)
fig

# %% [markdown]
# *Figure A4.2. The same on the run that you repeat, at the first budget. Few images count, and the bars are wide: a collapse can be told
# from a success, and little else.*

# %% tags=["hide-output"]
for branch, rows in tables.items():
    display(Markdown(f"**{branch.capitalize()}** ({dataset}, {scale} scale)"))
    display(book.gains(rows, next(iter(rows.attack))))

# %% [markdown]
# What an attack costs besides its passes, such as other networks, or drawing and resizing, shows in its seconds:

# %% tags=["hide-output"]
parts = [part.drop_duplicates("attack") for part in tables.values()]
rows = pd.concat(parts).drop_duplicates("attack")
cost = rows.assign(milliseconds=1000 * rows.seconds / len(images)).set_index("attack")
heads = {"passes": "passes per image", "milliseconds": "ms per image"}
cost[[*heads]].rename(columns=heads).round(1).sort_values("passes per image")

# %% [markdown]
# ## Asking the target
#
# The target is the VGG (SqueezeNet 1.0 on ImageNet), and some images that it gets right. Boundary has no budget: it shrinks
# the change as far as its questions go; here it counts where that is within the ball.

# %%
judge = models[asked]
few = images[al.evaluation.predictions(judge, images) == images.y][: RUN["n_asked"]]
eps, limit = eps_255[0] / 255, RUN["queries"]
options = {"seed": seed, "index": few.index}
asking = {"eps": eps, "steps": max(1, limit // 50), "momentum": al.Elastic(1.0)}
nes = al.attack(few.x, few.y, al.queries.nes(judge), **asking, **options)

# %%
ask = {"eps": eps, "steps": max(1, limit // 100), "population": 100}
walk = {"steps": limit // 2, **options}
found = {
    "NAttack": al.queries.nattack(judge, few.x, few.y, **ask, **options),
    "Sign Flip": al.decisions.sign_flip(judge, few.x, few.y, eps=eps, **walk),
    "Boundary": al.decisions.boundary(judge, few.x, few.y, **walk),
}

# %%
asked_by_nes = torch.full_like(few.y, 50 * max(1, limit // 50))
fooled = {"NES": (judge(nes).argmax(1) != few.y, asked_by_nes, nes)}
for name, a in found.items():
    fooled[name] = judge(a.images).argmax(1) != few.y, a.queries, a.images
rows = {}
for name, (hit, queries, adv) in fooled.items():
    within = hit & ((adv - few.x).abs().amax((1, 2, 3)) <= eps + 1e-6)
    rows[name] = {f"within {eps_255[0]:g}/255 (%)": 100 * within.float().mean().item()}
    rows[name]["queries, median"] = queries.float().median().item()
    rows[name]["L2 distance, median"] = al.norms.l2_norm(adv - few.x).median().item()

# %%
said = f"{dataset}, {scale} scale, target {asked}, {len(few)} images"
display(Markdown(f"*{said}, up to about {limit} queries*"))
pd.DataFrame(rows).T.round(1)

# %% [markdown]
# Ten images and a thousand questions show how the attacks work, not how good they are. Published numbers take far more of
# both.

# %% [markdown]
# ## The optimizers
#
# Chapter 5's CR-SAM has relatives, most of which want SAM's flat minimum for less than SAM's two passes a step. Each is an
# optimizer around SGD (`al.sam`, `al.sam_family`) but SAF, which is a loss:
#
# - **SAM** (sharpness-aware minimization): the gradient at $w + \rho\, g / \|g\|$. **ASAM** (adaptive): the step scaled by the
#   weights, $\rho = 0.5$.
# - **CR-SAM** (curvature regularized, thesis chapter 5): three gradients, at $w$ and at $w \pm \rho\, g / \|g\|$.
# - **GSAM** (surrogate gap): SAM's gradient less a fifth of the part of $g$ at right angles to it, which lowers the
#   surrogate gap.
# - **LookSAM**: SAM every fifth step; in between its sideways part is reused.
# - **ESAM** (efficient): 60 % of the weights are perturbed, and the second pass sees the half of the batch whose loss
#   rose most.
# - **SSAM** (sparse): half of the weights, those of the largest Fisher information, are perturbed.
# - **AE-SAM** (adaptive policy): SAM where the gradient is long for its recent history, SGD elsewhere.
# - **SAF** (sharpness-aware for free): no second pass; the outputs are held near those of some epochs ago.
#
# Trained here from the same weights with the recipe of the zoo, one seed each, at laptop scale for two epochs. That shows
# what each *costs*; which is better needs whole trainings and several seeds (chapter 5 has three for its own). Networks for
# 32 pixels are trained, with `dataset="imagenet"` those of `shapes`.

# %%
VARIANTS = ("SAM", "ASAM", "CR-SAM", "GSAM", "LookSAM", "ESAM", "SSAM", "AE-SAM", "SAF")
OPTIMIZERS = {name: f"resnet-{name.lower().replace('-', '')}" for name in VARIANTS}
OPTIMIZERS = {"SGD": "resnet", **OPTIMIZERS}
small = "shapes" if photographs else dataset
lesson = al.datasets.load(small, "train", RUN["n_tuning"] or None)
check = al.datasets.load(small, "val", n_val)
start = partial(al.models.create, "resnet", "small", small)
fresh = lambda seed: start(seed=seed).to(device)  # noqa: E731
training = al.seeds.Trainings(fresh, lesson, check, RUN.checkpoints)
judged = al.datasets.load(small, "test", RUN["n_judged"]).to(device)
fields = {"epochs": RUN["trial"]} if RUN["trial"] else {}
few = judged[: RUN["n_sharp"]]


# %%
def sharp(net):
    """Accuracy; on a few images trace, C(w) and the rise of the loss in a box."""
    loss, weights = al.curvature.mean_loss(net.eval(), few), al.curvature.weights(net)
    trace = al.curvature.hutchinson_trace(loss, weights, probes=8, deflate=0).value
    slope = al.curvature.norm(al.curvature.gradient(loss, weights)).item()
    rise = al.sharpness.epsilon_sharpness(loss, weights, steps=5)
    found = {"accuracy (%)": 100 * al.training.accuracy(net, judged)}
    found |= {"Hessian trace": trace, "C(w)": trace / slope}
    return found | {"eps-sharpness (%)": 100 * rise}


# %%
rows = {}
for name, net in OPTIMIZERS.items():
    recipe = replace(al.recipes.recipe_for(f"{small}/{net}"), seed=seed, **fields)
    optimized, history = training(name, recipe)
    rows[name] = {"seconds": sum(row["seconds"] for row in history), **sharp(optimized)}
shown = pd.DataFrame(rows).T
seconds = shown.pop("seconds")
shown.insert(0, "time, SGD = 1", seconds / seconds["SGD"])
said = f"accuracy on {len(judged)} test images, the last three columns on {len(few)}"
display(Markdown(f"*{small}, {scale} scale, {said}*"))
shown.round(2)

# %% [markdown]
# SAF has not begun after so few epochs: it is SGD here. LookSAM does not learn on this page: it reuses a direction at a
# length that its paper chose for vision transformers.
#
# ## Which one, then?
#
# A transfer attack is a composition: a momentum, copies of the input, points around the iterate, a penalty. Here are some
# for several costs. They are compared on *validation* images and on
# *other targets* than those of the report. The best at each cost is what `al.attacks.recommended` says, and its expected
# success is that on the test images and the remaining targets.

# %%
print(code_of(al.attacks.compositions))

# %%
judges = {name: models[name] for name in chooses if name in models}
rest = {name: model for name, model in book.models.items() if name not in judges}
costs = (10, 50, 100)
if scale == "smoke" or dataset == "cifar10":
    costs = (10, 50) if scale == "smoke" else al.advice.PASSES
composed = [A.compositions(cost).items() for cost in costs]
candidates = {name: partial(attack, **T) for of in composed for name, attack in of}
judged_by = {source: models[source]} | judges
chosen_on = replace(book, models=judged_by, images=val, config=validated)

# %%
stem = "table_A4_7_validation"
validation = chosen_on.measure("A4.7", candidates, {source: f}, stem=stem)
reported = replace(book, models=rest).measure("A4.7", candidates, {source: f})


# %%
def best(cost, budget):
    """The composition of that cost with the highest mean success on validation."""
    kept = ~validation.white_box & (validation.metric == "asr")
    part = validation[kept & (validation.eps_255 == budget)]
    part = part[part.attack.isin(A.compositions(cost))]
    return part.groupby("attack").value.mean().idxmax()


found = {(cost, f"{eps:g}/255"): best(cost, eps) for cost in costs for eps in eps_255}
found = pd.Series(found, name="best on validation images")
found.rename_axis(["passes", "budget"]).to_frame()

# %% [markdown]
# All candidates on test images and the remaining targets, beside plain MI-FGSM:

# %% tags=["hide-output"]
replace(book, models=rest).gains(reported, next(iter(candidates)))

# %%
advice = {passes: al.attacks.recommended(passes) for passes in al.advice.PASSES}
rows = {}
for passes, a in advice.items():
    rows[passes] = {"composition": a.name, "its passes": a.passes}
    rows[passes] |= {kind: round(rate, 1) for kind, rate in a.success.items()}
one = advice[10]
said = f"{one.dataset}, {one.scale} scale, {one.eps_255:g}/255, {one.n} images"
display(Markdown(f"*{said}*"))
pd.DataFrame(rows).T.rename_axis("at most so many passes")

# %% [markdown]
# *What `al.attacks.recommended` says, from the committed CIFAR-10 run: success (%) per kind of target.* More than ten passes a
# step bring nothing here, and the advice does not spend them. On other networks and images expect the order, not the
# numbers.
#
# ## Three findings
#
# From the CIFAR-10 rows at 4/255. The order at twice the budget is nearly the same.
#
# 1. **The cheapest things are among the best.** PGD's longer steps, and a look-ahead that stays inside the ball, cost no more
#    than MI-FGSM, and on undefended targets they gain as much as many points around the iterate do. A line of points along the last gradient
#    (EMI) gains a little more. Ten times as many steps bring hardly anything.
# 2. **Another network is worth more than another attack.** On undefended targets the mean of two networks' logits gains more than any trick on one,
#    and SVRE more than that. On secured targets a smoother surrogate gains most, and LRS-2 loses nothing elsewhere.
# 3. **What changes the image loses on 32 pixels,** and the more it changes it the more. These transforms were made for
#    photographs. Behind a defence those that resize (DIM, RDIM) gain.
#
# **How sure is that?** The intervals are those of the images. The surrogate is one small ResNet, and the constants are those of
# the papers, for ImageNet: not every method is at its best here. RAP has a tenth of its steps, and LGV and the Bayesian substitute a tenth of their fine-tuning.
# The form of AoA was chosen among several on test images of CIFAR-10, because the first ones failed.
#
# ## Summary
#
# - Every attack is a step, a gradient, an input, a network, or several of each. In `advlib` these are values that compose.
# - What an attack costs belongs beside what it does, on the same images, with an interval from the pairs. The front is
#   short.
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
# - C. Szegedy et al., *Intriguing properties of neural networks* (L-BFGS), ICLR 2014.
# - I. J. Goodfellow et al., *Explaining and harnessing adversarial examples* (FGSM), ICLR 2015.
# - A. Kurakin et al., *Adversarial examples in the physical world* (I-FGSM), ICLR 2017, workshop track.
# - N. Carlini, D. Wagner, *Towards evaluating the robustness of neural networks* (C&W), IEEE S&P 2017.
# - Y. Liu et al., *Delving into transferable adversarial examples and black-box attacks* (ensembles), ICLR 2017.
# - A. Madry et al., *Towards deep learning models resistant to adversarial attacks* (PGD), ICLR 2018.
# - Y. Dong et al., *Boosting adversarial attacks with momentum* (MI-FGSM), CVPR 2018.
# - C. Xie et al., *Improving transferability of adversarial examples with input diversity* (DIM), CVPR 2019.
# - Y. Dong et al., *Evading defenses to transferable adversarial examples by translation-invariant attacks* (TIM),
#   CVPR 2019.
# - J. Lin et al., *Nesterov accelerated gradient and scale invariance for adversarial attacks* (NI-FGSM, SIM), ICLR 2020.
# - X. Wang et al., *Admix: enhancing the transferability of adversarial attacks*, ICCV 2021.
# - Y. Huang, A. W. K. Kong, *Transferable adversarial attack based on integrated gradients* (TAIG), ICLR 2022.
# - Z. Qin et al., *Boosting the transferability of adversarial attacks with reverse adversarial perturbation* (RAP),
#   NeurIPS 2022.
# - Y. Guo et al., *Backpropagating linearly improves transferability of adversarial examples* (LinBP), NeurIPS 2020.
# - D. Wu et al., *Skip connections matter: on the transferability of adversarial examples generated with ResNets* (SGM),
#   ICLR 2020.
# - Y. Guo et al., *An intermediate-level attack framework on the basis of linear regression* (ILA++), 2022.
# - X. Wang, K. He, *Enhancing the transferability of adversarial attacks through variance tuning* (VMI, VNI), CVPR 2021.
# - X. Wang et al., *Boosting adversarial transferability through enhanced momentum* (EMI), BMVC 2021.
# - Y. Xiong et al., *Stochastic variance reduced ensemble adversarial attack for boosting the adversarial transferability*,
#   CVPR 2022.
# - Z. Ge et al., *Boosting adversarial transferability by achieving flat local maxima* (PGN), NeurIPS 2023.
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
# - P. Foret et al., *Sharpness-aware minimization for efficiently improving generalization* (SAM), ICLR 2021.
# - J. Kwon et al., *ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural networks*,
#   ICML 2021.
# - Y. Liu et al., *Towards efficient and scalable sharpness-aware minimization* (LookSAM), CVPR 2022.
# - J. Du et al., *Efficient sharpness-aware minimization for improved training of neural networks* (ESAM), ICLR 2022.
# - P. Mi et al., *Make sharpness-aware minimization stronger: a sparsified perturbation approach* (SSAM), NeurIPS 2022.
# - J. Du et al., *Sharpness-aware training for free* (SAF), NeurIPS 2022.
# - W. Jiang et al., *An adaptive policy to employ sharpness-aware minimization* (AE-SAM), ICLR 2023.
# - J. Zhuang et al., *Surrogate gap minimization improves sharpness-aware training* (GSAM), ICLR 2022.
# - W. Chen et al., *Boosting decision-based black-box adversarial attacks with random sign flip*, ECCV 2020.
