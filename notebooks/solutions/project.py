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
# # Project: attack and defend
#
# Somewhere there is a network that names the pictures of `shapes`. You will not see it, neither its family nor its
# weights. Write an attack that fools it, and a defence that its attacks do not get past; then say how far your defence
# can be trusted.
#
# - *What you have.* All networks of the zoo for `shapes` (`al.models.available()` lists them), the validation images,
#   and this book.
# - *What is graded.* Functions, on images that you have not seen: what they do to the hidden network and against it.
#   The checks that you see look at the form alone; the others run when you hand in.
# - *What counts most* is honesty: the third part grades what you claim of your own defence, not how strong it is.
#
# Eight points by program, and two for a page of text. Choose settings on the validation images, and on other networks
# than the one that you attack with. A run of all cells should take no more than two or three minutes.

# %%
from functools import cache

import torch

import advlib as al

EPS = 8 / 255
data = al.datasets.load("shapes", "val", 100)
x, y = data.x, data.y
load = cache(lambda name: al.models.load(f"shapes/{name}"))


def fooled(model, adv, x, y):
    """The success rate in percent: wrong answers to adv, among the images that the model names rightly."""
    with torch.no_grad():
        right, wrong = model(x).argmax(1) == y, model(adv).argmax(1) != y
    return 100 * float((right & wrong).sum() / right.sum())


# %% [markdown]
# ## 1. Attack
#
# Write `attack`. It may use every network of the zoo, in any way that costs at most 200 gradient passes for each image,
# all networks together. Its images stay in the ball and between 0 and 1. Two points for a success rate on the hidden
# network above that of I-FGSM from the ResNet with 10 steps, two more for one above that of MI-FGSM from ResNet, VGG
# and DenseNet together.


# %% nbgrader={"grade": false, "grade_id": "attack", "locked": false, "schema_version": 3, "solution": true, "task": false}
def attack(x, y, eps):
    """Adversarial images, like x, within eps of it."""
    ### BEGIN SOLUTION
    surrogates = [load(name) for name in ("densenet-lrs2", "resnet", "wrn", "pyramidnet", "vgg")]
    rule = al.Elastic(mu=1.0, sigma=2.0, project="ball")
    return al.attack(x, y, al.gradient(al.ensemble(surrogates)), momentum=rule, eps=eps, steps=20)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-attack", "locked": true, "points": 0, "schema_version": 3, "solution": false, "task": false}
adv = attack(x, y, EPS)
assert adv.shape == x.shape and adv.dtype == x.dtype, "one image for each image"
assert (adv - x).abs().max() < EPS + 1e-6, "a pixel has changed by more than eps"
assert adv.min() >= 0 and adv.max() <= 1, "pixels have values from 0 to 1"
for name in ("resnext", "resnet-sam"):
    print(f"{name}: fooled by {fooled(load(name), adv, x, y):.0f} % of the images it names rightly")

# %% nbgrader={"grade": true, "grade_id": "check-attack-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Two points: more than I-FGSM does, within 200 passes.
### BEGIN HIDDEN TESTS
from collections import Counter
from unittest.mock import patch

from advlib.press import course

hidden, unseen = course.hidden_network(), al.datasets.load("shapes", "test", 200)
passes = Counter()
call = torch.nn.Module.__call__


def counted(module, *inputs, **options):
    """A call of a network; those of its layers go to their own class's method all the same."""
    if isinstance(module, al.Normalized) and torch.is_grad_enabled():
        passes["all"] += len(inputs[0])
    return call(module, *inputs, **options)


with patch.object(torch.nn.Module, "__call__", counted):
    theirs = attack(unseen.x, unseen.y, EPS)
inside = (theirs - unseen.x).abs().max() < EPS + 1e-6 and theirs.min() >= 0 and theirs.max() <= 1
cheap = passes["all"] <= 200 * len(unseen)
rate = fooled(hidden, theirs, unseen.x, unseen.y) if inside and cheap else 0.0
assert inside, "not in the ball, or not between 0 and 1"
assert cheap, f"{passes['all'] / len(unseen):.0f} passes for an image"
plain = fooled(hidden, al.attacks.i_fgsm(load("resnet"), unseen.x, unseen.y, eps=EPS), unseen.x, unseen.y)
print(f"the hidden network is fooled by {rate:.1f} %, by I-FGSM from the ResNet {plain:.1f} %")
assert rate > plain, f"{rate:.1f} % on the hidden network; I-FGSM has {plain:.1f} %"
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "check-attack-strong", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Two points: more than MI-FGSM does from three networks.
### BEGIN HIDDEN TESTS
three = al.ensemble([load(name) for name in ("resnet", "vgg", "densenet")])
together = fooled(hidden, al.attacks.mi_fgsm(three, unseen.x, unseen.y, eps=EPS), unseen.x, unseen.y)
print(f"MI-FGSM from three networks: {together:.1f} %")
assert rate > together, f"{rate:.1f} % on the hidden network; MI-FGSM from three networks has {together:.1f} %"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Defend
#
# Write `defended`: it returns a network (`torch.nn.Module`, from images to logits) that names the pictures rightly and
# that images made on the hidden network do not fool. It may consist of whatever is in the zoo and in `al.defenses`. Two
# points if on clean images it is at most three points below the VGG, and if MI-FGSM from the hidden network fools it at
# most half as often as the VGG.


