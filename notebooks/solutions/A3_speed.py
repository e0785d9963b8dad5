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
# # Speed: exercises
#
# They go with appendix A3, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch
from torch import nn

import advlib as al

f = al.models.load("shapes/resnet")
data = al.datasets.load("shapes", "test", 8)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# The cost of an attack is counted in passes. Count how many images the network is shown, per image attacked, in an attack with
# a number of steps and of copies, and find the formula.


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def shown(steps, copies):
    """Images that f is shown, per image of x, by SIM with these numbers of steps and copies, measured."""
    ### BEGIN SOLUTION
    count = 0

    def counted(z):
        nonlocal count
        count += len(z)
        return f(z)

    al.attacks.sim(counted, x, y, steps=steps, copies=copies)
    return count / len(x)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert shown(1, 1) >= 1
### BEGIN HIDDEN TESTS
assert shown(4, 3) - shown(2, 3) == 6 and shown(2, 5) - shown(2, 3) == 4
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# A BatchNorm in eval mode maps $z$ to $\gamma (z - \mu) / \sqrt{v + \epsilon} + \beta$. Fold it into the convolution before it.


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def folded(conv, norm):
    """One Conv2d that does what `norm(conv(x))` does in eval mode; conv has no bias."""
    ### BEGIN SOLUTION
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - norm.running_mean * scale)
    return one
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
torch.manual_seed(0)
conv, norm = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(5).eval()
assert isinstance(folded(conv, norm), nn.Conv2d)
### BEGIN HIDDEN TESTS
with torch.no_grad():
    for t in (norm.weight, norm.bias, norm.running_mean):
        t.normal_()
    norm.running_var.uniform_(0.5, 2)
assert torch.allclose(folded(conv, norm)(x), norm(conv(x)), atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# SIM's copies may be shown to the network one after the other, or several at once (`chunk`), which costs memory and saves calls.
# Write the attack with a chunk, and time it on your machine at batches of 1, 8 and 128.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sim(x, y, chunk):
    """SIM with 5 copies from f, 3 steps at 8/255, `chunk` copies at once."""
    ### BEGIN SOLUTION
    return al.attacks.sim(f, x, y, eps=8 / 255, steps=3, copies=5, chunk=chunk)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert (sim(x, y, 1) - x).abs().max() <= 8 / 255 + 1e-6
### BEGIN HIDDEN TESTS
assert ((sim(x, y, 5) - sim(x, y, 1)).abs() > 1e-4).float().mean() < 0.01
calls = []
net, kept = f, f.forward
f.forward = lambda z: calls.append(len(z)) or kept(z)
sim(x, y, 5)
few = len(calls)
calls.clear()
sim(x, y, 1)
f.forward = kept
assert few < len(calls)
### END HIDDEN TESTS
