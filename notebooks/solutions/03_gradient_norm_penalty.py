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
    """I-FGSM with the gradient norm penalty (r = 0.01) from f, 5 steps at 8/255."""
    ### BEGIN SOLUTION
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=beta)
    return al.attack(x, y, g, momentum=al.Elastic(mu=0.0), eps=8 / 255, steps=5)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert (i_fgsm_gnp(x, y, 0.8) - x).abs().max() <= 8 / 255 + 1e-6
### BEGIN HIDDEN TESTS
assert torch.equal(i_fgsm_gnp(x, y, 0.0), al.attacks.i_fgsm(f, x, y, eps=8 / 255, steps=5))
assert not torch.equal(i_fgsm_gnp(x, y, 0.8), i_fgsm_gnp(x, y, 0.0))
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
assert growth(0.0, 5.0, 0.9) == 1.0
### BEGIN HIDDEN TESTS
assert abs(growth(0.1, 10.0, 0.9) - exp(1)) < 1e-9 and abs(growth(1.0, 10.0, 0.9) - 10) < 1e-6
for beta in (0.5, 0.8, 2.0):
    p = safe_up_to(beta)
    assert growth(100.0, 1.0, p - 1e-3) < (1 + beta) / beta < growth(100.0, 1.0, p + 1e-3)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Let $r$ differ from image to image: a wrapper around a gradient function that takes the second gradient $r_i$ away from image $i$.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def penalised(g, x, y, draw, r, beta):
    """(1 + beta) g1 - beta g2 with g2 at x + r g1 / |g1|_2; r: shape (N,), g: a gradient function."""
    ### BEGIN SOLUTION
    first = g(x, y, draw)
    unit = first / first.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None, None]
    second = g(x + r[:, None, None, None] * unit, y, draw)
    return (1 + beta) * first - beta * second
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
g, draw = al.gradient(f), al.draws.Draw(seed=0, index=torch.arange(4))
assert torch.allclose(penalised(g, x[:4], y[:4], draw, torch.zeros(4), 0.8), g(x[:4], y[:4], draw), atol=1e-5)
### BEGIN HIDDEN TESTS
same = al.norm_penalty(g, r=0.02, beta=0.5)(x[:4], y[:4], draw)
assert torch.allclose(penalised(g, x[:4], y[:4], draw, torch.full((4,), 0.02), 0.5), same, rtol=1e-4, atol=1e-6)
mixed = penalised(g, x[:4], y[:4], draw, torch.tensor([0.02, 0.5, 0.02, 0.5]), 0.5)
assert torch.allclose(mixed[::2], same[::2], rtol=1e-4, atol=1e-6) and not torch.allclose(mixed[1::2], same[1::2])
### END HIDDEN TESTS
