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
# # 1. Adversarial examples
#
# How is an adversarial image made, if one may look inside the network? And which of these images fool another network, into
# which one may not look?
#
# ![Three panels of loss against the step of the attack, on a logarithmic axis. On the surrogate all curves climb steeply; the iterative attacks get to about twenty nats and FGSM stays below ten. On two targets the same images climb later and less, and FGSM is again the lowest.](../figures/01/fig_1_3_loss_path_cifar10.svg)
#
# *CIFAR-10, laptop scale, a budget of eight levels, mean over 50 images: the loss of a small ResNet, the surrogate, and of two targets while the
# surrogate is attacked. The scale is logarithmic.*
#
# - **What is asked.** Which attacks are there, how does each work, and do they carry over?
# - **What the thesis says.** It builds on MI-FGSM and NI-FGSM. Momentum and looking ahead are reported to make images that
#   transfer better than plain steps do.
# - **What we find.** On CIFAR-10 ten small steps are clearly better than one large step, on other networks too. The attacks
#   of ten steps cannot be told apart with the images that we have.
#
# This is chapter 1 of the thesis (Wu 2024). The known answers, from one signed step to the method of Carlini & Wagner, are
# a few lines each. The chapter derives them, tests each on two pixels, and runs them on real networks. The run that you
# repeat is on `shapes`, the built-in teaching set, and this page was executed on it.
#
# The symbols are those of the thesis: $x$ a clean image, $y$ its class, $f$ the network with weights $\theta$, $\ell$ the
# cross-entropy loss, $\epsilon$ the budget, $\alpha$ the size of a step, $T$ the number of steps, $\mu$ the decay of the
# momentum.

# %% tags=["parameters"]
scale: str = "laptop"  # how many images; one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10, cifar100 or imagenet
eps_255: float = 8.0  # budget: the largest change of a pixel, in 1/255; from 0 to 255
steps: int = 10  # steps T of the iterative attacks; at least 1
surrogate: str = ""  # the network that is attacked; the first of the zoo if empty
image: int = 0  # which image the pictures of a single image show; at least 0
seed: int = 0  # where all randomness comes from; at least 0

# %%
from functools import partial

import numpy as np
import pandas as pd
import torch

import advlib as al

# %%
SETTINGS = {
    "smoke": {"n": 8, "n_path": 8, "n_cw": 2, "cw_steps": 20, "cw_searches": 2,
              "grid": 7},
    "laptop": {"n": 100, "n_path": 50, "n_cw": 16, "cw_steps": 100, "cw_searches": 4,
               "grid": 25},
    "paper": {"n": 1000, "n_path": 1000, "n_cw": 200, "cw_steps": 500, "cw_searches": 9,
              "grid": 49},
}  # fmt: skip
RUN = al.chapters.begin("01", globals(), SETTINGS)
device, eps = RUN.device, eps_255 / 255
print(RUN)

# %%
source = "imagenet_compatible" if dataset == "imagenet" else dataset
data = al.datasets.load(source, "test", RUN["n"]).to(device)
models = al.models.zoo(dataset)
models = {k: net.to(device).requires_grad_(False) for k, net in models.items()}
surrogate = surrogate or next(iter(models))
f, targets = models[surrogate], [name for name in models if name != surrogate]
x, y, index = data.x, data.y, data.index
print(f"{scale} scale, {dataset}, {len(data)} test images. Surrogate: {surrogate}.")
print(f"Targets: {', '.join(targets)}.")

# %% [markdown]
# ## One picture
#
# The thesis opens with a pig that a network takes for an aeroplane. Here is ours: an image, what is added to
# it (ten times enlarged, around grey), and the sum, with what the surrogate says and how sure it is.

# %%
guesses = [al.evaluation.predictions(model, data) for model in models.values()]
right = torch.stack([guess == y for guess in guesses]).all(0)
found = f"image: {image}, but only {right.sum()} are right for all networks"
assert image < right.sum(), found
x1, y1, i1 = (t[right][image : image + 1] for t in (x, y, index))
adv1 = al.attacks.mi_fgsm(f, x1, y1, eps=eps, steps=steps, seed=seed, index=i1)


# %%
def says(one):
    """The answer of the surrogate, and how sure it is."""
    p, k = f(one).softmax(1).max(1)
    return f"{data.classes[k.item()]}, {100 * p.item():.0f} %"


panels = {"": torch.cat([x1, 0.5 + 10 * (adv1 - x1), adv1])}
titles = [says(x1), "ten times the change", says(adv1)]
fig = al.plotting.gallery(panels, titles=titles, side=1.8)
al.plotting.save(fig, f"fig_1_1_adversarial_example_{dataset}", RUN)
fig

# %% [markdown]
# ## The problem
#
# An adversarial example maximises the loss inside a ball around the clean image:
#
# $$\arg\max_{x^{adv}} \ell(x^{adv}, y; \theta), \quad \text{s.t. } \left\| x^{adv} - x \right\|_{\infty} \le \epsilon
# \tag{1.1}$$
#
# The norm is the largest change of any pixel: with $\epsilon = 8/255$ every pixel may move by eight of its levels. Two things
# are left out of the equation, and get forgotten. First, $x^{adv}$ must be an image, so that all its values lie in
# $[0, 1]$. Second, it is to be *misclassified*, $\arg\max f(x^{adv}) \ne y$; a high loss is only the means. (The thesis asks
# for $f(x^{adv}) \ne f(x)$. That is the same for images that $f$ gets right, and only those count.)
#
# ### The family tree
#
# Attacks differ in how they solve (1.1), and that depends on what they may see.

