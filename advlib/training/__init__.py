"""Making weights: objectives, recipes, the one loop, augmentation, ImageNet."""

from .fitting import accuracy, fine_tune, fit, train_and_save, train_member
from .side_by_side import SideBySideCRSAM
from .substitutes import collect, posterior

__all__ = ["SideBySideCRSAM", "accuracy", "collect", "fine_tune", "fit", "posterior", "train_and_save", "train_member"]
