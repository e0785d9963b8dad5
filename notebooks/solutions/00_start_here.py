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
white, black = rates(2)
assert 1 < white <= 100, "a success rate in percent: the share of images that are no longer named rightly"
assert 0 <= black <= white, "first the rate on f, which is attacked and fooled more often, then that on h"
### BEGIN HIDDEN TESTS
shown = []
hook = h.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].detach()))
try:
    found = rates(3)
finally:
    hook.remove()
assert shown, "h is shown no image"
adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=3)
other = ((torch.cat(shown)[:, None] - adv).abs() > 1e-4).float().mean((2, 3, 4)).amin(0).max()
assert other < 0.05, "h is not shown the images of MI-FGSM from f at 8/255 with this number of steps"
for a, net in zip(found, (f, h), strict=True):
    expected = 100 * (net(adv).argmax(1) != y).float().mean().item()
    assert abs(a - expected) < 150 / len(x), "the images are MI-FGSM's, but the rates, in percent, are not theirs"
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
assert abs(asr_all(1.0, 0.3) - 0.3) < 1e-9, "a target that is always right is wrong where it is fooled"
assert abs(asr_all(0.8, 0.0) - 0.2) < 1e-9, "an attack that fools no image leaves the wrong ones wrong"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
for a, s in ((0.8, 0.25), (0.3, 0.9), (0.0, 0.5), (0.6, 1.0)):
    right_before = torch.arange(1000) < 1000 * a
    fooled = right_before & (torch.arange(1000) < 1000 * a * s)
    share = (~right_before | fooled).double().mean().item()
    assert abs(asr_all(a, s) - share) < 1e-9, f"counted on 1,000 images with a = {a} and s = {s} it is another share"
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
adv = from_two(f, h, x[:4], y[:4], 8 / 255)
assert adv.shape == x[:4].shape, "an adversarial image for each image"
assert abs((adv - x[:4]).abs().max() - 8 / 255) < 1e-6, "the largest change of a pixel is eps"
### BEGIN HIDDEN TESTS
third = al.models.load("shapes/wrn")
for first, second, eps in ((f, h, 8 / 255), (third, f, 6 / 255)):
    both = al.ensemble([first, second])
    expected = al.attacks.mi_fgsm(both, x[:4], y[:4], eps=eps, steps=10)
    other = ((from_two(first, second, x[:4], y[:4], eps) - expected).abs() > 1e-4).float().mean()
    assert other < 0.05, "not MI-FGSM, 10 steps, on the ensemble of the two networks that are handed in"
### END HIDDEN TESTS
