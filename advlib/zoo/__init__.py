"""Networks and pictures: architectures, weights, data sets."""
