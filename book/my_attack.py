"""An attack for the leaderboard: copy this file, put your attack in the place of this one, and run it.

python my_attack.py                                     # six built-in images: does it run?
python my_attack.py --scale laptop --dataset cifar10    # the leaderboard's images and networks
"""

import sys

import advlib as al
from advlib.bench import candidate

NAME = "mirrored MI-FGSM"


def mirrored(g):
    """The mean of a gradient function over each image and its mirror image."""

    def function(x, y, draw):
        return (g(x, y, draw) + g(x.flip(3), y, draw).flip(3)) / 2

    return al.Gradient(function, g.models, 2 * g.passes)


def my_attack(model, x, y, eps, **options):
    """x: images in [0, 1], (N, C, H, W); y: labels; options: seed and index, for `al.attack`. Returns the images."""
    g = mirrored(al.gradient(model))
    return al.attack(x, y, g, eps=eps, momentum=al.Elastic(mu=1.0), **options)


if __name__ == "__main__":
    sys.exit(candidate.main(NAME, my_attack))
