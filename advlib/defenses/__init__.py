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
]
