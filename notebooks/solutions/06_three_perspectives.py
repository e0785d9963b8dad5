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
data = al.datasets.load("shapes", "test", 4)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# A step costs passes, and so do copies. A combination takes 10 steps, each with random erasure (`erasures` copies) and SIM (`scales`
# copies) together, with or without the gradient norm penalty. Give the plain attack, MI-FGSM, as many passes: in steps of its own.


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def plain_at_the_cost_of(erasures, scales, penalty):
    """MI-FGSM from f at 8/255 with as many passes per image as 10 steps with these copies, and GNP or not."""
    ### BEGIN SOLUTION
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * erasures * scales * (2 if penalty else 1))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
plain = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10)
other = ((plain_at_the_cost_of(1, 1, False) - plain).abs() > 1e-4).float().mean()
assert other < 0.05, "one copy and no penalty: MI-FGSM at 8/255 with the same 10 steps"
### BEGIN HIDDEN TESTS
from unittest.mock import patch


def passes(attack, *arguments):
    """How many images f is shown for each image of x while the attack runs."""
    counted = []
    hook = f.register_forward_pre_hook(lambda module, inputs: counted.append(len(inputs[0])))
    try:
        attack(*arguments)
    finally:
        hook.remove()
    return sum(counted) / len(x)


torch.manual_seed(0)
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
with patch.dict(globals(), f=linear):
    for erasures, scales, penalty in ((2, 1, False), (1, 2, True), (2, 3, False), (3, 2, True)):
        chain = [al.RandomErasure(erasures), al.ScaleCopies(scales)]
        g = al.gradient(f, chain)
        g = al.norm_penalty(g) if penalty else g
        expected = passes(lambda g=g: al.attack(x, y, g, eps=8 / 255, steps=10))
        found = passes(plain_at_the_cost_of, erasures, scales, penalty)
        assert found == expected, f"{found} passes, {expected} has {erasures, scales, penalty}"
plain = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=20)
other = ((plain_at_the_cost_of(2, 1, False) - plain).abs() > 1e-4).float().mean()
assert other < 0.05, "as many passes as MI-FGSM with 20 steps, but another attack"
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
independent, least, most = best_of_both(0.5, 0.4)
assert least <= independent <= most, "(share if independent, the least possible, the most possible)"
assert max(abs(share - 0.4) for share in best_of_both(0.0, 0.4)) < 1e-9, "an attack that fools nothing adds nothing"
### BEGIN HIDDEN TESTS
for (p, q), shares in {(0.3, 0.8): (0.86, 0.8, 1.0), (0.2, 0.1): (0.28, 0.2, 0.3), (1.0, 0.6): (1.0, 1.0, 1.0)}.items():
    for name, share, found in zip(("independent", "least", "most"), shares, best_of_both(p, q), strict=True):
        assert abs(found - share) < 1e-9, f"{name}, p = {p}, q = {q}: it is not {found:.3f}"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Elastic momentum, random erasure and the gradient norm penalty on two networks at once, in one call of `al.attack`.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def together(x, y, eps, steps):
    """al.Elastic(mu=1, sigma=2), al.RandomErasure(3), al.norm_penalty with its defaults, on the ensemble of f and h."""
    ### BEGIN SOLUTION
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3)))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
shown = []
hook = h.register_forward_pre_hook(lambda module, inputs: shown.append(len(inputs[0])))
adv = together(x[:2], y[:2], 8 / 255, 1)
hook.remove()
assert sum(shown) >= 2 * 2 * 3, "in a step h, too, is shown 3 copies of each image, and for the penalty once more"
assert adv.shape == x[:2].shape, "an adversarial image for each image"
assert abs((adv - x[:2]).abs().max() - 8 / 255) < 1e-6, "the largest change of a pixel is eps"
### BEGIN HIDDEN TESTS
options = {"sigma": 2.0, "transform": al.RandomErasure(3), "wrap": al.norm_penalty}
for eps, steps in ((8 / 255, 3), (4 / 255, 1)):
    expected = al.attacks.em_fgsm(al.ensemble([f, h]), x[:2], y[:2], eps=eps, steps=steps, **options)
    other = ((together(x[:2], y[:2], eps, steps) - expected).abs() > 1e-4).float().mean()
    assert other < 0.05, f"{other:.0%} of the pixels are others: a part is missing, or has another constant"
### END HIDDEN TESTS
