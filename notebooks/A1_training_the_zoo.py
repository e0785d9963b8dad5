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
# Which networks attack in this book, and which are attacked? How were they trained, and how good are they?
#
# ![Test accuracy against the number of weights, on a logarithmic axis. Six marks for the small networks stand together at the left, between 86 and 89 percent. Four marks for networks of the thesis' size, trained here for a few epochs, lie further right, between 86 and 92 percent. Three marks from the thesis lie further right and highest, above 95 percent.](../figures/A1/fig_A1_b_accuracy.svg)
#
# *CIFAR-10, 10,000 test images. Left: the small networks of this book. Right: networks of the thesis' size, trained here for
# a few epochs on a GPU, and as the thesis prints them after 200 epochs (Table 5.2, SGD, basic augmentation).*
#
# - **What is asked.** A transfer result says something about the networks between which it was measured. So what are
#   ours?
# - **What the thesis takes.** Large networks, trained for long. It attacks on ImageNet and CIFAR-10, and prints accuracies
#   on CIFAR-10 in chapter 5.
# - **What we have.** Six small networks of six families, all trained by one recipe. On CIFAR-10 they are about nine points
#   less accurate than the thesis' networks, and that is sure: the test has 10,000 images.
#
# The chapter explains the six families, the recipe and its parts. Then it trains what is missing, and tests the committed
# weights anew. The run that you repeat is on `shapes`, the built-in teaching set. This page was executed on it.

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
import json
from dataclasses import replace
from math import cos, pi

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
# `shapes` is drawn, not downloaded. An image is computed from its number and a seed. Each pixel gets its distance from
# the outline of a shape, and the sign of that distance says whether it lies inside. Discs of other colours hide parts
# of it. Training, validation and test images have different numbers, so that no image is in two of these sets.

# %%
train = al.datasets.load(dataset, "train")
display(Markdown(f"*{dataset}: {len(train):,} training images; one of each class*"))
first = [int((train.y == k).nonzero()[0]) for k in range(10)]
al.plotting.gallery({dataset: train.x[first]}, train.classes[:10], side=0.75)

# %% [markdown]
# ## Six families
#
# All six are *convolutional* networks. A convolution computes each number of its output from a small window of its input,
# with the same few weights at every place. BatchNorm (BN) then brings each channel to a common mean and spread. ReLU sets
# what is negative to zero. Networks differ in how they stack these three, and the unit that is repeated is called a
# *block*.

# %%
BLOCKS = {
    "vgg": ["3 x 3", "BN\nReLU", "3 x 3", "BN\nReLU"],
    "resnet": ["3 x 3", "BN\nReLU", "3 x 3", "BN", "+", "ReLU"],
    "wrn": ["BN\nReLU", "3 x 3", "BN\nReLU", "3 x 3", "+"],
    "pyramidnet": ["BN", "3 x 3", "BN\nReLU", "3 x 3", "BN", "+"],
    "densenet": ["BN\nReLU", "1 x 1", "BN\nReLU", "3 x 3", "join"],
}  # fmt: skip
grouped = ["1 x 1", "BN\nReLU", "3 x 3\nin groups", "BN\nReLU", "1 x 1", "BN"]
BLOCKS["resnext"] = [*grouped, "+", "ReLU"]

# %%
added = "the input is added"
ARCS = {"resnet": (4, added), "wrn": (4, added), "resnext": (6, added)}
ARCS["pyramidnet"] = (5, "the input, with channels of zeros, is added")
ARCS["densenet"] = (4, "the input is kept beside")
fig = al.plotting.chains(BLOCKS, ARCS)
al.plotting.save(fig, "fig_A1_a_blocks", RUN)
fig

# %% [markdown]
# *One block of each family, from left to right. Boxes with numbers are convolutions, with windows of so many pixels.
# Red: the way around the convolutions.*
#
# - **VGG** is a plain stack. Everything goes through every layer.
# - **ResNet** adds the block's input to its output. The block has to learn only what to change, and the gradient has a
#   short way back.
# - **Wide ResNet** (`wrn`) has BN and ReLU before the convolutions, few blocks and many channels.
# - **PyramidNet** lets the number of channels grow a little in every block. Channels that the input lacks are zeros.
# - **ResNeXt** splits the middle convolution into groups that do not see one another's channels.
# - **DenseNet** adds nothing. It keeps the input and puts the new channels beside it, so that every later layer sees
#   every earlier one.
#
# Two of these can be checked by hand. If the last BatchNorm of a residual block is set to zero, nothing is added to the
# input. What is left is its ReLU:

