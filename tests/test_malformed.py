"""Malformed calls over the public API: each is refused by a TypeError or ValueError that names the argument.

Every function stands in `CALLS` with arguments that it takes, and the kind of each; `WRONG` holds what each kind must
not be. Hypothesis draws a function, an argument and a wrong value for it, always the same ones.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
import torch
from conftest import grid_images, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import advlib as al
from advlib import attacks, checks, gradients
from advlib.attacks import Elastic
from advlib.datasets import Images
from advlib.evaluation import predictions, success_rates
from advlib.features import features, ila_plus_plus
from advlib.transforms import InputDiversity, MixedImages, RandomErasure, ScaleCopies

EXAMPLES = 1500
F, X = tiny_model(), grid_images(3)
Y = torch.tensor([0, 1, 2])
G = gradients.gradient(F)
DATA = Images((X * 255).to(torch.uint8), F(X).argmax(1), torch.arange(3), tuple("abcdefghij"), "shapes", "test")


def logits(value):
    """A model that returns `value` of the images' logits."""
    return lambda z: value(F(z))


class NoForward(nn.Module):
    pass


NO_NUMBER = [
    None,
    "0.1",
    [0.1],
    (),
    nan,
    inf,
    -inf,
    True,
    1j,
    Fraction(1, 3),
    torch.tensor([0.1, 0.2]),
    np.ones(2),
    object(),
]
NO_WHOLE = [None, "3", 2.5, 2.0, nan, True, [3], torch.tensor([1, 2]), Fraction(3), object()]
NO_MODEL = {
    "None": None,
    "a number": 3,
    "a name": "resnet",
    "a class": nn.Identity,
    "a list": [F],
    "of two arguments": lambda z, t: F(z),
    "returns a tuple": logits(lambda z: (z, z)),
    "returns a dict": logits(lambda z: {"logits": z}),
    "returns None": logits(lambda z: None),
    "returns 1-D": logits(lambda z: z[:, 0]),
    "returns 3-D": logits(lambda z: z[:, :, None]),
    "returns a scalar": logits(lambda z: z.sum()),
    "returns integers": logits(lambda z: z.long()),
    "returns no class": logits(lambda z: z[:, :0]),
    "returns another batch": logits(lambda z: z.repeat(2, 1)),
    "returns NaN": logits(lambda z: z * nan),
    "returns infinities": logits(lambda z: z / 0),
    "returns numpy": logits(lambda z: z.detach().numpy()),
    "raises": lambda z: 1 / 0,
    "of float64": nn.Sequential(nn.Flatten(), nn.Linear(192, 10)).double(),
    "of one channel": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()),
    "on another device": nn.Sequential(nn.Flatten(), nn.Linear(192, 10, device="meta")),
    "without forward": NoForward(),
}
HANDED_ON = {"raises", "of float64", "of one channel", "on another device", "returns NaN", "returns infinities"}
"""What a gradient function by itself hands on as it comes; an attack looks at the model first."""
NO_GRADIENT = {"detaches": lambda z: F(z.detach()), "gradient of NaN": logits(lambda z: z + (0 * z).abs().sqrt())}
NO_IMAGES = {
    "None": None,
    "a list": X.tolist(),
    "numpy": X.numpy(),
    "uint8": (X * 255).to(torch.uint8),
    "bool": X > 0.5,
    "integers": X.long(),
    "complex": X.to(torch.complex64),
    "sparse": X.to_sparse(),
    "meta": X.to("meta"),
    "one image": X[0],
    "five dimensions": X[None],
    "an empty batch": X[:0],
    "no height": X[:, :, :0],
    "no channel": X[:, :0],
    "NaN": X * nan,
    "one NaN": torch.where(torch.arange(8) == 5, nan, X),
    "above 1": X + 0.01,
    "below 0": X - 0.01,
    "0..255": X * 255,
    "infinite": X / 0,
    "one channel": X[:, :1],
    "float64": X.double(),
}
NO_LABELS = {
    "a list": [0, 1, 2],
    "numpy": Y.numpy(),
    "a number": 3,
    "float": Y.float(),
    "int32": Y.int(),
    "bool": Y > 0,
    "one-hot": nn.functional.one_hot(Y, 10),
    "too long": torch.arange(6),
    "too short": Y[:1],
    "a column": Y[:, None],
    "-1": Y - 1,
    "-100": Y - 100,
    "of no logit": Y + 8,
    "meta": Y.to("meta"),
}
NO_TRANSFORM = {
    "a number": 3,
    "a name": "DIM",
    "a class": InputDiversity,
    "of one argument": lambda x: x,
    "returns None": lambda x, draw, copy: None,
    "returns numpy": lambda x, draw, copy: x.detach().numpy(),
    "another size": lambda x, draw, copy: x[:, :, :4],
    "another type": lambda x, draw, copy: x.double(),
    "detaches": lambda x, draw, copy: x.detach(),
}
NO_LOSS = {
    "None": None,
    "a number": 3,
    "a name": "hinge",
    "of one argument": lambda z: z.sum(1),
    "returns None": lambda z, y: None,
    "returns a scalar": lambda z, y: z.sum(),
    "returns logits": lambda z, y: z,
    "returns integers": lambda z, y: z.argmax(1),
    "detaches": lambda z, y: z.detach().sum(1),
    "NaN": lambda z, y: z.sum(1) * nan,
}
WRONG = {
    "model": NO_MODEL,
    "attacked": {**NO_MODEL, **NO_GRADIENT},
    "unseen model": {k: v for k, v in NO_MODEL.items() if k not in HANDED_ON},
    "unseen loss": {k: v for k, v in NO_LOSS.items() if k != "NaN"},
    "module": {k: NO_MODEL[k] for k in ("None", "a number", "a name", "a class", "a list", "of two arguments")},
    "images": NO_IMAGES,
    "labels": {"None": None, **NO_LABELS},
    "target": NO_LABELS,
    "index": {k: v for k, v in NO_LABELS.items() if k not in ("int32", "-1", "-100", "of no logit")},
    "seed": NO_WHOLE,
    "flag": [None, 0, 1, "yes", torch.tensor(True)],
    "number": NO_NUMBER,
    "share": [*NO_NUMBER, -0.1, 1.1],
    "not negative": [*NO_NUMBER, -1, -1e-9],
    "positive": [*NO_NUMBER, 0, -1],
    "optional positive": [*NO_NUMBER[1:], 0, -1],
    "other than 0": [*NO_NUMBER, 0, 0.0],
    "count": [*NO_WHOLE, 0, -3],
    "odd": [*NO_WHOLE, 0, -3, 2, 8],
    "place": [*NO_WHOLE, -1],
    "bits": [*NO_WHOLE, 0, 9],
    "quality": [*NO_WHOLE, 0, 101],
    "word": [None, 3, "nope", "", ["linf"], object()],
    "layer": [None, 3, "", "nowhere", ["net.2"]],
    "transform": NO_TRANSFORM,
    "loss": NO_LOSS,
    "wrap": {
        "a number": 3,
        "a name": "gnp",
        "of no argument": lambda: G,
        "returns None": lambda g: None,
        "a class": Elastic,
    },
    "rule": [None, 3, "mi", Elastic, object()],
    "gradient": [None, 3, "g", F, gradients.Gradient],
    "gradients": [None, 3, G, [], [G, None], [F]],
    "pool": {k: v for k, v in NO_IMAGES.items() if k != "float64"},
    "aspect": [*NO_NUMBER, 0, -1, "square"],
    "fill": [*NO_NUMBER, -0.1, 1.1, "grey"],
    "accelerate": [None, 1, "bf16", torch.int64, torch.complex64.to_real],
    "networks": [None, [F], {}, {"f": None}, {"f": 3}, {"": F}, {3: F}],
    "attacks": [None, [attacks.fgsm], {}, {"a": None}, {"a": 3}, {"": attacks.fgsm}],
    "data": [None, X, [DATA], DATA[:0]],
    "budgets": [None, 8, "8", [], [nan], ["8"], [-1], [256], [True], [None]],
}


