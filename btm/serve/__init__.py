"""Serve a forest: many texts at once, each by the ensemble, by one expert, or by an average."""
