"""Models of `transformers`, their weights on disk, and averages of parameters."""
