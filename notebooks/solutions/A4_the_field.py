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
# # The field: exercises
#
# They go with appendix A4, and take a few seconds on two cores.
#
# Each exercise asks for one function or class. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

f = al.models.load("shapes/resnet")
data = al.datasets.load("shapes", "test", 8)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# VMI-FGSM draws points around the iterate. Write the attack as a function of their radius, in units of $\epsilon$. What is it at 0?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def vmi(x, y, radius):
    """VMI-FGSM from f with 4 points within `radius` times eps, 4 steps at 8/255, seed 1."""
    ### BEGIN SOLUTION
    return al.attacks.vmi_fgsm(f, x, y, eps=8 / 255, points=4, radius=radius, steps=4, seed=1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
adv = vmi(x, y, 1.5)
assert adv.shape == x.shape and (adv - x).abs().max() <= 8 / 255 + 1e-6, "a change of up to 8/255"
asked = []
with_count = f.register_forward_pre_hook(lambda module, inputs: asked.append(torch.is_grad_enabled() * len(inputs[0])))
vmi(x, y, 0.5)
with_count.remove()
assert sum(asked) == 4 * (1 + 4) * len(x), "in each of 4 steps the network is shown the iterate and 4 points"
### BEGIN HIDDEN TESTS
mi = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=4)
other = ((vmi(x, y, 0.0) - mi).abs() > 1e-4).float().mean()
assert other < 0.02, "at radius 0 all points are the iterate, the variance is 0, and what is left is MI-FGSM in 4 steps"
for radius in (0.5, 2.0):
    rule = al.VarianceTuned(al.Elastic(1.0), points=4, radius=radius)
    expected = al.attack(x, y, al.gradient(f), momentum=rule, eps=8 / 255, steps=4, seed=1)
    other = ((vmi(x, y, radius) - expected).abs() > 1e-4).float().mean()
    assert other < 0.02, f"radius {radius}: not VMI-FGSM with 4 points, 4 steps and seed 1"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# On the loss $\frac{1}{2} z^\top A z$, $A$ symmetric, the gradient at $z$ is $Az$. Variance tuning takes the mean gradient over points $x + r_k$
# less the gradient at $x$. What is that, and what does it tend to for many points that are drawn evenly around $x$?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def variance(a, offsets):
    """The variance v, (D,), for the matrix a, (D, D), and points at x + offsets, (K, D), whatever x is."""
    ### BEGIN SOLUTION
    return a @ offsets.mean(0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
a = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
assert torch.allclose(variance(a, torch.tensor([[1.0, 1.0], [-1.0, -1.0]])), torch.zeros(2)), "opposite points cancel"
assert torch.allclose(variance(a, torch.tensor([[1.0, 0.5]])), torch.tensor([2.0, 2.0])), "one point: A r"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
for d, k in ((3, 5), (6, 2)):
    a, z, offsets = torch.randn(d, d), torch.randn(d), torch.randn(k, d)
    a = a + a.T
    v = torch.stack([a @ (z + r) for r in offsets]).mean(0) - a @ z
    assert torch.allclose(variance(a, offsets), v, atol=1e-4), (
        f"{d} dimensions, {k} points: not the mean less the middle"
    )
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A step rule has two methods: `init(x)` is its state before the first step, `update(state, g, x_t, y, draw, ball)` returns the
# direction to step along and the next state, where `g(point, y, draw)` is the gradient at a point. Write a rule that takes the gradient
# at the mean of all iterates so far, this one included, and steps along it.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
class AtTheMean:
    """The gradient at the mean of x_0, ..., x_t; no momentum."""

    def init(self, x):
        ### BEGIN SOLUTION
        return torch.zeros_like(x), 0
        ### END SOLUTION

    def update(self, state, g, x_t, y, draw, ball):
        ### BEGIN SOLUTION
        total, steps = state
        total, steps = total + x_t, steps + 1
        return g(total / steps, y, draw), (total, steps)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
first = al.attack(x, y, al.gradient(f), momentum=AtTheMean(), eps=8 / 255, steps=1)
assert torch.equal(first, al.attacks.i_fgsm(f, x, y, eps=8 / 255, steps=1)), "the mean of one iterate is that iterate"
### BEGIN HIDDEN TESTS
seen, rule = [], AtTheMean()
g = al.gradients.Gradient(lambda z, y, draw: seen.append(z) or torch.ones_like(z), (), 1)
grey = torch.full((2, 3, 4, 4), 0.5)
for attempt in range(2):
    seen.clear()
    al.attack(grey, torch.zeros(2, dtype=torch.int64), g, momentum=rule, eps=0.3, steps=3)
    places = [round(z.mean().item(), 3) for z in seen]
    assert places == [0.5, 0.55, 0.6], f"attack {attempt + 1} of the same rule: gradients at {places}, not at the means"
up = al.attack(grey, torch.zeros(2, dtype=torch.int64), g, momentum=rule, eps=0.3, steps=3)
assert torch.allclose(up, grey + 0.3), "the step goes along the gradient, from x_t and not from the mean"
### END HIDDEN TESTS
