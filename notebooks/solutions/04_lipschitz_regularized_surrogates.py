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
data = al.datasets.load("shapes", "test", 10)
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
once, twice = constant(f, 8), constant(lambda z: 2 * f(z), 8)
assert once > 0, "a length in logits over a length in pixels"
assert abs(twice / once - 2) < 0.02, "twice the logits, twice the constant"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 20), torch.nn.Tanh(), torch.nn.Linear(20, 10))
net[1].weight.data.mul_(10)
for radius_255 in (2, 8, 32):
    expected = al.lipschitz.local_lipschitz(net, x, radius_255 / 255, steps=5, seed=0).mean().item()
    found = constant(net, radius_255)
    assert abs(found / expected - 1) < 1e-3, f"within {radius_255} / 255, in 5 steps, the mean over x is another"
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
assert abs(lrs1_of_linear(torch.tensor([3.0, 4.0]), "l2") - 25) < 1e-4, "the slope along w / |w| is |w|; its square"
assert abs(mean_lrs2(3 * torch.eye(5)) - 9) < 1e-4, "3 times the identity makes every unit direction 3 long; its square"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
for w in (torch.tensor([3.0, -4.0]), torch.randn(7)):
    for direction, d in (("l2", w / w.norm()), ("sign", w.sign())):
        off = abs(lrs1_of_linear(w, direction) / (w @ d).item() ** 2 - 1)
        assert off < 1e-4, f"{direction}: a step h along d raises the loss by h w . d, whatever h is"
a = torch.randn(6, 6)
for hessian in (torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([[0.0, 2.0], [2.0, 0.0]]), a + a.T):
    mean = torch.linalg.eigvalsh(hessian).square().mean().item()
    assert abs(mean_lrs2(hessian) / mean - 1) < 1e-4, f"over many unit d the mean is {mean:.3f}, m = {len(hessian)}"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# Penalise the slope of the *margin* (the best other logit minus that of the label, `al.gradients.margin`) in place of that of the
# loss: the squared difference quotient along the unit $L_2$ direction of its gradient, which is a constant.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def margin_slope(net, x, y, h):
    """Shape (N,): ((margin(x + h d) - margin(x)) / h)^2, differentiable in the weights of net; d carries no gradient."""
    ### BEGIN SOLUTION
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    return ((al.gradients.margin(net(x + h * d.detach()), y) - here) / h).square()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# Two logits, the margin of label 0 is 3 p - 4 q in the two pixels p and q: its slope is 5 everywhere.
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
linear[1].weight.data = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
found = margin_slope(linear, torch.rand(4, 1, 1, 2), torch.zeros(4, dtype=torch.int64), 0.1)
assert found.shape == (4,), "a number for each image"
assert torch.allclose(found, torch.full((4,), 25.0), rtol=1e-3), "5 squared is 25"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
z, label = torch.rand(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
leaf = z.clone().requires_grad_()
(gradient,) = torch.autograd.grad(al.gradients.margin(net(leaf), label).sum(), leaf)
d = gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt()
for h in (0.1, 1.0):
    rise = al.gradients.margin(net(z + h * d), label) - al.gradients.margin(net(z), label)
    found, expected = margin_slope(net, z, label, h), (rise / h).square()
    assert found.shape == (5,) and torch.allclose(found, expected), f"another number than the squared slope at h = {h}"
    assert found.requires_grad, "the weights get no gradient of it"
    of_weights = [torch.autograd.grad(v.sum(), list(net.parameters()), allow_unused=True) for v in (found, expected)]
    for a, b in zip(*of_weights, strict=True):
        same = a is None if b is None else a is not None and torch.allclose(a, b)
        assert same, "the weights get another gradient: of both margins, and of d none"
### END HIDDEN TESTS
