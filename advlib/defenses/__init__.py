"""What stands in the way: transformations, ensembles, trained purifiers, authors' checkpoints, secured networks."""

from .ensembles import ModelEnsemble, RandomSelfEnsemble, adaptive_diversity
from .reconstruction import RandomizedDiscretization, TotalVariance
from .transformations import (
    ABSTAIN,
    JPEG,
    BitReduction,
    Defence,
    Defended,
    FeatureDistillation,
    NIPSr3,
    RandomizedSmoothing,
    RandomResizePad,
    straight_through,
)

__all__ = [
    "ABSTAIN",
    "JPEG",
    "BitReduction",
    "Defence",
    "Defended",
    "FeatureDistillation",
    "ModelEnsemble",
    "NIPSr3",
    "RandomResizePad",
    "RandomSelfEnsemble",
    "RandomizedDiscretization",
    "RandomizedSmoothing",
    "TotalVariance",
    "adaptive_diversity",
    "straight_through",
]
