"""advlib: adversarial transferability and flat minima, the thin module under the runnable book.

import advlib as al
f, h = al.models.load("shapes/resnet"), al.models.load("shapes/vgg")
data = al.datasets.load("shapes", n=100)
adv = al.attacks.mi_fgsm(f, data.x, data.y, eps=8/255)
"""

from . import (
    attacks,
    augment,
    backward,
    batchnorm,
    chapters,
    checkpoints,
    curvature,
    datasets,
    defenses,
    draws,
    evaluation,
    features,
    images,
    lipschitz,
    models,
    nets,
    objectives,
    paths,
    plotting,
    purification,
    recipes,
    report,
    results,
    sam,
    second_order,
    secured,
    shapes,
    trainees,
    training,
    transforms,
)
from .attacks import EM_RE, GNP, Elastic, attack
from .backward import linear_backward, skip_gradient
from .carlini_wagner import carlini_wagner
from .gradients import Gradient, cycled, gradient, integrated, norm_penalty, reverse_perturbed, smoothed
from .images import save_images
from .models import accelerate, ensemble
from .transforms import InputDiversity, MixedImages, RandomErasure, ScaleCopies

__all__ = [
    "EM_RE",
    "Elastic",
    "GNP",
    "Gradient",
    "InputDiversity",
    "MixedImages",
    "RandomErasure",
    "ScaleCopies",
    "accelerate",
    "attack",
    "attacks",
    "augment",
    "backward",
    "batchnorm",
    "carlini_wagner",
    "chapters",
    "checkpoints",
    "curvature",
    "cycled",
    "datasets",
    "defenses",
    "draws",
    "ensemble",
    "evaluation",
    "features",
    "gradient",
    "images",
    "integrated",
    "linear_backward",
    "lipschitz",
    "models",
    "nets",
    "norm_penalty",
    "objectives",
    "paths",
    "plotting",
    "purification",
    "recipes",
    "report",
    "results",
    "reverse_perturbed",
    "sam",
    "save_images",
    "second_order",
    "secured",
    "shapes",
    "skip_gradient",
    "smoothed",
    "trainees",
    "training",
    "transforms",
]
