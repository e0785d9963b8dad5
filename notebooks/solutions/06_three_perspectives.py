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
# # Three perspectives, together: exercises
#
# They go with chapter 6, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

f, h = al.models.load("shapes/resnet"), al.models.load("shapes/wrn")
data = al.datasets.load("shapes", "test", 30)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# Steps cost passes too. Write the plain attack with the number of steps that a combination costs: with as many copies for random
# erasure and for SIM, with or without the gradient norm penalty, and 10 steps.


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def plain_at_the_cost_of(erasures, scales, penalty):
    """MI-FGSM from f at 8/255 with as many passes per image as 10 steps with these copies, and GNP or not."""
    ### BEGIN SOLUTION
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * erasures * scales * (2 if penalty else 1))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert torch.equal(plain_at_the_cost_of(1, 1, False), al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10))
### BEGIN HIDDEN TESTS
assert torch.equal(plain_at_the_cost_of(2, 1, True), al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=40))
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# Two attacks fool a target with probabilities $p$ and $q$, independently of one another. Which share would an attack fool that knew for
# each image which of the two works? And which share is it at least, and at most, whatever their dependence?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_of_both(p, q):
    """(share if independent, the least possible, the most possible)."""
    ### BEGIN SOLUTION
    return p + q - p * q, max(p, q), min(1.0, p + q)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
independent, least, most = best_of_both(0.5, 0.5)
assert least <= independent <= most
### BEGIN HIDDEN TESTS
assert all(abs(a - b) < 1e-12 for a, b in zip(best_of_both(0.3, 0.8), (0.86, 0.8, 1.0), strict=True))
assert all(abs(a - b) < 1e-12 for a, b in zip(best_of_both(0.2, 0.1), (0.28, 0.2, 0.3), strict=True))
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Elastic momentum, random erasure and the gradient norm penalty on two networks at once, in one call of `al.attack`.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def together(x, y, eps, steps):
    """al.Elastic(mu=1, sigma=2), al.RandomErasure(3), al.norm_penalty, on the ensemble of f and h."""
    ### BEGIN SOLUTION
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3)))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
adv = together(x[:4], y[:4], 8 / 255, 2)
assert adv.shape == x[:4].shape and (adv - x[:4]).abs().max() <= 8 / 255 + 1e-6
### BEGIN HIDDEN TESTS
both = al.ensemble([f, h])
options = {"transform": al.RandomErasure(3), "wrap": al.norm_penalty, "steps": 2}
expected = al.attacks.em_fgsm(both, x[:4], y[:4], eps=8 / 255, sigma=2.0, **options)
assert ((adv - expected).abs() > 1e-5).float().mean() < 0.01
### END HIDDEN TESTS
