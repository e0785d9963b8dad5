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
# # A1. Training the zoo
#
# Which networks attack, and which are attacked? The chapters compare six families of small convolutional networks
# that we trained ourselves, and, where their weights are at hand, independent networks that nobody here trained.
# This appendix trains what is missing, shows the recipe and the curves, and tests the committed weights anew.

# %% tags=["parameters"]
scale: str = "laptop"  # one of smoke, laptop or paper
dataset: str = "shapes"  # one of shapes, cifar10 or cifar100
families: list[str] = ["resnet", "vgg", "densenet", "wrn", "resnext", "pyramidnet"]  # of the zoo;
# not empty; each one of resnet, vgg, densenet, wrn, resnext or pyramidnet
size: str = "small"  # of the networks: 0.19 to 0.31 million weights, or the thesis', for a GPU;
# one of small or full
retrain: bool = False  # train also where weights are committed
epochs: int = 0  # 0 takes the number of the recipe; at least 0
seed: int = 0  # of weights, order of images and augmentation; at least 0

# %%
from dataclasses import replace

import pandas as pd
import torch
from IPython.display import Markdown, display

import advlib as al

# %%
SETTINGS = {"smoke": {"n": 50}, "laptop": {"n": 2000}, "paper": {"n": 10_000}}
RUN = al.chapters.begin("A1", globals(), SETTINGS)
n, device = RUN["n"], RUN.device
nets = [family + ("-full" if size == "full" else "") for family in families]
names = [f"{dataset}/{net}" for net in nets]
print(RUN)

# %% [markdown]
# ## The data
#
# `shapes` is drawn, not downloaded: ten classes by signed distance, over discs that occlude one another. An image
# is a function of its seed and index, so that the splits are disjoint ranges of the index.

# %%
train = al.datasets.load(dataset, "train")
display(
    Markdown(
        f"{len(train):,} training images of {dataset}, {len(train.classes)} classes: {', '.join(train.classes[:10])}"
    )
)
first = [int((train.y == k).nonzero()[0]) for k in range(10)]
al.plotting.gallery({dataset: train.x[first]}, [train.classes[k] for k in range(10)], side=0.8)

# %% [markdown]
# ## The recipe
#
# One recipe for a data set and all families: SGD with Nesterov momentum and a one-cycle learning rate, crops and
# flips, passes in bfloat16, the last epoch's weights. No setting was chosen on test images, and no epoch either.

# %%
recipe = replace(al.recipes.RECIPES[dataset], seed=seed)
recipe = replace(recipe, epochs=epochs) if epochs else recipe
pd.Series(vars(recipe), name="recipe").astype(str).to_frame()

# %% [markdown]
# Batches never leave the device: the data lie there as 8-bit numbers, and are cropped and flipped there, with a
# shift drawn for each image by its index. So may be checked what randomness hangs on: the same image gets the same
# crop in any batch.

# %% tags=["nbval-check-output"]
draw = al.draws.Draw(seed=0, index=train.index[:8], step=3)
together = al.augment.random_crop(train.images[:8], draw)
alone = al.augment.random_crop(train.images[5:6], al.draws.Draw(seed=0, index=train.index[5:6], step=3))
assert torch.equal(together[5:6], alone)
print("the crop of image 5 is the same alone and in a batch:", torch.equal(together[5:6], alone))

# %% [markdown]
# ## Training what is missing
#
# A killed run loses at most one epoch: checkpoints are written after every epoch and picked up again. `retrain` begins
# anew. The new weights replace those in `data/weights`, which all chapters load; those of another seed stay in the
# folder of the run. At smoke scale a training is a trial of one epoch on a few images, and its weights stay there too.


# %%
def tell(name, total, row):
    """A line after each epoch."""
    epoch, seconds, accuracy = row["epoch"], row["seconds"], row["val_accuracy"]
    print(f"{name}: {epoch}/{total}, {seconds:.0f} s, {accuracy:.1%} of the validation images", flush=True)


trial = RUN.weights if scale == "smoke" else None
again = nets if retrain else []
options = {"device": device, "report": tell, "seed": seed, "epochs": epochs}
options |= {"folder": RUN.weights} if seed else {}
found = al.trainees.provide(dataset, nets, again, RUN.checkpoints, trial, **options)
print(found)

# %% [markdown]
# ## What we have

# %%
manifest = al.weights.manifest() | (al.weights.manifest(found.folder) if found.trained else {})
entries = {name: manifest[name] for name in names}
table = pd.DataFrame(
    {
        name: {
            "parameters (thousands)": round(e["parameters"] / 1000),
            "test accuracy (%)": round(100 * e["accuracy"], 1),
            "n": e["n"],
            "epochs": e["recipe"]["epochs"],
            "trained on": e["trained_on"],
            "date": e["date"],
        }
        for name, e in entries.items()
    }
).T
table