@dataclass(frozen=True)
class Call:
    """A function, arguments that it takes, the kind of each in `WRONG`; names: what an error may say of an argument in
    place of its name; then: what is done with the result, where an argument is not looked at before."""

    function: object
    arguments: dict
    kinds: dict
    names: dict = field(default_factory=dict)
    then: object = lambda made: made


ATTACKED = {"model": "attacked", "x": "images", "y": "labels", "eps": "share"}
LOOP = {
    "seed": "seed",
    "index": "index",
    "target": "target",
    "norm": "word",
    "start": "word",
    "alpha": "optional positive",
}
OPTIONS = {"transform": "transform", "loss": "loss", "chunk": "count", "wrap": "wrap", "accelerate": "accelerate"}
NAMES = {"x": "x|y", "model": "model|y|x", "transform": "transform|model", "loss": "loss|model", "momentum": "momentum"}


def preset(function, kinds, **arguments):
    """A named attack, for one step."""
    given = {"model": F, "x": X, "y": Y, "eps": 8 / 255, **arguments}
    return Call(function, given, {**ATTACKED, **LOOP, **OPTIONS, **kinds}, NAMES)


def made(function, kinds, arguments=None, then=lambda made: made):
    return Call(function, arguments or {}, kinds, NAMES, then)


def called(transform):
    return gradients.gradient(F, transform)(X, Y, al.draws.Draw(0, torch.arange(3)))


