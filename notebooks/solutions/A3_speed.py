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
assert shown(2, 3) >= 6, "in each of 2 steps f is shown 3 copies of an image"
### BEGIN HIDDEN TESTS
for steps, copies in ((2, 3), (3, 1), (1, 4)):
    sizes = []
    hook = f.register_forward_pre_hook(lambda module, inputs, sizes=sizes: sizes.append(len(inputs[0])))
    try:
        found = shown(steps, copies)
    finally:
        hook.remove()
    assert sizes, "f is shown nothing: measure it"
    assert abs(found - sum(sizes) / len(x)) < 1e-6, f"f was shown {sum(sizes)} images for {len(x)}"
assert abs(shown(4, 3) - shown(2, 3) - 6) < 1e-6, "two steps more with 3 copies are 6 images more"
assert abs(shown(2, 5) - shown(2, 3) - 4) < 1e-6, "two copies more in 2 steps are 4 images more"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# A BatchNorm in eval mode maps $z$ to $\gamma (z - \mu) / \sqrt{v + \epsilon} + \beta$. Fold it into the convolution before it.


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def folded(conv, norm):
    """A new Conv2d that does what `norm(conv(x))` does in eval mode; conv has no bias, any stride, padding and groups."""
    ### BEGIN SOLUTION
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups
    )
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - norm.running_mean * scale)
    return one
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
torch.manual_seed(0)
conv, norm = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(5).eval()
with torch.no_grad():
    one = folded(conv, norm)
    assert isinstance(one, nn.Conv2d) and one(x).shape == conv(x).shape, "one Conv2d, with an output of the same size"
    assert torch.allclose(one(x), norm(conv(x)), atol=1e-5), "another output than norm(conv(x))"
### BEGIN HIDDEN TESTS
with torch.no_grad():
    for groups, stride, padding, eps in ((1, 1, 1, 0.1), (3, 2, 0, 1e-5), (1, 2, 2, 1e-3)):
        conv = nn.Conv2d(3, 3, 3, stride=stride, padding=padding, groups=groups, bias=False)
        norm = nn.BatchNorm2d(3, eps=eps).eval()
        for t in (norm.weight, norm.bias, norm.running_mean):
            t.normal_()
        norm.running_var.uniform_(0.5, 2)
        kept, expected = conv.weight.clone(), norm(conv(x))
        found, case = folded(conv, norm)(x), f"stride {stride}, padding {padding}, {groups} groups, epsilon {eps}"
        assert found.shape == expected.shape, f"the output has another size, with {case}"
        assert torch.allclose(found, expected, atol=1e-4), f"another output than norm(conv(x)), with {case}"
        assert torch.equal(conv.weight, kept) and conv.bias is None, "the convolution that was handed in is changed"
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
few, labels = x[:2], y[:2]
assert abs((sim(few, labels, 1) - few).abs().max() - 8 / 255) < 1e-6, "the largest change of a pixel is eps"
### BEGIN HIDDEN TESTS
expected, calls = al.attacks.sim(f, few, labels, eps=8 / 255, steps=3, copies=5), {}
for chunk in (1, 2, 5):
    sizes = calls[chunk] = []
    hook = f.register_forward_pre_hook(lambda module, inputs, sizes=sizes: sizes.append(len(inputs[0])))
    try:
        adv = sim(few, labels, chunk)
    finally:
        hook.remove()
    other = ((adv - expected).abs() > 1e-4).float().mean()
    assert other < 0.05, f"chunk = {chunk} changes the result: {other:.0%} of the pixels are others than SIM's"
    assert max(sizes) == chunk * len(few), f"f is to be shown {chunk} copies of the batch at once"
assert len(calls[1]) - len(calls[5]) == 12, "5 copies in one call instead of five save 4 calls in each of 3 steps"
### END HIDDEN TESTS
