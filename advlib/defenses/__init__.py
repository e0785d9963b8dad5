"""What stands in the way: transformations, trained purifiers, authors' checkpoints, the thesis' secured networks."""

from .transformations import *  # noqa
