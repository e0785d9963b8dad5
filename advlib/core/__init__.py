"""What equations stand on: draws, norms, checks, surrogates, second derivatives, intervals, published numbers."""
