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
# # Curvature regularized SAM: exercises
#
# They go with chapter 5, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

# %% [markdown]
# ## 1. Turn one knob
#
# The loss below has a sharp minimum near 0 and a flat one near 3. Start in the sharp one and train with SAM: from which radius
# $\rho$ on does it leave, and why does it end where it does?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def landscape(w):
    """A narrow valley at 0, a wide one at 3."""
    return -torch.exp(-((w / 0.1) ** 2)) - torch.exp(-(((w - 3) / 2.5) ** 2))


def ends_at(rho):
    """The weight after 1,000 steps of al.sam.SAM around torch.optim.SGD with lr=0.008, from 0.02."""
    ### BEGIN SOLUTION
    w = torch.tensor(0.02, requires_grad=True)
    optimizer = al.sam.SAM([w], torch.optim.SGD, lr=0.008, rho=rho)

    def closure():
        optimizer.zero_grad()
        loss = landscape(w)
        loss.backward()
        return loss

    for _ in range(1000):
        optimizer.step(closure)
    return w.item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert abs(ends_at(0.001)) < 0.1, "with a radius near 0, SGD, it stays in the sharp minimum where it started"
### BEGIN HIDDEN TESTS
from math import exp


def slope(w):
    return 200 * w * exp(-((w / 0.1) ** 2)) + 0.32 * (w - 3) * exp(-(((w - 3) / 2.5) ** 2))


for rho in (0.03, 0.25, 0.5):
    w = 0.02
    for _ in range(1000):
        w -= 0.008 * slope(w + rho if slope(w) > 0 else w - rho)
    assert abs(ends_at(rho) - w) < 0.005, f"SAM with rho = {rho} ends at {w:.4f}, this at {ends_at(rho):.4f}"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# On a quadratic loss, $g_+ + g_- - 2 g_0 = 0$. What is the gradient that CR-SAM then descends, in terms of $g_0$ and $g_+$?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def on_a_quadratic(g0, plus, alpha, beta):
    """The gradient of al.sam.crsam_gradient on a quadratic, without the gradient g_-."""
    ### BEGIN SOLUTION
    return plus + 2 * beta * (plus - g0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
g0, plus = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])
assert torch.allclose(on_a_quadratic(g0, plus, 0.1, 0.0), plus), "beta = 0 is SAM, whose gradient is g_+"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
for alpha, beta in ((0.3, 0.2), (0.0, 0.5), (0.7, 0.01)):
    hessian = torch.randn(4, 4, dtype=torch.float64)
    hessian, w, v = hessian @ hessian.T, torch.randn(4).double(), torch.randn(4).double()
    g0, plus, minus = hessian @ w, hessian @ (w + v), hessian @ (w - v)
    (expected,) = al.sam.crsam_gradient([g0], [plus], [minus], alpha=alpha, beta=beta)
    found = on_a_quadratic(g0, plus, alpha, beta)
    assert torch.allclose(found, expected), f"al.sam.crsam_gradient finds another, alpha = {alpha}, beta = {beta}"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Take random signs over $\sqrt{m}$ for $v$, $m$ weights, in place of the gradient's direction: it is a unit vector, too. The second difference
# $(L(w + \rho v) + L(w - \rho v) - 2 L(w)) / \rho^2$ then is $v^T H v$, and its mean over $v$ is the trace over $m$. Write the estimator of the
# trace, which is Hutchinson's: signs, each 1 or -1 with probability 1/2, make it exact where $H$ is diagonal.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def trace(loss, w, rho, directions, seed=0):
    """Hutchinson's trace of the Hessian of loss at w, shape (m,), by second differences along random signs / sqrt(m).

    directions: how many; seed: of the signs, the same seed gives the same number.
    """
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total / directions).item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
diagonal = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
found = trace(lambda w: (diagonal * w * w).sum() / 2, torch.ones(3, dtype=torch.float64), 0.1, 1)
assert abs(found - 6) < 1e-6, "where the Hessian is diagonal, 1 + 2 + 3, one direction of signs is enough"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
w = torch.randn(20, dtype=torch.float64)
found = [trace(lambda w: (w**4).sum() / 12, w, 0.01, k, seed=k) for k in (1, 3)]
expected = w.square().sum().item()
assert all(abs(v / expected - 1) < 1e-3 for v in found), "the Hessian of the sum of w^4 / 12 is w^2, at w"
a = torch.randn(20, 20, dtype=torch.float64)
a = a @ a.T


def quadratic(w):
    return w @ a @ w / 2


error = (2 * (a.square().sum() - a.diagonal().square().sum())).sqrt().item()
few = torch.tensor([trace(quadratic, w, 0.01, 2, seed) for seed in range(150)], dtype=torch.float64)
scatter = few.std().item() * 2**0.5 / error
assert 0.75 < scatter < 1.3, f"over 150 seeds it scatters {scatter:.2f} times as much as with independent random signs"
assert abs(few.mean() - a.trace()) < 4 * error / 300**0.5, "over 150 seeds the mean is not the trace"
many = trace(quadratic, w, 0.01, 1000)
assert abs(many - a.trace().item()) < 4 * error / 1000**0.5, "with 1,000 directions it is not near the trace"
assert abs(trace(quadratic, w, 0.01, 2, 5) - few[5].item()) < 1e-6, "the same seed gives the same number"
### END HIDDEN TESTS
