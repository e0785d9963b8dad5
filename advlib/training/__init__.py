"""Making weights: objectives, recipes, the one loop, augmentation, ImageNet."""

from .fitting import accuracy, fine_tune, fit, train_and_save, train_member
from .side_by_side import SideBySideCRSAM

__all__ = ["SideBySideCRSAM", "accuracy", "fine_tune", "fit", "train_and_save", "train_member"]