# %% nbgrader={"grade": false, "grade_id": "defence", "locked": false, "schema_version": 3, "solution": true, "task": false}
def defended():
    """A network in eval mode."""
    ### BEGIN SOLUTION
    return al.ensemble([load("vgg-ens4"), load("pyramidnet-ens1")])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-defence", "locked": true, "points": 0, "schema_version": 3, "solution": false, "task": false}
mine = defended()
assert isinstance(mine, torch.nn.Module) and mine(x[:2]).shape == (2, 10), "a module, from images to ten logits"


def accuracy(model, x, y):
    """In percent."""
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


strange = al.attacks.mi_fgsm(load("resnext"), x, y, eps=EPS)
for name, model in (("the VGG", load("vgg")), ("yours", mine)):
    print(
        f"{name}: {accuracy(model, x, y):.0f} % right, and {accuracy(model, strange, y):.0f} % under MI-FGSM from the ResNeXt"
    )

# %% nbgrader={"grade": true, "grade_id": "check-defence-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Two points: as right as the VGG, and fooled half as often.
### BEGIN HIDDEN TESTS
made = al.attacks.mi_fgsm(hidden, unseen.x, unseen.y, eps=EPS)
mine, vgg = defended(), load("vgg")
clean, its = accuracy(mine, unseen.x, unseen.y), accuracy(vgg, unseen.x, unseen.y)
assert clean >= its - 3, f"{clean:.1f} % right on clean images, the VGG {its:.1f} %"
through, without = (fooled(model, made, unseen.x, unseen.y) for model in (mine, vgg))
print(
    f"clean: {clean:.1f} %, the VGG {its:.1f} %; fooled by the hidden network: {through:.1f} %, the VGG {without:.1f} %"
)
assert through <= without / 2, f"the hidden network fools {through:.1f} %, of the VGG's images {without:.1f} %"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Claim
#
# Which share of images does your defence still name rightly when the attacker *knows* it? Write the number as `claim()`
# returns it. The grader makes three attacks at $8/255$ and counts an image as right if it survives all of them: PGD
# through your network with 20 steps; MI-FGSM from a network of its own; and NES, which asks only for logits, with 200
# queries. Two points if you are at most ten points off.


# %% nbgrader={"grade": false, "grade_id": "claim", "locked": false, "schema_version": 3, "solution": true, "task": false}
def claim():
    """In percent, from 0 to 100."""
    ### BEGIN SOLUTION
    return 23.0
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-claim", "locked": true, "points": 0, "schema_version": 3, "solution": false, "task": false}
assert 0 <= claim() <= 100, "a share in percent"


# %% nbgrader={"grade": true, "grade_id": "check-claim-hidden", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# Two points: at most ten points off.
### BEGIN HIDDEN TESTS
def adversaries(model, x, y):
    """What knows the network, what knows another, and what only asks."""
    try:
        yield al.attacks.pgd(model, x, y, eps=EPS, steps=20)
    except (RuntimeError, ValueError) as error:  # no graph, or no gradient: then the other two decide
        print(f"PGD through the network: {error}")
    yield al.attacks.mi_fgsm(hidden, x, y, eps=EPS)
    yield al.attack(x, y, al.queries.nes(model, pairs=10, chunk=10), eps=EPS, steps=10)


few = unseen[:100]
survives = mine(few.x).argmax(1) == few.y
for adv in adversaries(mine, few.x, few.y):
    with torch.no_grad():
        survives &= mine(adv).argmax(1) == few.y
found = 100 * float(survives.float().mean())
print(f"claimed: {claim():.0f} %, found: {found:.0f} %")
assert abs(claim() - found) <= 10, f"claimed {claim():.0f} %, found {found:.0f} %"
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Report
#
# On one page: which settings you tried and on which images and networks; what your attack does *not* fool; under which
# condition your defence fails. Name every number with its images and its interval.

# %% [markdown] nbgrader={"grade": true, "grade_id": "report", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
# *Two points, by hand: one for a comparison at equal cost with a paired interval, one for a limit that is stated and
# shown.*