# %% tags=["nbval-check-output"]
from advlib.zoo import nets as zoo_nets

z = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
block = zoo_nets.BasicBlock(8, 8, stride=1).eval()
torch.nn.init.zeros_(block.bn2.weight)
assert torch.equal(block(z), z.relu())
print("the block adds nothing: its output is the ReLU of its input")

# %% [markdown]
# A dense block keeps its input as it is, in the first channels of its output:

# %% tags=["nbval-check-output"]
from torchvision.models.densenet import _DenseBlock

block = _DenseBlock(1, num_input_features=8, bn_size=4, growth_rate=3, drop_rate=0.0)
out = block.eval()(z)
assert torch.equal(out[:, :8], z)
print("channels in:", z.shape[1], "and out:", out.shape[1])

# %% [markdown]
# Attacks and defences need networks with other habits, too. Most of the six therefore have relatives, with the same blocks
# and other training: on adversarial images, on noisy images, for a smooth loss, or for flat minima. [The list](#Relatives)
# comes below. [Appendix A2](A2_defences.ipynb) explains those that defend.
#
# ## The recipe
#
# One recipe for a data set and all families. No setting was chosen on test images, and no epoch either: the weights after
# the last epoch are the ones that count.

# %%
recipe = replace(al.recipes.RECIPES[dataset], seed=seed)
recipe = replace(recipe, epochs=epochs) if epochs else recipe
SAID = {"epochs": "times that each image is seen", "batch_size": "images in a step"}
SAID |= {"lr": "largest learning rate", "schedule": "how the rate changes"}
SAID |= {"weight_decay": "weight decay", "augment": "augmentation"}
SAID |= {"bf16": "passes in bfloat16", "seed": "seed"}
shown = {said: str(vars(recipe)[name]) for name, said in SAID.items()}
pd.Series(shown, name=f"recipe of {dataset}").to_frame()

# %% [markdown]
# *bfloat16 keeps a number in half the bits, which is faster; [appendix A3](A3_speed.ipynb) explains it.*
#
# ### A step: SGD with momentum
#
# A step takes the gradient of the loss on a few images. It adds a little of the weights themselves, which pulls them
# towards zero (*weight decay*, $\lambda$). The *momentum* $m$ sums these gradients, and forgets them slowly. Nesterov's
# form takes the step from where the momentum is about to lead:
#
# $$g_t = \nabla L(w_t) + \lambda w_t, \qquad m_{t+1} = \mu m_t + g_t, \qquad w_{t+1} = w_t - \eta (g_t + \mu m_{t+1})$$
#
# By hand, on one weight with $L(w) = w^2 / 2$, whose gradient is $w$. We start at one, and take two steps:

# %% tags=["nbval-check-output"]
eta, mu, decay = 0.1, 0.9, 0.01
w, m = 1.0, 0.0
for _ in range(2):
    g = w + decay * w
    m = mu * m + g
    w = w - eta * (g + mu * m)
    print(f"gradient {g:.3f}, momentum {m:.3f}, weight {w:.3f}")

# %% tags=["nbval-check-output"]
u = torch.ones(1, requires_grad=True)
options = {"lr": eta, "momentum": mu, "weight_decay": decay, "nesterov": True}
optimizer = torch.optim.SGD([u], **options)
for _ in range(2):
    optimizer.zero_grad()
    (u**2 / 2).sum().backward()
    optimizer.step()
assert abs(u.item() - w) < 1e-6
print("torch's optimizer gets to the same weight")

# %% [markdown]
# ### One cycle of the learning rate
#
# How long should a step be? At the start the weights are random, and long steps go astray. In the middle long steps get far.
# At the end short steps settle down. *One cycle* (Smith & Topin 2018) does all three. The rate climbs along half a wave of
# a cosine, and falls along another, to almost zero. From $\eta_a$ to $\eta_b$ in $N$ steps that is
#
# $$\eta(t) = \eta_b + (\eta_a - \eta_b) \, \frac{1 + \cos(\pi t / N)}{2}$$
#
# The momentum goes the other way: where steps are long, it forgets faster.


# %%
def watched(steps):
    """The learning rate and the momentum of every step of a training."""
    w = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=recipe.lr, momentum=0.9, nesterov=True)
    schedule = al.recipes.SCHEDULES[recipe.schedule](optimizer, recipe.lr, steps)
    for _ in range(steps):
        (group,) = optimizer.param_groups
        yield group["lr"], group["momentum"]
        optimizer.step()
        schedule.step()


