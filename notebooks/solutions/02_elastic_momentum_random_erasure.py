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
# # Elastic momentum, random erasure: exercises
#
# They go with chapter 2, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

f, h = al.models.load("shapes/resnet"), al.models.load("shapes/wrn")
data = al.datasets.load("shapes", "test", 30)
right = (f(data.x).argmax(1) == data.y) & (h(data.x).argmax(1) == data.y)
x, y = data.x[right], data.y[right]

# %% [markdown]
# ## 1. Turn one knob
#
# How many points of black-box success does the look-ahead gain, or lose? Write the function, and call it with 4, 8 and 16.


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gain(eps_255):
    """Success (%) on h of EM-FGSM minus that of MI-FGSM, both from f with 10 steps at eps_255 / 255."""

    ### BEGIN SOLUTION
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert -100 <= gain(8) <= 100
### BEGIN HIDDEN TESTS
for eps_255 in (4, 16):
    em, mi = (a(f, x, y, eps=eps_255 / 255, steps=10) for a in (al.attacks.em_fgsm, al.attacks.mi_fgsm))
    expected = [100 * (h(adv).argmax(1) != y).float().mean().item() for adv in (em, mi)]
    assert abs(gain(eps_255) - (expected[0] - expected[1])) < 1e-3
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# Gradients point the same way in every step and are divided by their mean absolute value; $\mu = 1$, $\alpha = \epsilon / T$. How far is
# the look-ahead point (eq. 2.1) from the iterate before step $t = 0, 1, \ldots$, per pixel on average?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def look_ahead(t, steps, sigma, eps):
    """Mean absolute distance per pixel between x_t^em and x_t, when t gradients have been accumulated."""
    ### BEGIN SOLUTION
    return eps / steps * sigma * t
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert look_ahead(0, 10, 2.0, 8 / 255) == 0
### BEGIN HIDDEN TESTS
assert abs(look_ahead(9, 10, 2.0, 1.0) - 1.8) < 1e-9
rule, m, g = al.Elastic(mu=1.0, sigma=3.0), torch.zeros(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
for t in range(1, 4):
    m = rule.update(m, g)
    ahead = rule.look_ahead(torch.zeros_like(g), m, 0.5 / 5).abs().mean().item()
    assert abs(ahead - look_ahead(t, 5, 3.0, 0.5)) < 1e-5
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A transform is a callable (images, draw, copy) -> images with a number `copies`. Erase *two* rectangles: let `al.RandomErasure` do
# it twice, with draws of its own the second time (`draw.at(stream=...)`; a `RandomErasure` uses the stream that it is given and the next few).


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
class TwoErasures:
    """Two rectangles are erased from each copy but the first."""

    copies = 5

    def __call__(self, x, draw, copy):
        ### BEGIN SOLUTION
        erase = al.RandomErasure(self.copies)
        return erase(erase(x, draw, copy), draw.at(stream=draw.stream + 8), copy)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
draw, copy = al.draws.Draw(seed=0, index=torch.arange(4), stream=16), torch.tensor([0, 1, 2, 3])
out = TwoErasures()(x[:4], draw, copy)
assert out.shape == x[:4].shape and torch.equal(out[0], x[0])
### BEGIN HIDDEN TESTS
draw = al.draws.Draw(seed=0, index=torch.arange(len(x)), stream=16)
copy = torch.ones(len(x), dtype=torch.int64)
once, twice = (t(x, draw, copy) != x for t in (al.RandomErasure(5), TwoErasures()))
assert twice.float().mean() > 1.3 * once.float().mean()
assert al.attacks.mi_fgsm(f, x[:4], y[:4], transform=TwoErasures()).shape == x[:4].shape
### END HIDDEN TESTS