# %%
boxes = {  # text: place (column, row)
    "adversarial attack\nsolve eq. 1.1": (2, 3),
    "white-box\nsees the weights": (0.5, 2),
    "black-box\nsees answers, or nothing": (3, 2),
    "gradient\nFGSM, I-FGSM, PGD,\nMI-FGSM, NI-FGSM": (0, 1),
    "optimisation\nL-BFGS, C&W": (1, 1),
    "score-based\nsees probabilities": (2, 1),
    "decision-based\nsees the class": (3, 1),
    "transfer-based\nsees nothing": (4, 1),
    "a surrogate of one's own": (2, 0),
}

# %%
root, white, black, grad, opt, score, decision, transfer, own = boxes
arrows = [(root, white), (root, black), (white, grad), (white, opt)]
arrows += [(black, kind) for kind in (score, decision, transfer)]
borrowed = [(grad, own), (opt, own), (own, transfer)]
fig = al.plotting.diagram(boxes, arrows, borrowed, shaded=(transfer, own), width=8.6)
al.plotting.save(fig, "fig_1_2_family_tree", RUN)
fig

# %% [markdown]
# *Attacks by what they may see. Dashed: white-box attacks, run on a surrogate of one's own, become transfer-based ones.*
#
# *White-box* attacks see the weights. They follow the gradient of the loss, as the first five of this chapter do, or minimise
# an objective of their own (Szegedy et al. 2014; Carlini & Wagner 2017). *Black-box* attacks see less. Score-based ones ask
# the target for probabilities and estimate a gradient from them (Ilyas et al. 2018). Decision-based ones get the class only
# (Brendel et al. 2018).
#
# *Transfer-based* attacks, shaded, ask the target nothing. They attack a surrogate of their own and hand over the result.
# That needs the least knowledge, leaves no trace, and is the subject of the thesis. Every attack that it names is in this
# book: appendix A4 has a paragraph and a line of code for each, and one table for all.

# %% [markdown]
# ## A network to compute by hand
#
# Two pixels, two classes, one line between them: logits $(z, 0)$ with $z = w \cdot x + b$, so that the first
# class wins where $z > 0$. Anything that maps images to logits is a model here, also a plain function.

# %%
w, b = torch.tensor([3.0, -4.0]), 0.3
x2, y2 = torch.tensor([0.6, 0.4]).view(1, 1, 1, 2), torch.tensor([0])


def linear(images):
    z = images.flatten(1) @ w + b
    return torch.stack([z, torch.zeros_like(z)], 1)


# %% [markdown]
# At $x = (0.6, 0.4)$, $z = 1.8 - 1.6 + 0.3 = 0.5$. The loss is $\log(1 + e^{-z})$, and its gradient $-(1 -
# \mathrm{sigmoid}(z))\, w$. A *gradient function* of `advlib` maps (x, y, draw) to that, per image; `draw` is
# where random transforms get their numbers from, and nothing here uses it yet.

# %% tags=["nbval-check-output"]
nothing_random = al.draws.Draw(seed=0, index=torch.arange(1))
grad2 = al.gradient(linear)(x2, y2, nothing_random)
by_hand = -(1 - torch.sigmoid(torch.tensor(0.5))) * w
assert torch.allclose(grad2.flatten(), by_hand)
print("gradient", [round(v, 3) for v in grad2.flatten().tolist()])

# %% [markdown]
# ## FGSM: one step
#
# The fast gradient sign method (Goodfellow et al. 2015) spends the whole budget at once:
#
# $$x^{adv} = x + \epsilon \cdot \operatorname{sign}(\nabla_x \ell(x, y; \theta))$$
#
# Why the *sign*? If the loss were linear, the best change within $|\delta_i| \le \epsilon$ would be
# $\epsilon$ in every pixel, towards the gradient's sign: that is where $\nabla \ell \cdot \delta$ is largest.
# For our model $z$ falls by $\epsilon \|w\|_1$, here $7\epsilon$. So $\epsilon = 0.05$ does not suffice, and
# $\epsilon = 0.1$ does.

# %% tags=["nbval-check-output"]
for budget in (0.05, 0.1):
    adv2 = al.attacks.fgsm(linear, x2, y2, eps=budget)
    z = linear(adv2)[0, 0]
    assert torch.allclose(adv2.flatten(), x2.flatten() - budget * w.sign())
    assert torch.allclose(z, 0.5 - budget * w.abs().sum(), atol=1e-6)
    found = [round(v, 2) for v in adv2.flatten().tolist()]
    print(f"eps {budget}: x_adv {found}, z {z:+.2f}, fooled: {bool(z < 0)}")

# %% [markdown]
# For a linear model FGSM *solves* (1.1). Networks are only roughly linear, which is why one step goes a good
# part of the way and not all of it.
#
# ## I-FGSM: several steps
#
# The iterative version (Kurakin et al. 2017) looks at the gradient again after each of $T$ small steps:
#
# $$x_{t+1}^{adv} = x_t^{adv} + \alpha \cdot \operatorname{sign}(\nabla_{x_t^{adv}} \ell(x_t^{adv}, y; \theta)), \qquad
# x_0^{adv} = x, \quad \alpha = \epsilon / T \tag{1.2}$$


# %%
def equation_1_2(model, x, y, eps, T):
    """Eq. 1.2 to the letter."""
    adv, g, alpha = x, al.gradient(model), eps / T
    for _ in range(T):
        adv = adv + alpha * g(adv, y, nothing_random).sign()
    return adv


# %% [markdown]
# When does a second look help? When the loss is curved. Here is a loss of two pixels that falls with the first pixel, and rises
# again once that pixel has moved too far. The whole budget is a tenth:


