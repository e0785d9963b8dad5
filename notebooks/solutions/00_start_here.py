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
# # Start here: exercises
#
# They go with chapter 0, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

f, h = al.models.load("shapes/resnet"), al.models.load("shapes/vgg")
data = al.datasets.load("shapes", "test", 30)
right = (f(data.x).argmax(1) == data.y) & (h(data.x).argmax(1) == data.y)
x, y = data.x[right], data.y[right]

# %% [markdown]
# ## 1. Turn one knob
#
# `steps` is the number of steps of MI-FGSM. Write a function that returns the success rates (%) on the surrogate `f` and on
# the target `h` for a number of steps. Then call it with 1 (which is FGSM), 10 and 40: is a stronger white-box attack a
# stronger black-box one?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rates(steps):
    """Success (%) of MI-FGSM from f at 8/255 on (f, h), over the images x, y that both get right."""
    ### BEGIN SOLUTION
    adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=steps)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
white, black = rates(10)
assert 0 <= black <= white <= 100
### BEGIN HIDDEN TESTS
adv = al.attacks.fgsm(f, x, y, eps=8 / 255)
expected = [100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h)]
assert all(abs(a - b) < 1e-3 for a, b in zip(rates(1), expected, strict=True))
assert rates(10)[0] >= rates(1)[0] and rates(10) != rates(1)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# A target names a share $a$ of the clean images correctly. An attack with success $s$ over those leaves the images that were
# wrong from the start wrong. What share of *all* images is wrong after the attack?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def asr_all(a, s):
    """The share of all images that are wrong after the attack; a, s in [0, 1]."""
    ### BEGIN SOLUTION
    return 1 - a + a * s
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert asr_all(1.0, 0.3) == 0.3
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
was_right = torch.rand(10_000) < 0.8
fooled = was_right & (torch.rand(10_000) < 0.25)
share = (~was_right | fooled).float().mean().item()
a = was_right.float().mean().item()
assert abs(asr_all(a, fooled.sum().item() / was_right.sum().item()) - share) < 1e-6
assert asr_all(0.0, 0.5) == 1.0
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Attack two networks at once: `al.ensemble([f, h])` is a surrogate like any other. Mind the cost, a step is now two passes.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def from_two(first, second, x, y, eps):
    """MI-FGSM, 10 steps, on the ensemble of two networks."""
    ### BEGIN SOLUTION
    return al.attacks.mi_fgsm(al.ensemble([first, second]), x, y, eps=eps, steps=10)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
adv = from_two(f, h, x[:8], y[:8], 8 / 255)
assert adv.shape == x[:8].shape and (adv - x[:8]).abs().max() <= 8 / 255 + 1e-6
### BEGIN HIDDEN TESTS
both = from_two(f, h, x, y, 8 / 255)
one = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10)
assert (h(both).argmax(1) != y).float().mean() > (h(one).argmax(1) != y).float().mean()
assert ((from_two(f, f, x, y, 8 / 255) - one).abs() > 1e-5).float().mean() < 0.01
### END HIDDEN TESTS
