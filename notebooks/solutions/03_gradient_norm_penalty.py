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
# # Gradient norm penalty: exercises
#
# They go with chapter 3, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
from math import exp

import torch

import advlib as al

f, h = al.models.load("shapes/resnet"), al.models.load("shapes/wrn")
data = al.datasets.load("shapes", "test", 40)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# $\beta$ weighs the second gradient. Write the attack as a function of it. What are $\beta = 0$ and $\beta = -1$?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def i_fgsm_gnp(x, y, beta):
    """I-FGSM with the gradient norm penalty (r = 0.01 in L2, not rescaled) from f, 5 steps at 8/255."""
    ### BEGIN SOLUTION
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=beta)
    return al.attack(x, y, g, momentum=al.Elastic(mu=0.0), eps=8 / 255, steps=5)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
adv = i_fgsm_gnp(x[:4], y[:4], 0.8)
assert adv.shape == x[:4].shape and (adv - x[:4]).abs().max() <= 8 / 255 + 1e-6, "a change of up to 8/255"
plain = al.attacks.i_fgsm(f, x[:4], y[:4], eps=8 / 255, steps=5)
other = ((i_fgsm_gnp(x[:4], y[:4], 0.0) - plain).abs() > 1e-4).float().mean()
assert other < 0.05, "beta = 0 is I-FGSM with 5 steps"
### BEGIN HIDDEN TESTS
for beta in (0.8, -1.0, 0.3):
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=beta)
    expected = al.attack(x[:4], y[:4], g, eps=8 / 255, steps=5)
    other = ((i_fgsm_gnp(x[:4], y[:4], beta) - expected).abs() > 1e-4).float().mean()
    assert other < 0.05, f"beta = {beta}: not (1 + beta) g1 - beta g2 with r = 0.01, in 5 steps of I-FGSM"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# If all margins of an image fall with the same slope $s$, the gradient of its cross-entropy is $s (1 - p_y)$ long, and a step of $r$
# along it multiplies that by at most $\min(e^{rs}, 1 / (1 - p_y))$. The penalised gradient $(1 + \beta) g_1 - \beta g_2$ points downhill where $g_2$ is
# longer than $(1 + \beta) / \beta$ times $g_1$. Up to which $p_y$ can that never happen, whatever $r s$ is?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def growth(r, s, p_y):
    """The largest factor from the length of g1 to that of g2."""
    ### BEGIN SOLUTION
    return min(exp(r * s), 1 / (1 - p_y))
    ### END SOLUTION


def safe_up_to(beta):
    """The largest p_y at which no step points downhill."""
    ### BEGIN SOLUTION
    return 1 / (1 + beta)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert abs(growth(0.0, 5.0, 0.9) - 1) < 1e-9, "a step of 0 changes nothing"
assert abs(growth(10.0, 5.0, 0.9) - 10) < 1e-6, "a gradient of length s (1 - p_y) cannot become longer than s"
assert 0 < safe_up_to(0.8) < 1, "a probability"
### BEGIN HIDDEN TESTS
for r, s, p_y, factor in ((0.1, 10.0, 0.9, exp(1)), (1.0, 10.0, 0.75, 4.0), (0.5, 2.0, 0.2, 1.25)):
    assert abs(growth(r, s, p_y) - factor) < 1e-6, f"r = {r}, s = {s}, p_y = {p_y}: the factor is at most {factor:.4f}"
for beta in (0.5, 0.8, 2.0):
    p = safe_up_to(beta)
    assert abs(1 / (1 - p) - (1 + beta) / beta) < 1e-6, f"beta = {beta}: there g2 is not up to (1 + beta) / beta g1"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Let $r$ differ from image to image: a wrapper around a gradient function that takes the second gradient $r_i$ away from image $i$.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def penalised(g, x, y, draw, r, beta):
    """(1 + beta) g1 - beta g2 with g2 at x + r g1 / |g1|_2 and the same draw; r: shape (N,), g: a gradient function."""
    ### BEGIN SOLUTION
    first = g(x, y, draw)
    unit = first / first.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None, None]
    second = g(x + r[:, None, None, None] * unit, y, draw)
    return (1 + beta) * first - beta * second
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# The gradient of |z|^2 / 2 is z: (3, 4) has the length 5, and r = 5 away it is (6, 8).
pixels, draw = torch.tensor([[[[3.0, 4.0]]]]), al.draws.Draw(seed=0, index=torch.arange(1))
found = penalised(lambda z, y, draw: z, pixels, torch.tensor([0]), draw, torch.tensor([5.0]), 0.5)
assert torch.allclose(found, torch.tensor([[[[1.5, 2.0]]]])), "with beta = 0.5 it is 1.5 (3, 4) - 0.5 (6, 8)"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
scale = torch.tensor([1.0, 5.0, 0.2, 1.0])[:, None, None, None]
images, labels = scale * torch.randn(4, 3, 4, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
draw, r = al.draws.Draw(seed=0, index=torch.arange(4)), torch.tensor([0.3, 2.0, 1.0, -0.5], dtype=torch.float64)


def cubes(z, y, draw):
    return z**3


def moving(z, y, draw):
    return z**3 + draw.uniform(*z.shape[1:])


for g, what in ((cubes, "for the gradient z^3"), (moving, "for a gradient that depends on the draw")):
    first = g(images, labels, draw)
    unit = first / first.square().sum((1, 2, 3), keepdim=True).sqrt()
    second = g(images + r[:, None, None, None] * unit, labels, draw)
    for beta in (0.5, 2.0):
        found = penalised(g, images, labels, draw, r, beta)
        assert torch.allclose(found, first + beta * (first - second)), f"{what}, with a length and an r for each image"
same = al.norm_penalty(al.gradient(f), r=0.02, beta=0.5)(x[:4], y[:4], draw)
found = penalised(al.gradient(f), x[:4], y[:4], draw, torch.full((4,), 0.02), 0.5)
assert torch.allclose(found, same, rtol=1e-3, atol=1e-6), "with one r for all images it is al.norm_penalty"
### END HIDDEN TESTS