# %%
def curved(images):
    """The line from before, bent along the first pixel."""
    a, b = (images.flatten(1) - x2.flatten()).unbind(1)
    z = 0.45 + 3 * a - 4 * b + 30 * a**2
    return torch.stack([z, torch.zeros_like(z)], 1)


straight = al.attacks.fgsm(curved, x2, y2, eps=0.1)
walk = [x2]
for t in range(1, 11):  # the first t of ten steps
    walk.append(al.attacks.i_fgsm(curved, x2, y2, eps=0.01 * t, steps=t))
assert curved(straight)[0, 0] > 0 > curved(walk[-1])[0, 0]

# %%
ticks = torch.linspace(-0.13, 0.13, 61)
grid = torch.cartesian_prod(ticks, ticks).flip(1)  # the first pixel moves fastest
around = (x2.flatten() + grid)[:, None, None]
heights = torch.nn.functional.softplus(-curved(around)[:, 0]).reshape(61, 61)
names = ("change of the first pixel", "change of the second pixel", "loss (nats)")
fig = al.plotting.surface(ticks, ticks, {"a curved loss": heights}, *names)

# %%
ax = fig.axes[0]
ends = {"FGSM": [x2, straight], "I-FGSM": walk}
for (name, found), colour in zip(ends.items(), ("#1b1b3a", "#c4453c"), strict=True):
    moves = (torch.cat(found).flatten(1) - x2.flatten()).T
    ax.plot(*moves, "o-", color=colour, ms=4, label=name)
ax.plot([-0.1, 0.1, 0.1, -0.1, -0.1], [-0.1, -0.1, 0.1, 0.1, -0.1], "w--")
ax.legend(loc="lower right", frameon=True)
fig.set_size_inches(6.4, 4.4)
al.plotting.save(fig, "fig_1_5_two_walks", RUN)
fig

# %% [markdown]
# *A curved loss of two pixels, and the ball (dashed). FGSM goes straight into the corner and does not fool this network.
# I-FGSM turns where the loss no longer rises to the left, and does.*
#
# With $\alpha = \epsilon / T$ the steps cannot add up to more than $\epsilon$: the ball takes care of itself.
# The range from black to white does not. Two pixels near black and near white show it: to the letter, the result is no
# image. `advlib` clips to the ball and then to $[0, 1]$ after *every* step, in all attacks.

# %% tags=["nbval-check-output"]
edge = torch.tensor([0.03, 0.97]).view(1, 1, 1, 2)
literal = equation_1_2(linear, edge, torch.tensor([0]), eps=0.1, T=5)
clipped = al.attacks.i_fgsm(linear, edge, torch.tensor([0]), eps=0.1, steps=5)
assert torch.allclose(literal.clamp(0, 1), clipped)
inside = al.attacks.i_fgsm(linear, x2, y2, eps=0.1, steps=5)
assert torch.allclose(equation_1_2(linear, x2, y2, 0.1, 5), inside)
print("to the letter", [round(v, 2) for v in literal.flatten().tolist()])
print("clipped      ", [round(v, 2) for v in clipped.flatten().tolist()])

# %% [markdown]
# With one step I-FGSM is FGSM. This one is worth checking on a network, bit for bit:

# %% tags=["nbval-check-output"]
few, few_y = x[:4], y[:4]
one_step = al.attacks.i_fgsm(f, few, few_y, eps=eps, steps=1)
assert torch.equal(one_step, al.attacks.fgsm(f, few, few_y, eps=eps))
print("I-FGSM with T = 1 is FGSM")

# %% [markdown]
# ## MI-FGSM: momentum
#
# The gradient of a network turns from step to step. MI-FGSM (Dong et al. 2018) steps along a decaying sum of
# all gradients so far, each divided by its length so that a large one does not drown the others:
#
# $$\begin{aligned}
# g_{t+1} &= \mu \cdot g_t + \frac{\nabla_{x_t^{adv}} \ell(x_t^{adv}, y; \theta)}
# {\|\nabla_{x_t^{adv}} \ell(x_t^{adv}, y; \theta)\|_1}, \qquad g_0 = 0 \\
# x_{t+1}^{adv} &= x_t^{adv} + \alpha \cdot \operatorname{sign}(g_{t+1})
# \end{aligned} \tag{1.3}$$
#
# In `advlib` the first half is `Elastic.accumulate`. Two gradients by hand: the second one turns the first pixel
# around, and the momentum does not follow at once.

# %% tags=["nbval-check-output"]
first = torch.tensor([2.0, -2.0]).view(1, 1, 1, 2)
second = torch.tensor([-1.0, -3.0]).view(1, 1, 1, 2)
momentum = {}
for normalize in ("mean", "l1"):
    rule = al.Elastic(mu=1.0, normalize=normalize)
    after_one = rule.accumulate(torch.zeros_like(first), first)
    momentum[normalize] = rule.accumulate(after_one, second)
    g = momentum[normalize].flatten()
    print(f"{normalize:4}: g is {g.tolist()}, the step goes to {g.sign().tolist()}")
print("the last gradient alone would go to", second.sign().flatten().tolist())
assert torch.equal(momentum["l1"] * 2, momentum["mean"])

# %% [markdown]
# The published code divides by the *mean* absolute value, the equation by the sum (`"l1"`). To MI-FGSM it makes no
# difference: the two differ by the number of pixels, which is the same factor for every $g_t$, and the sign stays.
#
# ## NI-FGSM: look one step ahead
#
# Nesterov's idea is to take the gradient where the momentum is about to lead. If the loss turns there, one knows it a step
# earlier. NI-FGSM (Lin et al. 2020) takes the gradient not at $x_t^{adv}$ but at
#
# $$\tilde{x}_t^{adv} = x_t^{adv} + \alpha \cdot \mu \cdot g_t \tag{1.4}$$