# %%
rate, momentum = zip(*watched(100), strict=True)
done = list(range(100))
panels = {"learning rate": {"rate": (done, rate)}}
panels["momentum"] = {"momentum": (done, momentum)}
below, left = "training done (%)", ["learning rate (no unit)", "momentum (no unit)"]
fig = al.plotting.curves(panels, below, left, sharey=False)
al.plotting.save(fig, "fig_A1_c_one_cycle", RUN)
fig

# %% [markdown]
# *One cycle. The learning rate climbs for the first three tenths of the training and then falls to almost zero. The momentum
# falls and climbs again.*

# %% tags=["nbval-check-output"]
top = rate.index(max(rate))
N = 99 - top
parts = [(1 + cos(pi * t / N)) / 2 for t in range(N + 1)]
wave = [rate[-1] + (recipe.lr - rate[-1]) * part for part in parts]
assert max(abs(a - b) for a, b in zip(rate[top:], wave, strict=True)) < 1e-9
print(f"the rate is largest after {top + 1} of 100 steps")
print("then it falls as the formula says")

# %% [markdown]
# ### Augmentation: more images than there are
#
# A photograph of a cat is still one if it is shifted a little, or seen in a mirror. So the network is shown another version
# in every epoch, and learns to give all of them the same answer. *Crop* pads the image with zeros and cuts a window of the
# old size somewhere. *Flip* mirrors it in half of the cases.
#
# ![A photograph of a horse, six times in three rows. In the row crop it is shifted by a few pixels, with a black edge. In the row flip it looks to the left or to the right. In the row both it is shifted and mirrored.](../figures/A1/fig_A1_d_augmentation_cifar10.svg)
#
# *An image of CIFAR-10 in six epochs. Below, the same for an image of this run.*

# %%
one = train.images[first[7]][None]
versions = {"crop": [], "flip": [], "both": []}
for epoch in range(6):
    draw = al.draws.Draw(seed=1, index=train.index[first[7]][None], step=epoch)
    cropped = al.augment.random_crop(one, draw)
    versions["crop"].append(cropped)
    versions["flip"].append(al.augment.random_flip(one, draw))
    versions["both"].append(al.augment.random_flip(cropped, draw))
rows = {name: torch.cat(found).float() / 255 for name, found in versions.items()}

# %%
heads = [f"epoch {k + 1}" for k in range(6)]
fig = al.plotting.gallery(rows, titles=heads, side=1.05)
al.plotting.save(fig, f"fig_A1_d_augmentation_{dataset}", RUN)
fig

# %% [markdown]
# *One training image of `shapes`. Crop shifts it and leaves a black edge; flip mirrors it or leaves it alone.*
#
# The recipe of `shapes` flips only, that of CIFAR-10 does both. Which version an image gets depends on the seed, the epoch
# and the number of the image, and on nothing else. So the same image gets the same crop in any batch:

# %% tags=["nbval-check-output"]
some = train.images[:8]
crop = al.augment.random_crop
together = crop(some, al.draws.Draw(seed=0, index=train.index[:8], step=3))
alone = crop(some[5:6], al.draws.Draw(seed=0, index=train.index[5:6], step=3))
assert torch.equal(together[5:6], alone)
print("the crop of image 5 is the same alone and in a batch")

# %% [markdown]
# ## Training what is missing
#
# Checkpoints are written after every epoch and picked up again, so that a killed run loses at most one epoch. `retrain`
# begins anew. The new weights replace those in `data/weights`, which all chapters load. Weights of another seed stay in
# the folder of the run, and so do those of the smoke scale, where a training is a trial of one epoch on a few images.


# %%
def tell(name, total, row):
    """A line after each epoch."""
    done = f"{row['epoch']}/{total}, {row['seconds']:.0f} s"
    right = f"{row['val_accuracy']:.1%} of the validation images"
    print(f"{name}: {done}, {right}", flush=True)


trial = RUN.weights if scale == "smoke" else None
again = nets if retrain else []

# %%
options = {"device": device, "report": tell, "seed": seed, "epochs": epochs}
options |= {"folder": RUN.weights} if seed else {}
found = al.trainees.provide(dataset, nets, again, RUN.checkpoints, trial, **options)
print(found)

