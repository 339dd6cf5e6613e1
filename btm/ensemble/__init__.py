"""The ensemble: log-probabilities of each ELM, domain posterior, mixture, and generation."""
