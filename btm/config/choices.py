"""The words that settings choose from."""

BRANCH_METHODS = ("copy", "uniform", "argmax", "posterior", "token")
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
SCALED = (
    "task_arithmetic",
    "ties",
    "dare_ties",
    "dare_linear",
    "breadcrumbs",
)  # what average.scale multiplies
ACCUMULATE = ("float32", "float64")
DTYPES = ("fp32", "bf16", "fp16")
RESCALE = ("density", "l1", "none")
AVERAGE_WEIGHTS = ("uniform", "argmax", "posterior", "token")
RULES = ("bayes", "simple", "last_token", "fixed_share", "tracking", "gated", "router")
FITS = ("domain", "forest")
PRIORS = ("uniform", "updating", "cached", "em", "token")
DECAYS = ("constant", "cosine", "linear", "polynomial", "wsd")
CARRY = ("auto", "continue", "fresh")
COMPILE = ("auto", "always", "never")
BACKENDS = ("btm", "fairseq")
SPECIAL_TOKENS = ("endoftext", "fairseq")
OPTIMIZERS = ("adamw", "adamw8bit")
EMBEDDING_BITS = (8, 32)
BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)  # of quantised tensors, in elements
PARALLEL = ("ddp", "fsdp")
PRECISIONS = ("auto", "fp32", "bf16")
MIRRORS = ("tensorboard", "wandb", "mlflow")
DELTA_MASKS = ("momentum", "normalised", "random")
BASELINES = ("dense", "dense_large_batch", "random_split", "demix")
CLUSTERS = ("debug", "local", "slurm")
FORMATS = ("hf", "mergekit", "fairseq", "delta", "delta8")
SPLITS = ("train", "valid", "test")
# of the rule gated: the prior's power and one for each of its features (btm/ensemble/gate/rule.py)
GATE_NUMBERS = 8
ELM_STATES = ("ELM", "average", "branch", "trained", "damaged", "removed")
ELM_ORDERS = ("name", "domain", "tokens", "total_tokens", "parameters", "valid_nats", "created")
DRAWINGS = ("text", "mermaid", "graphviz")
DIFFS = ("module", "tensor")
# The licences that the metadata of a model card may name:
# https://huggingface.co/docs/hub/repositories-licenses
LICENSES = tuple(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
    intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openrail++ osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
    unknown other
    """.split()  # noqa: SIM905
)