# %% [markdown]
# ## What we have
#
# Everything below is read from `data/weights/manifest.json`, where each network has its accuracy, recipe, seed and
# checksum. First CIFAR-10:

# %%
manifest = al.weights.manifest()
manifest |= al.weights.manifest(found.folder) if found.trained else {}
entries = {name: manifest[name] for name in names}

# %%


def listed(names):
    """The facts of these networks as a table."""
    found = {}
    for name in names:
        e = manifest[name]
        row = {"weights (thousands)": round(e["parameters"] / 1000)}
        row["test accuracy (%)"] = f"{100 * e['accuracy']:.1f}"
        row["test images"] = f"{e['n']:,}"
        row["training images"] = f"{e['trained_on']:,}"
        found[name] = row | {"epochs": e["recipe"]["epochs"]}
    return pd.DataFrame(found).T


# %%
cifar10 = [f"cifar10/{family}" for family in zoo_nets.FAMILIES]
listed(cifar10)

# %% [markdown]
# *The smallest net is not the weakest: DenseNet and PyramidNet do more with fewer weights.*
#
# And the networks of this run:

# %%
listed(names)

# %% [markdown]
# ### Beside the networks of the thesis
#
# This is the picture from the top of the page. The marks of the thesis are Table 5.2, plain SGD, at the sizes that our own
# code gives its networks. Between the two kinds stand networks of the thesis' size that we trained on a GPU for few
# epochs:

# %%
file = al.results.RESULTS / "gpu" / "full_size" / "networks.json"
ours = {e["network"]: e for e in json.loads(file.read_text(encoding="utf-8"))}
plain = ["ResNet-18", "VGG-19", "DenseNet-BC-100", "WRN-28-10"]
weights = {name: ours[name]["parameters"] for name in plain}
full = al.models.create("pyramidnet", "full", "cifar10")
weights["PyramidNet-110"] = sum(p.numel() for p in full.parameters())

# %%
printed = al.published.table("5.2").query("dataset == 'CIFAR-10'")
printed = printed.query("optimizer == 'SGD' and augmentation == 'Basic'")
printed = printed.set_index("model").value
rows = {}
for name, count in weights.items():
    e, said = ours.get(name), printed.get(name)
    row = {"weights (millions)": f"{count / 1e6:.1f}"}
    row["ours (%)"] = f"{100 * e['accuracy']:.1f}" if e else ""
    row["our epochs"] = e["epochs"] if e else ""
    row["thesis (%)"] = f"{said:.1f}" if said else ""
    rows[name] = row
pd.DataFrame(rows).T

# %% [markdown]
# *CIFAR-10, ours on 10,000 test images, one seed each. The thesis trains for 200 epochs. Where a cell is empty, there is
# no such network here, or none in the thesis' table.*


# %%
def mark(e):
    """Where a network of ours stands."""
    return e["parameters"], 100 * e["accuracy"]


marks = {"small, the zoo": [mark(manifest[name]) for name in cifar10]}
marks["thesis' size, few epochs"] = [mark(ours[name]) for name in plain]
both = [name for name in weights if name in printed]
marks["thesis, 200 epochs"] = [(weights[name], printed[name]) for name in both]

# %%
panel = {kind: tuple(zip(*found, strict=True)) for kind, found in marks.items()}
labels = ("weights (number)", "test accuracy (%)")
fig = al.plotting.points({"CIFAR-10": panel}, *labels, xscale="log")
fig.set_size_inches(7.2, 3.4)
al.plotting.save(fig, "fig_A1_b_accuracy", RUN)
fig

# %% [markdown]
# *Test accuracy on CIFAR-10 against the number of weights. The small networks stand at the left, the thesis' at the top
# right.*
#
# So the gap has two parts: the networks are small, and they were trained briefly. In the table large networks with few
# epochs are far below the thesis, too, and DenseNet is no better than its small relative.
#
# ### The curves
#
# ![Validation accuracy of six networks on CIFAR-10 against the epoch. All rise from about 45 to about 88 percent in 15 epochs, with dips in the middle and a last climb at the end.](../figures/A1/fig_A1_training_cifar10.svg)
#
# *CIFAR-10, the six small networks: validation accuracy after each epoch, on 1,000 images that are neither trained on nor
# tested on.*

# %%
lines = {}
for name, e in entries.items():
    passed = list(range(1, len(e["curve"]) + 1))
    lines[name.split("/")[1]] = (passed, [100 * v for v in e["curve"]])
