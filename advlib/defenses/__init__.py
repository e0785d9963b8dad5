"""What stands in the way: transformations, trained purifiers, authors' checkpoints, the thesis' secured networks."""

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
    "NIPSr3",
    "RandomResizePad",
    "RandomizedSmoothing",
    "straight_through",
]
