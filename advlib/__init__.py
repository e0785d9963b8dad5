"""advlib: adversarial transferability and flat minima, the methods of one thesis and the rooms that they stand on.

import advlib as al
f, h = al.models.load("shapes/resnet"), al.models.load("shapes/vgg")
data = al.datasets.load("shapes", n=100)
adv = al.attacks.mi_fgsm(f, data.x, data.y, eps=8/255)

Names load what they need on first use: the methods need torch alone.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        advice,
        attacks,
        bench,
        core,
        curvature,
        decisions,
        defenses,
        feature_attacks,
        files,
        ghosts,
        gradients,
        graphs,
        layers,
        lipschitz,
        loop,
        press,
        queries,
        rules,
        sam,
        sam_family,
        sharpness,
        training,
        transforms,
        zoo,
    )
    from .attacks import EM_RE, GNP
    from .bench import (
        chapters,
        claims,
        differences,
        engines,
        evaluation,
        experiment,
        measures,
        plotting,
        printed,
        results,
        seeds,
        speed,
        trainees,
    )
    from .core import balls, batchnorm, checks, draws, intervals, measured, norms, published, second_order, surrogate
    from .core.surrogate import Normalized, ensemble
    from .defenses import purification, secured
    from .engine.determinism import deterministic
    from .engine.kept import keep_memory
    from .feature_attacks import activation, attention, relevance
    from .files import paths, provenance
    from .ghosts import dropout_erosion, skip_erosion
    from .gradients import (
        Gradient,
        averaged,
        cycled,
        gradient,
        integrated,
        neighbours,
        norm_penalty,
        reverse_perturbed,
        smoothed,
    )
    from .graphs import captured
    from .layers import linear_backward, skip_gradient
    from .loop import attack
    from .minimum_norm import carlini_wagner, lbfgs
    from .rules import Elastic, EnhancedMomentum, VarianceReduced, VarianceTuned
    from .saliency import jsma
    from .training import augment, objectives, recipes, substitutes, surrogates
    from .transforms import InputDiversity, MixedImages, RandomErasure, ScaleCopies
    from .zoo import datasets, models, nets, pictures, registry, shapes, weights, witnesses
    from .zoo.acceleration import accelerate
    from .zoo.pictures import save_images

_HOMES = {
    "": "advice attacks curvature decisions feature_attacks ghosts gradients graphs layers lipschitz loop queries "
    "rules sam sam_family sharpness transforms bench core defenses files press training zoo",
    "attacks": "EM_RE GNP",
    "bench": "chapters claims differences engines evaluation experiment measures plotting printed results seeds speed "
    "trainees",
    "minimum_norm": "carlini_wagner lbfgs",
    "core": "balls batchnorm checks draws intervals measured norms published second_order surrogate",
    "core.surrogate": "Normalized ensemble",
    "defenses": "purification secured",
    "engine.determinism": "deterministic",
    "engine.kept": "keep_memory",
    "feature_attacks": "activation attention relevance",
    "files": "paths provenance",
    "ghosts": "dropout_erosion skip_erosion",
    "gradients": "Gradient averaged cycled gradient integrated neighbours norm_penalty reverse_perturbed smoothed",
    "graphs": "captured",
    "layers": "linear_backward skip_gradient",
    "loop": "attack",
    "rules": "Elastic EnhancedMomentum VarianceReduced VarianceTuned",
    "saliency": "jsma",
    "training": "augment objectives recipes substitutes surrogates",
    "transforms": "InputDiversity MixedImages RandomErasure ScaleCopies",
    "zoo": "datasets models nets pictures registry shapes weights witnesses",
    "zoo.acceleration": "accelerate",
    "zoo.pictures": "save_images",
}
"""The place of every name above, a module or what is in one; a test holds the two lists together."""
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME)

try:
    __version__ = version("advlib")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'advlib' has no attribute {name!r}")
    home = _HOME[name]
    place = ".".join(filter(None, [__name__, home]))
    try:
        value = import_module(f"{place}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{place}.{name}":
            raise
        value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
