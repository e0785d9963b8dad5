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
assert 1 < accuracy(8) <= 100, "in percent"
assert accuracy(1) < accuracy(8), "one bit for a pixel leaves less to recognise than eight"
### BEGIN HIDDEN TESTS
for bits in (1, 2, 3, 8):
    named = al.defenses.BitReduction(bits)(h)(x).argmax(1)
    expected, found = 100 * (named == y).float().mean().item(), accuracy(bits)
    assert abs(found - expected) < 0.5, f"behind {bits} bits h names {expected:.0f} % as y says, not {found:.2f}"
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
assert most_for_the_second(5, 0.001) == -1, "even five to none is not significant at this level"
assert most_for_the_second(10, 0.05) == 1, "one in ten has a p-value of 0.021, two in ten of 0.109"
### BEGIN HIDDEN TESTS
from scipy.stats import binom

for n, alpha in ((100, 0.001), (1000, 0.001), (100, 0.05), (21, 0.2), (5, 0.05)):
    k = most_for_the_second(n, alpha)
    assert 2 * binom.cdf(k, n, 0.5) <= alpha, f"n = {n}, alpha = {alpha}: with {k} votes it abstains"
    assert 2 * binom.cdf(k + 1, n, 0.5) > alpha, f"n = {n}, alpha = {alpha}: nor does it with {k + 1} votes"
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
assert Blur()(h)(x[:4]).shape == (4, 10), "behind the defence h answers as before"
spot, draw = torch.zeros(1, 3, 9, 9), al.draws.Draw(seed=0, index=torch.arange(1))
spot[..., 4, 4] = 9.0
blurred = Blur(3).purified(spot, draw)
assert blurred.shape == spot.shape, "the image keeps its size"
assert torch.allclose(blurred[..., 3:6, 3:6], torch.ones(1, 3, 3, 3)), "one pixel of 9 becomes nine of 1"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
for size in (1, 3, 5):
    image, weight = torch.rand(2, 3, 9, 7, requires_grad=True), torch.rand(2, 3, 9, 7)
    draw, half = al.draws.Draw(seed=0, index=torch.arange(2)), size // 2
    padded = torch.nn.functional.pad(image, (half,) * 4, mode="reflect")
    expected, found = torch.nn.functional.avg_pool2d(padded, size, stride=1), Blur(size).purified(image, draw)
    assert found.shape == expected.shape, "the image keeps its size"
    same = torch.allclose(found, expected, atol=1e-5)
    assert same, f"not the mean over {size} by {size} pixels of the colour, reflected at the border"
    exact, back = (torch.autograd.grad((weight * out).sum(), image)[0] for out in (expected, found))
    assert torch.allclose(back, exact, atol=1e-5), "its `gradients` are said to be exact, and are not"
assert al.attacks.fgsm(Blur()(h), x[:4], y[:4]).shape == x[:4].shape, "no attack passes through"
### END HIDDEN TESTS
