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
# # Lipschitz regularized surrogates: exercises
#
# They go with chapter 4, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

f = al.models.load("shapes/densenet")
data = al.datasets.load("shapes", "test", 40)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# Table 4.5 measures the local Lipschitz constant (eq. 4.11) of a surrogate. Write its mean over the images as a function of
# the radius, and compare the original surrogate with LRS-F.


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def constant(net, radius_255):
    """Mean local Lipschitz constant of the logits of net over x, in the ball of radius_255 / 255, 5 steps, seed 0."""
    ### BEGIN SOLUTION
    return al.lipschitz.local_lipschitz(net, x, radius_255 / 255, steps=5, seed=0).mean().item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert constant(f, 8) > 0
### BEGIN HIDDEN TESTS
assert constant(al.models.load("shapes/densenet-lrsf"), 8) < constant(f, 8)
scaled = al.models.load("shapes/densenet")
assert abs(constant(lambda z: 2 * scaled(z), 8) / constant(f, 8) - 2) < 0.02
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# For a linear loss with the gradient $w$: what is the squared difference quotient of eq. 4.9 along $w / \|w\|_2$, and along
# $\mathrm{sign}(w)$? For a quadratic loss with the Hessian $H$ over $m$ dimensions: what is the mean of $\|H d\|^2$ over unit
# directions $d$?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lrs1_of_linear(w, direction):
    """The penalty's value for direction "l2" or "sign"; w: shape (m,)."""
    ### BEGIN SOLUTION
    return (w.norm() if direction == "l2" else w.abs().sum()).item() ** 2
    ### END SOLUTION


def mean_lrs2(hessian):
    """The mean of |H d|^2 over unit d; hessian: shape (m, m)."""
    ### BEGIN SOLUTION
    return (hessian.square().sum() / len(hessian)).item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert abs(lrs1_of_linear(torch.tensor([3.0, 4.0]), "l2") - 25) < 1e-4
### BEGIN HIDDEN TESTS
assert abs(lrs1_of_linear(torch.tensor([3.0, -4.0]), "sign") - 49) < 1e-4
torch.manual_seed(0)
hessian = torch.randn(6, 6)
hessian = hessian + hessian.T
d = torch.nn.functional.normalize(torch.randn(200_000, 6), dim=1)
assert abs((d @ hessian).square().sum(1).mean().item() / mean_lrs2(hessian) - 1) < 0.02
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Penalise the slope of the *margin* (the best other logit minus that of the label, `al.gradients.margin`) in place of that of the
# loss: the squared difference quotient along the unit $L_2$ direction of its gradient, which is a constant.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def margin_slope(net, x, y, h):
    """Shape (N,): ((margin(x + h d) - margin(x)) / h)^2, differentiable in the weights of net."""
    ### BEGIN SOLUTION
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    return ((al.gradients.margin(net(x + h * d.detach()), y) - here) / h).square()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert margin_slope(f, x[:4], y[:4], 0.01).shape == (4,)
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
z, label = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 0])
w = linear[1].weight
slope = margin_slope(linear, z, label, 0.1)
assert torch.allclose(slope, (w[0] - w[1]).square().sum().expand(3), rtol=1e-3)
slope.sum().backward()
expected = 6 * (w[0] - w[1]).detach()
assert torch.allclose(w.grad[0], expected, rtol=1e-2, atol=1e-3)
### END HIDDEN TESTS