# %% tags=["nbval-check-output"]
nesterov = al.Elastic(mu=1.0, sigma=1.0)  # sigma: how many steps ahead
g1 = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
ahead = nesterov.look_ahead(x2, g1, alpha=0.02)
assert torch.allclose(ahead.flatten(), torch.tensor([0.62, 0.38]))
found = [round(v, 2) for v in ahead.flatten().tolist()]
print("from", [0.6, 0.4], "one step ahead:", found)

# %% [markdown]
# Here the sum in the denominator does matter: it makes $g_t$, and with it the look-ahead, smaller by the
# number of values in an image. After one step, how far ahead does each form look, on average per pixel?

# %% tags=["nbval-check-output"]
any_gradient = al.draws.Draw(seed, torch.arange(1)).normal(3, 32, 32)
zero = torch.zeros_like(any_gradient)
for normalize in ("mean", "l1"):
    rule = al.Elastic(mu=1.0, sigma=1.0, normalize=normalize)
    g1 = rule.accumulate(zero, any_gradient)
    far = rule.look_ahead(zero, g1, alpha=eps / steps).abs().mean() * 255
    step = f"a step is {eps_255 / steps:.1f}/255"
    print(f"{normalize:4}: {far:.4f}/255 per pixel; {step}")

# %% [markdown]
# To the letter, the look-ahead is 3,072 times shorter than a step, and NI-FGSM is almost MI-FGSM. The default of `advlib` is the mean, as in the published code; the letter is one keyword
# away, and chapter 2 measures the difference, because its own method looks further ahead still. Chapter 2's
# rule has all of the above as limits:

# %% tags=["nbval-check-output"]
same = {"eps": eps, "steps": steps}
em = partial(al.attacks.em_fgsm, f, few, few_y, **same)
i_fgsm = al.attacks.i_fgsm(f, few, few_y, **same)
mi_fgsm = al.attacks.mi_fgsm(f, few, few_y, **same)
assert torch.equal(em(mu=0.0, sigma=0.0), i_fgsm)
assert torch.equal(em(mu=1.0, sigma=0.0), mi_fgsm)
assert torch.equal(em(mu=1.0, sigma=1.0), al.attacks.ni_fgsm(f, few, few_y, **same))
print("no momentum is I-FGSM, sigma = 0 is MI-FGSM, sigma = mu is NI-FGSM")

# %% [markdown]
# ## PGD: project, and three meanings of a random start
#
# Projected gradient descent (Madry et al. 2018) takes longer steps than $\epsilon / T$ and *projects* back
# into the ball whenever they lead out of it; in the $L_\infty$ ball that is a clip. The name stands for three
# things in the literature, and the keyword `start` says which:
#
# - `"none"`: start at $x$. With $\alpha = \epsilon / T$ this is I-FGSM.
# - `"once"`: start at a random point of the ball. This is PGD as published, and the default.
# - `"every"`: start at $x$, but take each gradient at a fresh random point around the iterate.

# %% tags=["nbval-check-output"]
pgd = partial(al.attacks.pgd, f, few, few_y, eps=eps, steps=steps)
assert torch.equal(pgd(alpha=eps / steps, start="none"), i_fgsm)
print('start="none" with alpha = eps / T is I-FGSM')
thousand, classes = x2.expand(1000, -1, -1, -1), y2.expand(1000)
tiny = {"eps": 0.1, "steps": 1, "alpha": 1e-7}  # what comes back is the start
for start in ("none", "once", "every"):
    begin = al.attacks.pgd(linear, thousand, classes, start=start, **tiny)
    print(f"{start:5}: starts up to {(begin - x2).abs().max():.2f} from x")

# %% [markdown]
# ## C&W: the smallest change that works
#
# Carlini & Wagner turn the problem around. They fix the success and minimise the length of the change. The wish to succeed
# becomes a second term, with a weight $c$:
#
# $$\min_{x'} \; \|x' - x\|_2^2 + c \cdot \max\bigl(\kappa - m(x'),\, 0\bigr)$$
#
# $$m(x') = \max_{k \ne y} f_k(x') - f_y(x'), \qquad x' = \tfrac{1}{2} (\tanh v + 1)$$
#
# The *margin* $m$ is positive where the attack succeeds, and $\kappa$ asks for more than that. The tanh keeps $x'$ between
# black and white without any clipping, so that any optimizer can be used (here Adam). The best $c$ is different for every
# image. If it is too small, success is not worth the change; if it is too large, the length does not matter.
# `al.carlini_wagner` finds it for each image by bisection.
#
# For our line the answer is known: the shortest way to a line is its distance, $|z| / \|w\|_2 = 0.5 / 5 =
# 0.1$, along $w$. We ask for a margin of $\kappa = 0.01$ (the default: just past the line), that is $(0.5 +
# 0.01) / 5 = 0.102$.

# %% tags=["nbval-check-output"]
kappa = 0.01
cw2 = al.carlini_wagner(linear, x2, y2, kappa=kappa, steps=300, searches=8)
foot = x2.flatten() - (0.5 + kappa) * w / 25
distance, shortest = (cw2 - x2).norm(), (0.5 + kappa) / 5
assert linear(cw2).argmax() != y2 and shortest - 1e-5 < distance < 1.01 * shortest
assert torch.allclose(cw2.flatten(), foot, atol=0.004)
print(f"shortest {shortest:.3f}, found {distance:.3f}")
print("nearest point of the line", [round(v, 2) for v in foot.tolist()])

