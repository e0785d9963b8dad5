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
assert isinstance(ends_at(0.001), float)
### BEGIN HIDDEN TESTS
assert abs(ends_at(0.001)) < 0.1 and abs(ends_at(0.5) - 0.5) < 0.05
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
g = torch.tensor([1.0, 2.0])
assert torch.allclose(on_a_quadratic(g, g, 0.1, 0.0), g)
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
hessian = torch.randn(4, 4)
hessian, w = hessian @ hessian.T, torch.randn(4)
g0, v = hessian @ w, torch.randn(4)
plus, minus = hessian @ (w + v), hessian @ (w - v)
(expected,) = al.sam.crsam_gradient([g0], [plus], [minus], alpha=0.3, beta=0.2)
assert torch.allclose(on_a_quadratic(g0, plus, 0.3, 0.2), expected, rtol=1e-3, atol=1e-3)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Take a random unit vector for $v$ in place of the gradient's: the second difference $(L(w + \rho v) + L(w - \rho v) - 2 L(w)) / \rho^2$ then is
# $v^T H v$, and its mean over $v$ is the trace over the number of weights. Write the estimator of the trace.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def trace(loss, w, rho, directions, seed=0):
    """Hutchinson's trace of the Hessian of loss at w, shape (m,), by second differences along random signs / sqrt(m)."""
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
assert abs(trace(lambda w: (diagonal * w * w).sum() / 2, torch.zeros(3, dtype=torch.float64), 0.1, 1) - 6) < 1e-6
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
a = torch.randn(20, 20, dtype=torch.float64)
a = a @ a.T
found = trace(lambda w: w @ a @ w / 2, torch.randn(20, dtype=torch.float64), 0.01, 2000)
assert abs(found / a.trace().item() - 1) < 0.05
### END HIDDEN TESTS
