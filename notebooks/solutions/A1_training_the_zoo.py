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
# # Training the zoo: exercises
#
# They go with appendix A1, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
from dataclasses import replace

import torch
from torch import nn

import advlib as al

train, val = al.datasets.load("shapes", "train", 128), al.datasets.load("shapes", "val", 64)

# %% [markdown]
# ## 1. Turn one knob
#
# The seed of a recipe sets the order of the images, their augmentation and the objective's draws; that of the weights is its
# own. Train the same small network with another seed: which of the two runs is the same as which?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def weights_after(seed):
    """The first weight tensor of shapes/resnet's architecture (initial seed 0) after one epoch of `train`."""
    ### BEGIN SOLUTION
    model = al.models.create("resnet", "small", "shapes", 0)
    recipe = replace(al.recipes.RECIPES["shapes"], epochs=1, seed=seed)
    al.training.fit(model, train, val, recipe)
    return next(model.parameters()).detach()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
first = weights_after(0)
start = next(al.models.create("resnet", "small", "shapes", 0).parameters())
assert first.shape == start.shape and not torch.equal(first, start), "the first weight tensor, and trained"
### BEGIN HIDDEN TESTS
second = weights_after(1)
assert not torch.allclose(first, second), "another seed of the recipe gives other weights"
net = al.models.create("resnet", "small", "shapes", 0)
al.training.fit(net, train, val, replace(al.recipes.RECIPES["shapes"], epochs=1, seed=1))
expected = next(net.parameters())
assert torch.allclose(second, expected, atol=1e-4), "not the weights after one epoch of `train`, from initial seed 0"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# A network of accuracy $a$ is tested on $n$ images. How many are needed for an interval of 95 % (normal approximation) that is no wider
# than `width`?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def images_needed(a, width):
    """The smallest n; a, width in [0, 1]."""
    ### BEGIN SOLUTION
    from math import ceil

    return ceil(4 * 1.959964**2 * a * (1 - a) / width**2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert images_needed(0.5, 0.1) == 385, "1.96 standard errors to either side, and the smallest whole number"
### BEGIN HIDDEN TESTS
for a, width, n in ((0.9, 0.01, 13830), (0.8, 0.05, 984), (0.95, 0.1, 73)):
    found = images_needed(a, width)
    assert found == n, f"a = {a}, width = {width}: with {n} images the interval is just no wider, not with {found}"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A seventh family: a network without convolutions (a multi-layer perceptron, a small MLP-Mixer, ...), from images (N, 3, 32, 32) in [0, 1] to
# 10 logits, with fewer than half a million weights.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mlp():
    """A torch.nn.Module from images to logits, which is no linear map; all of its weights can be trained."""
    ### BEGIN SOLUTION
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
torch.manual_seed(0)
net = mlp()
assert net(train.x[:4]).shape == (4, 10), "10 logits for each image"
assert sum(p.numel() for p in net.parameters()) < 500_000, "fewer than half a million weights"
### BEGIN HIDDEN TESTS
assert not any(isinstance(m, nn.modules.conv._ConvNd) for m in net.modules()), "a convolution is among the layers"
before = {name: p.detach().clone() for name, p in net.named_parameters()}
rows = al.training.fit(net, train, val, replace(al.recipes.RECIPES["shapes"], epochs=5, lr=0.02, batch_size=32))
assert rows[-1]["loss"] < rows[0]["loss"], "the loss on the training images does not fall"
assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters()), "some weights are not trained"
with torch.no_grad():
    logits, halfway = net(train.x), net((train.x[:64] + train.x[64:]) / 2)
assert logits.std(0).max() > 1e-3, "the same logits for every image"
assert logits.min() < 0, "logits may be of either sign: no ReLU, no softmax after the last layer"
assert (halfway - (logits[:64] + logits[64:]) / 2).abs().max() > 1e-3, "a linear network, layers or not"
### END HIDDEN TESTS
