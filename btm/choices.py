"""The words that settings choose from."""

BRANCH_METHODS = ("copy", "uniform", "argmax", "posterior")
AVERAGE_METHODS = (
    "linear",
    "slerp",
    "task_arithmetic",
    "ties",
    "dare_ties",
    "dare_linear",
    "breadcrumbs",
    "model_stock",
    "fisher",
    "greedy_soup",
)
ACCUMULATE = ("float32", "float64")
DTYPES = ("fp32", "bf16", "fp16")
RESCALE = ("density", "l1", "none")
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
FORMATS = ("hf", "mergekit", "fairseq")
SPLITS = ("train", "valid", "test")
GATE_NUMBERS = 8  # of the rule gated: the prior's power and one for each of its features (btm/gate/rule.py)