# %% [markdown]
# ## On networks: white-box and black-box
#
# All of them on the surrogate, and each result shown to every network. The first row is the control: a change
# of the same size, $\pm\epsilon$ in every pixel, with random signs. First the committed run on CIFAR-10:

# %%
rows = al.results.committed("1.1", "laptop", "cifar10").query("metric == 'asr'")
rows = al.results.mark_white_box(rows)
mean = al.results.black_box(rows).round(1)
found = rows.groupby("attack", sort=False).passes.first().astype(int).to_frame()
found["black-box success (%)"] = mean.value
found["from"], found["to (95 %)"] = mean.ci_low, mean.ci_high
images, count = rows.n.iloc[0], (~rows.drop_duplicates("target").white_box).sum()
print(f"Table 1.1, CIFAR-10, 8/255: {images} images, mean of {count} targets")
found.rename_axis(None)

# %% [markdown]
# *Random signs do little, one step does more, ten steps do most. Among the attacks of ten steps the intervals overlap.*
#
# And the run of this page:


# %%
def random_signs(model, x, y, eps, seed=0, index=None):
    """x + eps times signs drawn per pixel."""
    u = al.draws.Draw(seed, index, stream=99).uniform(*x.shape[1:])
    return (x + eps * (u - 0.5).sign()).clamp(0, 1)


# %%
iterative = {"I-FGSM": al.attacks.i_fgsm}
for start in ("none", "once", "every"):
    iterative[f"PGD, start {start}"] = partial(al.attacks.pgd, start=start)
iterative |= {"MI-FGSM": al.attacks.mi_fgsm, "NI-FGSM": al.attacks.ni_fgsm}
attacks = {"random signs": random_signs, "FGSM": al.attacks.fgsm}
attacks |= {name: partial(attack, steps=steps) for name, attack in iterative.items()}

# %%
book = al.experiment.Experiment(RUN, models, data, [eps_255], seed=seed)
rates = book.measure("1.1", attacks, {surrogate: f})
asr, asr_all = (rates[rates.metric == metric] for metric in ("asr", "asr_all"))

# %%
cells = [f"{r.value:.0f} [{r.ci_low:.0f}, {r.ci_high:.0f}]" for r in asr.itertuples()]
shown = asr.assign(cell=cells).pivot(index="attack", columns="target", values="cell")
shown = shown.loc[list(attacks), [surrogate, *targets]]
shown = shown.rename(columns={surrogate: f"{surrogate} (white-box)"})
shown.insert(0, "passes", asr.groupby("attack").passes.first().astype(int))

# %%
for name, part in (("black-box, asr", asr), ("black-box, asr_all", asr_all)):
    elsewhere = part[part.target != surrogate].groupby("attack").value
    shown[f"mean of {name}"] = elsewhere.mean().round().astype(int)
print(f"Success in percent, 95 % intervals; {dataset}, {scale} scale, {eps_255:g}/255.")
print(f"asr: {asr.n.iloc[0]} images that all networks get right; asr_all: {len(data)}.")
shown.rename_axis(index=None, columns=None)

# %% tags=["nbval-check-output"]
white = asr[asr.target == surrogate].set_index("attack").value
black = asr[asr.target != surrogate].groupby("attack").value.mean()
directed = [name for name in attacks if name != "random signs"]
ahead = all(white[a] >= white["FGSM"] for a in directed)
below = all(black[a] <= white[a] for a in directed)
print("white-box, each attack at least as good as FGSM:", ahead)
print("black-box, the weakest of all:", black.idxmin())
print("black-box is below white-box for every attack:", below)

# %% [markdown]
# **How to read it.**
#
# - *Noise is not an attack.* Random signs change a pixel by as much as FGSM does, and far fewer answers: on
#   `shapes` hardly any, on CIFAR-10 some (run this chapter there and see). It is the direction that counts.
# - *White-box, steps help.* One pass takes FGSM most of the way; ten passes take any of the others further.
# - *Black-box, everything is lower.* The order of the attacks need not be that of the white-box column: what
#   fits the surrogate best does not always carry over best. Before you call one attack better than another,
#   look whether the interval of their *difference* leaves out 0.
# - *Momentum costs nothing*: MI- and NI-FGSM need as many passes as I-FGSM. On ImageNet Dong et al. (2018)
#   gain a lot by it. In the committed run of this page (shapes, laptop scale) it gains nothing, so do not
#   take it for a law; chapter 2 asks again, on real images.
# - *Step size and start are two things.* The three rows of PGD take steps of $2.5\,\epsilon / T$, I-FGSM of
#   $\epsilon / T$. "PGD, start none" and I-FGSM differ in nothing else: compare these two before you credit
#   the random start.
# - *The two denominators* differ most where the targets are weak: their own mistakes count in `asr_all`, also
#   in the row of the control, which fools nobody.

# %% [markdown]
# ## Loss along the path
#
# Where does the black-box side stay behind? `al.attack` is a loop over `al.loop.step`; here the loop is
# written out, so that we can stop after every step and ask all networks for their loss. FGSM's path is the
# straight line to its end point.

# %%
kept = data[right]  # right for all networks
walk = kept[: RUN["n_path"]]
draw = al.draws.Draw(seed, walk.index)
ball = al.balls.LinfBall.around(walk.x, eps, alpha=eps / steps)


