"""Checks by what they let pass and what they say."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import InputDiversity
from advlib.core import checks

MESSAGES = {
    "eps=9: expected a finite number of at least 0 and at most 1, in [0, 1] units": (
        lambda: checks.number("eps", 9, 0, 1, note="in [0, 1] units"),
        ValueError,
    ),
    "c=0: expected a finite number above 0": (lambda: checks.number("c", 0, above=0), ValueError),
    "s_h=1: expected a finite number of at least 0 and below 1": (
        lambda: checks.number("s_h", 1, 0, below=1),
        ValueError,
    ),
    "mu=nan: expected a finite number": (lambda: checks.number("mu", math.nan), ValueError),
    "mu='1': expected a finite number": (lambda: checks.number("mu", "1"), TypeError),
    "mu=True: expected a finite number": (lambda: checks.number("mu", True), TypeError),
    "steps=2.5: expected a whole number of at least 1": (lambda: checks.whole("steps", 2.5, 1), TypeError),
    "steps=0: expected a whole number of at least 1": (lambda: checks.whole("steps", 0, 1), ValueError),
    "bits=9: expected a whole number of at least 1 and at most 8": (lambda: checks.whole("bits", 9, 1, 8), ValueError),
    "norm='l1': expected one of linf, l2": (lambda: checks.choice("norm", "l1", ("linf", "l2")), ValueError),
    "norm=an object of type list: expected one of linf, l2": (
        lambda: checks.choice("norm", ["linf"], ("linf", "l2")),
        TypeError,
    ),
    "form=None: expected True or False": (lambda: checks.flag("form", None), TypeError),
    "layer='': expected a text that is not empty": (lambda: checks.text("layer", ""), ValueError),
    "t: expected a transform, got the class InputDiversity; write InputDiversity(...)": (
        lambda: checks.function("t", InputDiversity, "a transform"),
        TypeError,
    ),
    "loss: expected a loss, got a function that cannot take 2 argument(s)": (
        lambda: checks.function("loss", lambda z: z, "a loss", 2),
        TypeError,
    ),
    "x: expected values in [0, 1], found 0 to 255; normalisation belongs into the model": (
        lambda: checks.images(grid_images() * 255),
        ValueError,
    ),
    "y: class 9 is out of range for 9 logits": (
        lambda: checks.labels(torch.tensor([0, 9]), grid_images(2), classes=9),
        ValueError,
    ),
    "pool: on meta, but x is on cpu": (
        lambda: checks.same_place(torch.empty(1, device="meta"), torch.empty(1), "pool"),
        ValueError,
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_message(message):
    refused, kind = MESSAGES[message]
    with pytest.raises(kind) as caught:
        refused()
    assert str(caught.value) == message


def test_numbers_that_torch_takes_are_numbers():
    for value in (1, 0.5, np.float32(0.5), np.float64(0.5), np.int64(1)):
        checks.number("n", value)
    for value in (Fraction(1, 2), 1j, "1", torch.tensor(1.0), torch.tensor([1.0, 2.0])):
        with pytest.raises(TypeError, match="n="):
            checks.number("n", value)
    checks.whole("k", np.int32(3), 3, 3)


def test_limits_hold_at_their_ends():
    checks.number("p", 0, 0, 1)
    checks.number("p", 1, 0, 1)
    checks.number("p", 1 - 1e-12, 0, below=1)
    for refused in ({"above": 0}, {"below": 0}):
        with pytest.raises(ValueError):
            checks.number("p", 0, **refused)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_whatever_maps_images_to_logits_is_a_network():
    f, x = tiny_model(), grid_images(2)

    class Bound:
        def answer(self, x):
            return f(x)

        def __call__(self, x, temperature=1.0):
            return f(x) / temperature

    own_forward = nn.Module()
    own_forward.forward = f.forward
    compiled = torch.compile(f, backend="eager")
    for model in (f, f.forward, lambda x: f(x), Bound(), Bound().answer, own_forward, compiled, nn.DataParallel(f)):
        checks.network(model)
        checks.outputs([model], x, y=torch.tensor([0, 9]))
    for model in (torch.jit.script(f.net), torch.jit.trace(f.net, x), torch.export.export(f.net, (x,)).module()):
        checks.network(model)


def test_what_a_model_raises_is_told_with_what_it_was_shown():
    with pytest.raises(
        ValueError, match=r"model: ZeroDivisionError on x of shape \(2, 3, 8, 8\) and type torch.float32"
    ):
        checks.outputs([lambda x: 1 / 0], grid_images(4))
    with pytest.raises(ValueError, match=r"type torch.float64; its weights are torch.float32"):
        checks.outputs([tiny_model()], grid_images(4).double())


def test_adversarial_images_may_round_but_not_leave():
    x, eps = grid_images(), 8 / 255
    checks.adversarial((x + eps).clamp(max=1), x, eps)
    checks.adversarial(1 - x, x, None)
    with pytest.raises(ValueError, match="up to 8.1/255 from x, but eps is 8/255"):
        checks.adversarial(x.clamp(max=0.5) + 8.1 / 255, x.clamp(max=0.5), eps)
