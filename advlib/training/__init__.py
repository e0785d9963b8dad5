"""Making weights: objectives, recipes, the one loop, augmentation, ImageNet."""

from .fitting import accuracy, fine_tune, fit, train_and_save, train_member

__all__ = ["accuracy", "fine_tune", "fit", "train_and_save", "train_member"]