# %%
def path(rule):
    """x_0, x_1, ..., x_T."""
    adv, g, state = walk.x, al.gradient(f), rule.init(walk.x)
    yield adv
    for t in range(steps):
        adv, state = al.loop.step(adv, state, walk.y, g, draw.at(step=t), rule, ball)
        yield adv


# %%
@torch.no_grad()
def mean_loss(model, images):
    return torch.nn.functional.cross_entropy(model(images), walk.y).item()


end = al.attacks.fgsm(f, walk.x, walk.y, eps=eps)
paths = {"FGSM": [torch.lerp(walk.x, end, t / steps) for t in range(steps + 1)]}
rules = {"I-FGSM": al.Elastic(mu=0.0), "MI-FGSM": al.Elastic(mu=1.0)}
rules["NI-FGSM"] = nesterov
paths |= {name: list(path(rule)) for name, rule in rules.items()}

# %%
look_at = {f"{surrogate} (white-box)": f}
look_at |= {name: models[name] for name in targets[:2]}
losses, at = {}, range(steps + 1)
for title, model in look_at.items():
    losses[title] = {}
    for name, images in paths.items():
        losses[title][name] = at, [mean_loss(model, part) for part in images]

# %%
labels = {"xlabel": "step t", "ylabel": "mean cross-entropy (nats)"}
fig = al.plotting.curves(losses, **labels, yscale="log")
print(f"{scale} scale, {dataset}, eps {eps_255:g}/255, {len(walk)} images")
al.plotting.save(fig, f"fig_1_3_loss_path_{dataset}", RUN)
fig

# %% [markdown]
# *Mean loss over images that all networks get right, on a logarithmic axis, while the first network is attacked. A network
# that guesses among ten classes has a loss of 2.3 nats.*
#
# On each network all paths start at the same small loss, and the first steps are nearly one path. On the surrogate, FGSM's
# straight line falls behind once the gradient has turned. The iterative attacks go on climbing long after the image is
# misclassified. On the targets the same images do the same later and less.
#
# Part of what a step gains is gained in directions that only the surrogate has. That is *overfitting*, of the image in place
# of the weights. Every chapter from here on is about a way to reduce it.

# %% tags=["nbval-check-output"]
own, other = (losses[title] for title in list(losses)[:2])
(_, own_loss), (_, other_loss) = own["MI-FGSM"], other["MI-FGSM"]
assert all(abs(values[0] - own_loss[0]) < 1e-6 for _, values in own.values())
print("MI-FGSM raises the surrogate's loss:", own_loss[-1] > own_loss[0])
print("and the first target's:", other_loss[-1] > other_loss[0])
print("it raises the surrogate's more:", own_loss[-1] > other_loss[-1])

# %% [markdown]
# ## What C&W finds, and what becomes of it elsewhere
#
# Three changes of the same images: C&W's; C&W's stretched until it is as long as that of MI-FGSM, so that
# length is no longer the difference; and MI-FGSM's own.

# %%
some = kept[: RUN["n_cw"]]
budget = {"steps": RUN["cw_steps"], "searches": RUN["cw_searches"]}
cw = al.carlini_wagner(f, some.x, some.y, **budget)
attack = partial(al.attacks.mi_fgsm, eps=eps, steps=steps, seed=seed)
mi = attack(f, some.x, some.y, index=some.index)


# %%
def lengths(adv):
    return (adv - some.x).flatten(1).norm(dim=1)


stretch = lengths(mi) / lengths(cw).clamp(min=1e-6)
stretched = (some.x + (cw - some.x) * stretch[:, None, None, None]).clamp(0, 1)

# %%
changes = {"C&W": cw, "C&W, stretched": stretched}
changes[f"MI-FGSM, eps {eps_255:g}/255"] = mi
lines = {}
for name, adv in changes.items():
    long = budget["steps"] * budget["searches"]
    line = {"passes": steps if name.startswith("MI") else long}
    line["L2 length"] = f"{lengths(adv).mean():.2f}"
    line["largest change"] = f"{255 * (adv - some.x).abs().max():.0f}/255"
    for k in [surrogate, *targets]:
        line[k] = int((models[k](adv).argmax(1) != some.y).sum())
    lines[name] = line

# %%
print(f"Of {len(some)} images so many are wrong; {dataset}, {scale} scale.")
white = {surrogate: f"{surrogate} (white-box)"}
pd.DataFrame(lines).T.rename(columns=white)

# %% [markdown]
# C&W does what it was asked to. It fools the surrogate with a change several times shorter than that of MI-FGSM, and stops just
# behind the surrogate's boundary. Another network's boundary is somewhere else, so that **minimal changes hardly
# transfer**.
#
# Is it the direction of C&W that does not transfer, or that it stops so early? The second row tells: the same direction, as
# long as MI-FGSM's change. In the committed run (`shapes`, laptop scale, 16 images) it fools at least as many targets as
# MI-FGSM. So the direction was not at fault. So few images of one teaching set show that this can be so, not that it always
# is: run the chapter on CIFAR-10 and see. (It is no competitor. An $L_2$ attack puts its length into few pixels, and the
# column *largest change* shows how far outside of the $L_\infty$ ball that is.)
#
# To transfer, an attack must go well past the boundary. So the first thing to ask of a transfer result is at which budget it
# was measured. C&W's own way past the boundary is a positive $\kappa$; see the exercises.

# %% tags=["nbval-check-output"]
success = f(cw).argmax(1) != some.y
shorter = bool((lengths(cw) < lengths(mi))[success].all())
print("every success of C&W is shorter than MI-FGSM's change of that image:", shorter)

