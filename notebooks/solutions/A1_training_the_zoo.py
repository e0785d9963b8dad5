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

train, val = al.datasets.load("shapes", "train", 256), al.datasets.load("shapes", "val", 100)

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
assert first.dim() == 4
### BEGIN HIDDEN TESTS
assert torch.equal(first, weights_after(0)) and not torch.equal(first, weights_after(1))
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
assert images_needed(0.9, 0.1) < images_needed(0.9, 0.01)
### BEGIN HIDDEN TESTS
n = images_needed(0.9, 0.01)
low, high = al.results.wilson(round(0.9 * n), n)
assert abs(n - 13830) <= 5 and abs(high - low - 1) < 0.01
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A seventh family: a network without convolutions (a multi-layer perceptron, a small MLP-Mixer, ...), from images (N, 3, 32, 32) in [0, 1] to
# 10 logits, with fewer than half a million weights.


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mlp():
    """A torch.nn.Module."""
    ### BEGIN SOLUTION
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.LayerNorm(768), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
torch.manual_seed(0)
net = mlp()
assert net(train.x[:4]).shape == (4, 10) and sum(p.numel() for p in net.parameters()) < 500_000
### BEGIN HIDDEN TESTS
assert not any(isinstance(m, nn.Conv2d) for m in net.modules())
rows = al.training.fit(net, train, val, replace(al.recipes.RECIPES["shapes"], epochs=5, lr=0.02, batch_size=32))
assert rows[-1]["loss"] < rows[0]["loss"]
### END HIDDEN TESTS
