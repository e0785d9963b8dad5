"""Values that an argument must not have, by its kind: what test_malformed.py spoils right calls with."""

from fractions import Fraction
from math import inf, nan

import numpy as np
import torch
from conftest import grid_images, tiny_model
from torch import nn

from advlib import attacks, gradients
from advlib.rules import Elastic
from advlib.transforms import InputDiversity
from advlib.zoo.datasets import Images

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
SEEN = ("None", "a list", "numpy", "uint8", "bool", "integers", "complex", "sparse", "one image", "five dimensions")
"""What no defence takes. One that an attack looks through is asked about points outside [0, 1], too."""
WRONG = {
    "model": NO_MODEL,
    "attacked": {**NO_MODEL, **NO_GRADIENT},
    "unseen-model": {k: v for k, v in NO_MODEL.items() if k not in HANDED_ON},
    "unseen-loss": {k: v for k, v in NO_LOSS.items() if k != "NaN"},
    "unseen-value": {k: v for k, v in NO_LOSS.items() if k not in ("NaN", "detaches")},
    "module": {k: NO_MODEL[k] for k in ("None", "a number", "a name", "a class", "a list", "of two arguments")},
    "images": NO_IMAGES,
    "labels": {"None": None, **NO_LABELS},
    "target": NO_LABELS,
    "index": {k: v for k, v in NO_LABELS.items() if k not in ("int32", "-1", "-100", "of no logit")},
    "seed": NO_WHOLE,
    "flag": [None, 0, 1, "yes", torch.tensor(True)],
    "number": NO_NUMBER,
    "share": [*NO_NUMBER, -0.1, 1.1],
    "portion": [*NO_NUMBER, -0.1, 1],
    "not-negative": [*NO_NUMBER, -1, -1e-9],
    "positive": [*NO_NUMBER, 0, -1],
    "optional-count": [*NO_WHOLE[1:], 0, -3],
    "any-labels": {"None": None, **{k: v for k, v in NO_LABELS.items() if k != "of no logit"}},
    "optional-positive": [*NO_NUMBER[1:], 0, -1],
    "other-than-0": [*NO_NUMBER, 0, 0.0],
    "count": [*NO_WHOLE, 0, -3],
    "several": [*NO_WHOLE, 0, 1, -3],
    "share-below-1": [*NO_NUMBER, -0.1, 1, 1.1],
    "networks-in-a-list": [None, 3, F, [], [None], [F, 3], [lambda z: z], {"f": F}],
    "radius": [*NO_NUMBER, 0, -0.1, 1.1, 1e-12],
    "members": [None, 3, F, [], [None], [F, 3], [lambda z: z]],
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
    "elastic": [None, 3, "mi", Elastic, object()],
    "weights-of-one": [3, "1", [], [nan], [-1], ["w"], [1, 1], [0]],
    "gradient": [None, 3, "g", F, gradients.Gradient],
    "gradients": [None, 3, G, [], [G, None], [F]],
    "pool": {k: v for k, v in NO_IMAGES.items() if k != "float64"},
    "start-images": {k: v for k, v in NO_IMAGES.items() if k != "None"},
    "aspect": [*NO_NUMBER, 0, -1, "square"],
    "fill": [*NO_NUMBER, -0.1, 1.1, "grey"],
    "accelerate": [None, 1, "bf16", torch.int64, torch.complex64],
    "networks": [None, [F], {}, {"f": None}, {"f": 3}, {"": F}, {3: F}],
    "attacks": [None, [attacks.fgsm], {}, {"a": None}, {"a": 3}, {"": attacks.fgsm}],
    "data": [None, X, [DATA], DATA[:0]],
    "seen": {k: v for k, v in NO_IMAGES.items() if k in SEEN},
    "side": [*NO_WHOLE[1:], 0, 7, -32, 5000],
    "dataset": [None, 3, "", "mnist", ["shapes"]],
    "name": [None, 3, "", "resnet", "shapes/lenet", ["shapes/resnet"]],
    "file-names": {
        "None": None,
        "a number": 3,
        "too few": ["a"],
        "twice": ["a", "b", "a"],
        "numbers": [1, 2, 3],
        "outside": ["a", "b", "../c"],
        "absolute": ["a", "b", "/c"],
        "empty": ["a", "b", ""],
    },
    "pixels": {"None": None, "float": X, "3-D": DATA.images[0], "no channel": DATA.images[:, :0]},
    "counts": [*NO_WHOLE, -1, 11],
    "function": [3, "sgd", F.parameters()],
    "parameters": [None, 3, [], [None], ["w"]],
    "weights": [None, 3, [], [None], ["w"], [X]],
    "losses": [None, 3, [], [None], [3]],
    "level": [*NO_NUMBER, 0, 1, -0.1],
    "type": [3, "float16", torch.int64],
    "budgets": [None, 8, "8", [], [nan], ["8"], [-1], [256], [True], [None]],
}