# %% [markdown]
# ## What transfers, and what does not
#
# An untargeted attack has transferred when the target is wrong. Is it wrong *in the same way*? If all that
# carried over were damage, the target's wrong class would be any of the others.

# %%
mi_all = attack(f, kept.x, kept.y, index=kept.index)
wrong_class, lines = f(mi_all).argmax(1), {}
for name in targets:
    answer = models[name](mi_all).argmax(1)
    both_wrong = (answer != kept.y) & (wrong_class != kept.y)
    agree = int((both_wrong & (answer == wrong_class)).sum())
    lines[name] = {"both wrong": int(both_wrong.sum()), "in the same class": agree}
others = len(data.classes) - 1
print(f"{len(kept)} images of {dataset}, made on {surrogate}, eps {eps_255:g}/255.")
print(f"By chance one answer in {others} would agree.")
pd.DataFrame(lines).T

# %% [markdown]
# Where the shares are well above chance, networks that were trained apart do not only make a mistake, they
# make the *same* mistake: they have learned features in common, and it is these that the attack moves.
# (Chance is a little more than stated if both networks have a favourite among the wrong classes.) Still, it
# is easier to be wrong than to be wrong in a chosen way. Liu et al. (2017) found on ImageNet that untargeted
# examples transfer readily and targeted ones almost never do, unless they are made on several networks at
# once.
#
# Images differ, too: some fool no target, and some fool all.

# %%
fooled = [models[name](mi_all).argmax(1) != kept.y for name in targets]
most = len(targets)
histogram = torch.bincount(torch.stack(fooled).sum(0), minlength=most + 1).tolist()
print(f"Of {len(kept)} images made on {surrogate}, so many fool ...")
heads = [f"{k} targets" for k in range(most + 1)]
pd.DataFrame([histogram], columns=heads, index=["images"])

# %% [markdown]
# ## A first look at a loss surface
#
# One image, two directions: along the horizontal axis the sign of the surrogate's gradient, along the
# vertical axis random signs. Both change every pixel by the same amount, so that the two axes can be compared. The surrogate and a target see exactly the same images.

# %%
along = al.gradient(f)(x1, y1, al.draws.Draw(seed, i1)).sign()
across = (al.draws.Draw(seed, i1, stream=99).uniform(*x1.shape[1:]) - 0.5).sign()
axis = torch.linspace(-1.0, 2.0, RUN["grid"], device=device) * eps_255

# %%
look = partial(al.measures.landscape, x=x1, y=y1, along=along, across=across, axis=axis)
surfaces = {f"{surrogate} (white-box)": look(f)}
surfaces |= {name: look(models[name]) for name in targets[:2]}
ticks = axis.cpu().numpy()
xlabel = f"along sign of {surrogate}'s gradient (1/255)"
ylabel, label = "random signs (1/255)", "cross-entropy (nats)"
fig = al.plotting.surface(ticks, ticks, surfaces, xlabel, ylabel, label)
al.plotting.save(fig, f"fig_1_4_loss_surface_{dataset}", RUN)
fig

# %% [markdown]
# **How to read it.** The dot is the clean image; one colour scale serves all panels. Contours that stand
# upright mean that only the horizontal direction matters: a walk to the right climbs, a walk upwards, over
# random signs of the same size, does nothing. That is FGSM and the control of the table in one picture. The
# targets' contours stand upright as well where the attack transfers, but their climb begins further to the
# right: to a target, the surrogate's gradient is neither its own steepest direction nor a random one. Walking
# to the *left*, down the gradient, may also end in a loss, on the other side of the valley: the gradient
# knows the slope at the dot and no more.
#
# Two warnings. A plane is a thin slice of a space of thousands of dimensions. And this is one image: change
# `image` and see how different the next one looks.

# %% tags=["nbval-check-output"]
own = surfaces[f"{surrogate} (white-box)"]
zero = int(np.abs(ticks).argmin())
rise, drift = own[zero, -1] - own[zero, zero], own[-1, zero] - own[zero, zero]
print(f"surfaces of {own.shape[0]} x {own.shape[1]} points")
print("the gradient's direction climbs higher than the random one:", rise > drift)

# %% [markdown]
# ## Pitfalls
#
# **Input range.** The commonest mistake is to attack images that were normalised beforehand, or that hold whole numbers from
# black to white. Another is to give $\epsilon$ in levels. Nothing crashes then; the budget is wrong, and so is every number.
# `advlib` refuses, and says which argument it refuses:


# %% tags=["nbval-check-output"]
def refused(**changes):
    try:
        al.attacks.fgsm(linear, **{"x": x2, "y": y2, "eps": 0.1, **changes})
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")


refused(x=x2 * 255)
refused(x=(x2 - 0.5) / 0.25)
refused(eps=8)
refused(y=y2.float())
refused(y=y2 + 2)

# %% [markdown]
# **Which images count.** A rate over all images and one over the images that were right can differ by as much
# as two attacks do. Over all images, those that a target got wrong from the start count as successes, unless the attack
# happens to make them right. Compare two papers only if both say what they divided by.

# %%
name = targets[0]
wrong = int((al.evaluation.predictions(models[name], data) != y).sum())
print(f"{name} gets {wrong} of {len(data)} clean images wrong.")
print(f"FGSM made on {surrogate}, the same run:")
one_step = rates[(rates.attack == "FGSM") & (rates.target == name)]
for row in one_step.itertuples():
    print(f"{row.metric:7} {row.value:.0f} % of {row.n} images")

# %% [markdown]
# **Eight bits.** An attack works with real numbers, and an image file holds 256 levels. Cutting off the digits, or rounding to
# the nearest level, leads out of the ball where $255\,\epsilon$ is no whole number. JPEG changes everything. `advlib` rounds
# *towards the clean image*. Half a level more than our budget shows it:

