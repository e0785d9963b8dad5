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
# # Defences: exercises
#
# They go with appendix A2, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
from dataclasses import dataclass
from typing import ClassVar

import torch

import advlib as al

h = al.models.load("shapes/vgg")
data = al.datasets.load("shapes", "test", 100)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# `al.defenses.BitReduction(bits)` keeps so many bits of a pixel. How does the accuracy on clean images fall with them?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def accuracy(bits):
    """Accuracy (%) of h on x, y behind BitReduction(bits)."""
    ### BEGIN SOLUTION
    defended = al.defenses.BitReduction(bits)(h)
    return 100 * (defended.predict(x) == y).float().mean().item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert 0 <= accuracy(4) <= 100
### BEGIN HIDDEN TESTS
clean = 100 * (h(x).argmax(1) == y).float().mean().item()
assert abs(accuracy(8) - clean) < 1e-3 and accuracy(1) < accuracy(8)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# Randomized smoothing abstains where a two-sided binomial test of a fair coin, among the votes for the first two classes, does not
# reject at the level $\alpha$. All $n$ votes are for two classes: with how many votes for the second does it just not abstain?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def most_for_the_second(n, alpha):
    """The largest number of votes for the second class; -1 where it always abstains."""
    ### BEGIN SOLUTION
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= alpha]
    return max(fine, default=-1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert most_for_the_second(5, 0.001) == -1
### BEGIN HIDDEN TESTS
from scipy.stats import binom

for n, alpha in ((100, 0.001), (1000, 0.001), (100, 0.05)):
    k = most_for_the_second(n, alpha)
    assert 2 * binom.sf(n - k - 1, n, 0.5) <= alpha < 2 * binom.sf(n - k - 2, n, 0.5)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A defence that blurs: subclass `al.defenses.Defence`, say its `kind` and its `gradients`, and give `purified`.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    """The mean over a square of `size` by `size` pixels (odd), reflected at the border."""

    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        ### BEGIN SOLUTION
        half = self.size // 2
        padded = torch.nn.functional.pad(x, (half,) * 4, mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, self.size, stride=1)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert Blur()(h)(x[:4]).shape == (4, 10)
### BEGIN HIDDEN TESTS
draw = al.draws.Draw(seed=0, index=torch.arange(4))
assert torch.allclose(Blur(1).purified(x[:4], draw), x[:4]) and Blur(5).purified(x[:4], draw).shape == x[:4].shape
spot = torch.zeros(1, 3, 9, 9)
spot[..., 4, 4] = 9.0
assert torch.allclose(Blur(3).purified(spot, draw)[..., 3:6, 3:6], torch.ones(1, 3, 3, 3))
assert al.attacks.fgsm(Blur()(h), x[:4], y[:4]).shape == x[:4].shape
### END HIDDEN TESTS
