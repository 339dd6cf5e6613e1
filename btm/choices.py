"""The words that settings choose from."""

BRANCH_METHODS = ("copy", "uniform", "argmax", "posterior")
AVERAGE_WEIGHTS = ("uniform", "argmax", "posterior")
RULES = ("bayes", "simple", "last_token", "fixed_share", "tracking", "gated")
FITS = ("domain", "forest")
PRIORS = ("uniform", "updating", "cached", "em", "token")
DECAYS = ("constant", "cosine", "linear", "polynomial")
CARRY = ("auto", "continue", "fresh")
PRECISIONS = ("auto", "fp32", "bf16")
MIRRORS = ("tensorboard", "wandb", "mlflow")
BASELINES = ("dense", "dense_large_batch", "random_split", "demix")
CLUSTERS = ("debug", "local", "slurm")
SPLITS = ("train", "valid", "test")