# %% tags=["nbval-check-output"]
uneven = (eps_255 + 0.5) / 255
real = al.attacks.fgsm(f, some.x, some.y, eps=uneven)
in_levels = {
    "digits cut off": (real * 255).to(torch.uint8),
    "rounded": (real * 255).round().to(torch.uint8),
    "towards the clean image": al.pictures.to_uint8(real, some.x, uneven),
}
for name, saved in in_levels.items():
    far = (saved.int() - some.images.int()).abs().max().item()
    print(f"{name}: up to {far} levels away; allowed are {255 * uneven:g}")

# %% [markdown]
# `al.save_images` does this and writes PNG, which loses nothing. Read back, every pixel is where it may be:

# %% tags=["nbval-check-output"]
from torchvision.io import read_image

stems = [f"{dataset}_{i}" for i in some.index.tolist()]
files = al.save_images(mi, some.x, eps, RUN.images, stems)
read_back = torch.stack([read_image(str(file)) for file in files]).to(device)
assert (read_back.int() - some.images.int()).abs().max() <= eps_255
print(f"{len(files)} files read back: no pixel further than {eps_255:g} levels")

# %% [markdown]
# ## What we found
#
# 1. **Steps help, on other networks too.** On CIFAR-10 ten steps fool clearly more than one, and noise of the same size fools
#    few.
# 2. **Among attacks of ten steps we cannot tell.** Momentum gains nothing on `shapes`, and on CIFAR-10 the differences are
#    smaller than their intervals. Chapter 2 asks again, with more images and stronger targets.
# 3. **What transfers goes past the boundary.** The smallest change that fools the surrogate hardly fools anyone else. Beyond
#    the boundary, networks often make the same mistake.
#
# ## Summary
#
# - An adversarial example maximises the loss inside a ball (1.1). FGSM does it in one step and is exact for a
#   linear model; I-FGSM (1.2) and PGD take more steps; MI-FGSM (1.3) averages the gradients; NI-FGSM (1.4)
#   looks ahead; C&W minimises the change instead.
# - One loop and one rule cover the first five: no momentum, $\sigma = 0$, $\sigma = \mu$, a start, a step
#   size.
# - Transfer is lower than white-box success, and not in the same order.
# - The equations and the working methods differ in three places: clipping, the norm in the momentum, and the start of PGD.
#   Each has a cell above.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* `al.carlini_wagner` takes `kappa`. Try 0, 2, 5, 10: plot the mean length and the number
#    of targets fooled against it. At which $\kappa$ does C&W transfer as well as MI-FGSM, and how long is its
#    change then?
# 2. *Derive.* For a linear model and the ball $\|\delta\|_p \le \epsilon$, show that the loss can be raised
#    by moving $z$ by $\epsilon \|w\|_q$ with $1/p + 1/q = 1$ (Hölder), and find the change that does it for
#    $p = 2$. What is the FGSM of the $L_2$ ball, and which keyword of `al.attacks.pgd` gives it? Check it on
#    `linear`.
# 3. *Build one thing.* RMSProp divides each pixel's gradient by a running root mean square. Write a step
#    rule with `init` and `update` that does so (`advlib/rules.py` says what they take), pass it to
#    `al.attack(..., momentum=)`, and add a row to the table. What does the sign leave of it?
#
# ## References
#
# - W. Brendel, J. Rauber, M. Bethge. Decision-based adversarial attacks: reliable attacks against black-box
#   machine learning models. *International Conference on Learning Representations*, 2018.
# - N. Carlini, D. Wagner. Towards evaluating the robustness of neural networks. *IEEE Symposium on Security
#   and Privacy*, pages 39-57, 2017.
# - Y. Dong, F. Liao, T. Pang, H. Su, J. Zhu, X. Hu, J. Li. Boosting adversarial attacks with momentum. *IEEE
#   Conference on Computer Vision and Pattern Recognition*, pages 9185-9193, 2018.
# - I. J. Goodfellow, J. Shlens, C. Szegedy. Explaining and harnessing adversarial examples. *International
#   Conference on Learning Representations*, 2015.
# - A. Ilyas, L. Engstrom, A. Athalye, J. Lin. Black-box adversarial attacks with limited queries and
#   information. *International Conference on Machine Learning*, pages 2137-2146, 2018.
# - A. Kurakin, I. Goodfellow, S. Bengio. Adversarial examples in the physical world. *International
#   Conference on Learning Representations, Workshop Track*, 2017.
# - J. Lin, C. Song, K. He, L. Wang, J. E. Hopcroft. Nesterov accelerated gradient and scale invariance for
#   adversarial attacks. *International Conference on Learning Representations*, 2020.
# - Y. Liu, X. Chen, C. Liu, D. Song. Delving into transferable adversarial examples and black-box attacks.
#   *International Conference on Learning Representations*, 2017.
# - A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu. Towards deep learning models resistant to
#   adversarial attacks. *International Conference on Learning Representations*, 2018.
# - C. Szegedy, W. Zaremba, I. Sutskever, J. Bruna, D. Erhan, I. Goodfellow, R. Fergus. Intriguing properties
#   of neural networks. *International Conference on Learning Representations*, 2014.
# - T. Wu. *Adversarial Transferability and Generalization in Robust Deep Learning.* Doctoral dissertation,
#   Missouri University of Science and Technology, 2024. Doctoral Dissertations 3353,
#   scholarsmine.mst.edu/doctoral_dissertations/3353.