STEPS = {"steps": "count"}
MOMENTUM = {"momentum": "rule"}
CALLS = {
    "fgsm": preset(attacks.fgsm, {"kernel": "odd"}),
    "i_fgsm": preset(attacks.i_fgsm, {**STEPS, "kernel": "odd"}, steps=1),
    "pgd": preset(attacks.pgd, STEPS, steps=1),
    "mi_fgsm": preset(attacks.mi_fgsm, {**STEPS, "mu": "not negative"}, steps=1),
    "ni_fgsm": preset(attacks.ni_fgsm, {**STEPS, "mu": "not negative"}, steps=1),
    "em_fgsm": preset(attacks.em_fgsm, {"mu": "not negative", "sigma": "not negative", "normalize": "word"}, steps=1),
    "dim": preset(attacks.dim, {**STEPS, **MOMENTUM}, steps=1),
    "tim": preset(attacks.tim, {**MOMENTUM, "kernel": "odd"}, steps=1),
    "sim": preset(attacks.sim, {**MOMENTUM, "copies": "count"}, steps=1),
    "re_fgsm": preset(attacks.re_fgsm, MOMENTUM, steps=1),
    "composite": preset(attacks.composite, {**MOMENTUM, "kernel": "odd"}, steps=1),
    "admix": preset(attacks.admix, {"pool": "pool", "eta": "not negative", "mixed": "count"}, steps=1, pool=X),
    "taig": preset(attacks.taig, {"points": "count", "noise": "not negative"}, steps=1, points=2),
    "rap": preset(attacks.rap, {**STEPS, "late": "place"}, steps=1),
    "lgv": Call(
        attacks.lgv,
        {"checkpoints": [F], "x": X, "y": Y, "eps": 0.1, "steps": 1},
        {"x": "images", "y": "labels", **LOOP},
    ),
    "attack": Call(
        al.attack,
        {"x": X, "y": Y, "g": G, "eps": 0.1, "steps": 1},
        {"x": "images", "y": "labels", "eps": "share", **STEPS, **MOMENTUM, **LOOP},
    ),
    "carlini_wagner": Call(
        al.carlini_wagner,
        {"model": F, "x": X, "y": Y, "steps": 1, "searches": 1},
        {
            **STEPS,
            "model": "attacked",
            "x": "images",
            "y": "labels",
            "searches": "count",
            "c": "positive",
            "kappa": "not negative",
            "lr": "positive",
            "target": "target",
        },
        NAMES,
    ),
    "ila_plus_plus": Call(
        ila_plus_plus,
        {"model": F, "x": X, "y": Y, "layer": "net.2", "steps": 1, "refine": 1},
        {
            "model": "module",
            "x": "images",
            "y": "labels",
            "eps": "share",
            "layer": "layer",
            **STEPS,
            "refine": "count",
            "ridge": "positive",
            "seed": "seed",
            "index": "index",
        },
    ),
    "gradient": made(
        gradients.gradient,
        {"model": "unseen model", "transform": "transform", "loss": "unseen loss", "chunk": "count"},
        {"model": F},
        then=lambda g: g(X, Y, al.draws.Draw(0, Y)),
    ),
    "smoothed": made(gradients.smoothed, {"g": "gradient", "kernel": "odd"}, {"g": G}),
    "norm_penalty": made(
        gradients.norm_penalty,
        {"g": "gradient", "r": "other than 0", "beta": "number", "unit": "word", "rescale": "flag"},
        {"g": G},
    ),
    "integrated": made(
        gradients.integrated,
        {"g": "gradient", "points": "count", "reference": "number", "noise": "not negative", "chunk": "count"},
        {"g": G},
    ),
    "reverse_perturbed": made(
        gradients.reverse_perturbed,
        {"g": "gradient", "eps": "share", **STEPS, "start": "place", "ascend": "flag"},
        {"g": G},
    ),
    "cycled": made(gradients.cycled, {"gradients": "gradients"}, {"gradients": [G]}),
    "Elastic": made(Elastic, {"mu": "not negative", "sigma": "not negative", "normalize": "word"}),
    "InputDiversity": made(InputDiversity, {"p": "share", "scale": "positive", "copies": "count"}),
    "ScaleCopies": made(ScaleCopies, {"copies": "count", "origin": "number"}),
    "MixedImages": made(
        MixedImages, {"pool": "pool", "eta": "not negative", "copies": "count"}, {"pool": X}, then=called
    ),
    "RandomErasure": made(
        RandomErasure, {"copies": "count", "p": "share", "s_h": "share", "aspect": "aspect", "fill": "fill"}
    ),
    "linear_backward": made(al.linear_backward, {"model": "module", "layer": "layer"}, {"model": F, "layer": "net.2"}),
    "skip_gradient": made(
        al.skip_gradient, {"model": "module", "layers": "layer", "gamma": "share"}, {"model": F, "layers": "net.2"}
    ),
    "features": made(features, {"model": "module", "layer": "layer"}, {"model": F, "layer": "net.2"}),
    "predictions": Call(
        predictions, {"model": F, "data": DATA}, {"model": "model", "data": "data", "batch_size": "count"}, NAMES
    ),
    "success_rates": Call(
        success_rates,
        {"attacks": {"a": attacks.fgsm}, "surrogates": {"f": F}, "targets": {"f": F}, "data": DATA, "eps_255": [8]},
        {
            "attacks": "attacks",
            "surrogates": "networks",
            "targets": "networks",
            "data": "data",
            "eps_255": "budgets",
            "batch_size": "count",
            "seed": "seed",
            "ball": "flag",
        },
        {"attacks": "attacks?", "surrogates": "surrogates|f", "targets": "targets|f"},
    ),
}


def values(kind):
    """(name, value) of each wrong value of a kind."""
    return list(kind.items()) if isinstance(kind, dict) else [(checks.shown(value), value) for value in kind]


CASES = [
    (name, argument, *wrong)
    for name, call in CALLS.items()
    for argument, kind in call.kinds.items()
    for wrong in values(WRONG[kind])
]


@pytest.mark.parametrize("name", CALLS)
def test_the_call_that_is_then_spoiled_is_right(name):
    call = CALLS[name]
    call.then(call.function(**call.arguments))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(CASES))
def test_a_malformed_call_is_refused_by_the_name_of_its_argument(case):
    name, argument, what, value = case
    call = CALLS[name]
    named = call.names.get(argument, argument)
    with pytest.raises((TypeError, ValueError), match=rf"(?<![\w.])({named}|{argument})\b") as caught:
        call.then(call.function(**{**call.arguments, argument: value}))
    # Not torch's own words: they know no argument of ours.
    assert caught.traceback[-1].path.name in OURS, f"{what}: {caught.value}"


OURS = {"checks.py", "attacks.py", "gradients.py", "transforms.py", "backward.py", "features.py", "evaluation.py"}