panel = {f"{dataset}, {size} size": lines}
fig = al.plotting.curves(panel, "epoch", "validation accuracy (%)")
fig.set_size_inches(6.0, 3.2)
al.plotting.save(fig, f"fig_A1_training_{dataset}", RUN)
fig

# %% [markdown]
# *The networks of this run. The learning rate falls to zero at the end, where all curves climb once more.*
#
# ### Measured again
#
# The accuracies of the manifest, measured on this machine from the weights in `data/weights`, which are kept in half
# precision:

# %%
most = 2000 if dataset == "shapes" else 10_000
test = al.datasets.load(dataset, "test", min(n, most)).to(device)
kept, measured = al.weights.manifest(), {}
for name in [k for k in names if entries[k] == kept.get(k)]:  # not the run's own
    net = al.models.load(name).to(device)
    k = round(al.training.accuracy(net, test) * len(test))
    low, high = al.intervals.wilson(k, len(test))
    row = {"accuracy (%)": f"{100 * k / len(test):.1f}", "images": f"{len(test):,}"}
    measured[name] = row | {"95 % interval": f"{low:.1f} to {high:.1f}"}
pd.DataFrame(measured).T

# %% tags=["nbval-check-output"]
said = {name: 100 * entries[name]["accuracy"] for name in measured}
inside = [abs(float(measured[k]["accuracy (%)"]) - said[k]) < 6 for k in measured]
assert all(inside)
print(f"networks tested again: {len(measured)} of {len(names)}")
print(f"as accurate as the manifest says: {sum(inside)}")

# %% [markdown]
# ## Relatives
#
# The networks with other training, and where the book explains it. They have the blocks of the family whose name they begin
# with.

# %%
WHERE = {"-pgd": "trained on adversarial images (A2)", "-noise": "on noisy images (A2)"}
WHERE |= {"-ens": "on adversarial images of other networks (A2)"}
WHERE |= {"-tuned": "fine-tuned without a penalty (chapter 4)"}
WHERE |= {"-lrs": "fine-tuned for a smooth loss (chapter 4)"}
WHERE |= {"-adv": "fine-tuned on adversarial images (chapter 4)"}
WHERE |= {"-sam": "for a flat minimum (chapter 5)", "-crsam": "the same (chapter 5)"}

# %%
ours = [name for name in manifest if name.startswith("cifar10")]
kin = {k: w for k in ours for part, w in WHERE.items() if part in k}
table = listed(kin)
table.insert(0, "training", list(kin.values()))
table.drop(columns=["weights (thousands)", "training images"])

# %% [markdown]
# *CIFAR-10. Training on adversarial or noisy images costs the most accuracy on clean ones. A flat minimum costs next to
# none.*
#
# ## Witnesses
#
# Six networks of one recipe may share habits that come from the recipe. So wherever their weights are at hand, chapters add
# networks that nobody here trained. They carry a star in tables. Their weights are looked for in `$ADVLIB_DATA/weights`.

# %%
witnesses = {}
for name in al.witnesses.found(f"{dataset}/"):
    net = al.models.load(name).to(device)
    witnesses[name] = f"{al.training.accuracy(net, test):.1%}"
said = f"*No independent network for {dataset} on this machine.*"
head = f"accuracy on {len(test):,} test images"
found = pd.Series(witnesses, name=head).to_frame()
display(found if witnesses else Markdown(said))

# %% [markdown]
# ## What we found
#
# 1. **The six are alike in accuracy.** On CIFAR-10 the best and the worst are two points apart. A difference between two
#    targets is therefore hardly one of accuracy.
# 2. **They are not the networks of the thesis.** On CIFAR-10 they are about nine points below, because they are small and
#    were trained briefly. Numbers that are measured on them are numbers about small networks.
# 3. **The last epochs matter most.** As the learning rate falls to zero, all curves climb once more.
#
# ## Summary
#
# - A family is a way to stack convolutions: a chain, a sum with the input, or a joint with it.
# - One recipe trains all: SGD with Nesterov momentum, one cycle of the learning rate, shifted and mirrored images.
# - `al.models.load("cifar10/resnet")` checks the checksum before it loads. `al.models.zoo(dataset)` gives all of a data
#   set.
# - The thesis' sizes train with the same notebook: `python -m advlib run A1 --dataset cifar10 --scale paper -p size=full
#   -p epochs=200`. `al.models.load("cifar10/resnet-full")` loads one. The other chapters compare the small networks at
#   every scale.
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