# %%
epoch_range = {name: list(range(1, len(e["curve"]) + 1)) for name, e in entries.items()}
lines = {name.split("/")[1]: (epoch_range[name], [100 * v for v in e["curve"]]) for name, e in entries.items()}
fig = al.plotting.curves({f"{dataset}, {size} size": lines}, "epoch", "validation accuracy (%)")
al.plotting.save(fig, f"fig_A1_training_{dataset}", RUN)
fig

# %% [markdown]
# *Validation accuracy after each epoch, on 1,000 images that are neither trained on nor tested on. One-cycle
# schedules end at a learning rate of zero: the last epochs gain most.*
#
# The manifest's accuracies, measured again on this machine from the half-precision weights in `data/weights`:

# %%
test = al.datasets.load(dataset, "test", min(n, 2000 if dataset == "shapes" else 10_000)).to(device)
again = {}
for name, entry in entries.items():
    if entry == al.weights.manifest().get(name):  # not those that stay in the folder of the run
        k = round(al.training.accuracy(al.models.load(name).to(device), test) * len(test))
        again[name] = {
            "accuracy (%)": 100 * k / len(test),
            "n": len(test),
            "95 % interval": "{:.1f} to {:.1f}".format(*al.intervals.wilson(k, len(test))),
        }
pd.DataFrame(again).T

# %% tags=["nbval-check-output"]
inside = [abs(row["accuracy (%)"] - 100 * entries[name]["accuracy"]) < 6 for name, row in again.items()]
assert all(inside)
print(f"networks tested again: {len(again)} of {len(names)}, as accurate as the manifest says: {sum(inside)}")

# %% [markdown]
# ## Witnesses
#
# Networks that nobody here trained, in `$ADVLIB_DATA/weights`. They are targets that cannot share a habit of our
# recipe.

# %%
witnesses = al.witnesses.found(f"{dataset}/")
if witnesses:
    rows = {name: f"{al.training.accuracy(al.models.load(name).to(device), test):.1%}" for name in witnesses}
    display(pd.Series(rows, name=f"accuracy on {len(test):,} test images").to_frame())
else:
    display(Markdown(f"*No independent network for {dataset} on this machine.*"))

# %% [markdown]
# ## Summary
#
# - Six families, one recipe; weights in half precision with their sha256, accuracy, n, recipe, seed and date in
#   `data/weights/manifest.json`.
# - `al.models.load("cifar10/resnet")` checks the sum before it loads; `al.models.zoo(dataset)` gives all of a data
#   set.
# - The thesis' full-size networks train with the same notebook: `python -m advlib run A1 --dataset cifar10 --scale
#   paper -p size=full -p epochs=200`.
#   `al.models.load("cifar10/resnet-full")` loads one. The other chapters compare the small networks at every scale.
#
# ## Exercises
#
# Three shorter ones, with tests that say whether an answer is right, are in `notebooks/solutions`; `make course` writes them
# without the solutions.
#
# 1. *Turn one knob.* Train the ResNet with `-p seed=1 -p retrain=True -p families=resnet`. Its weights stay in the
#    folder of the run: `al.weights.restore(net, "shapes/resnet", RUN.weights)` loads them into an untrained `net`, such as
#    `al.models.create("resnet", dataset="shapes").net`. How much does the accuracy move? How much does the success rate
#    of MI-FGSM from one ResNet to the other differ from the white-box rate?
# 2. *Derive.* A net of accuracy $a$ is tested on $n$ images. For which $n$ is the 95 % interval shorter than one
#    point, at $a = 0.9$?
# 3. *Build.* Add a seventh family to `advlib/zoo/nets.py` (a small MLP-Mixer, say) and train it. Does it differ more
#    from the others as a target?
#
# ## References
#
# - K. He et al., *Deep residual learning for image recognition*, CVPR 2016.
# - K. Simonyan, A. Zisserman, *Very deep convolutional networks for large-scale image recognition* (VGG), ICLR
#   2015.
# - G. Huang et al., *Densely connected convolutional networks*, CVPR 2017.
# - S. Zagoruyko, N. Komodakis, *Wide residual networks*, BMVC 2016.
# - S. Xie et al., *Aggregated residual transformations for deep neural networks* (ResNeXt), CVPR 2017.
# - D. Han et al., *Deep pyramidal residual networks*, CVPR 2017.
# - L. Smith, N. Topin, *Super-convergence: very fast training of neural networks using large learning rates*, 2018.
