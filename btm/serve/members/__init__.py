"""The models that the engine runs: each once, however many ensembles it is a member of."""
