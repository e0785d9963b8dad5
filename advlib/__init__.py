"""advlib: adversarial transferability and flat minima, the thin module under the runnable book.

import advlib as al
f, h = al.models.load("shapes/resnet"), al.models.load("shapes/vgg")
data = al.datasets.load("shapes", n=100)
adv = al.attacks.mi_fgsm(f, data.x, data.y, eps=8/255)
"""

from . import (
    attacks,
    augment,
    checkpoints,
    datasets,
    defenses,
    draws,
    evaluation,
    images,
    models,
    paths,
    plotting,
    purification,
    report,
    results,
    secured,
    shapes,
    training,
    transforms,
)
from .attacks import EM_RE, GNP, Elastic, attack
from .carlini_wagner import carlini_wagner
from .gradients import Gradient, gradient, norm_penalty, smoothed
from .images import save_images
from .models import accelerate, ensemble
from .transforms import InputDiversity, RandomErasure, ScaleCopies

__all__ = [
    "EM_RE",
    "GNP",
    "Elastic",
    "Gradient",
    "InputDiversity",
    "RandomErasure",
    "ScaleCopies",
    "accelerate",
    "attack",
    "attacks",
    "augment",
    "carlini_wagner",
    "checkpoints",
    "datasets",
    "defenses",
    "draws",
    "ensemble",
    "evaluation",
    "gradient",
    "images",
    "models",
    "norm_penalty",
    "paths",
    "plotting",
    "purification",
    "report",
    "results",
    "save_images",
    "secured",
    "shapes",
    "smoothed",
    "training",
    "transforms",
]
