"""Keys and flags that a verb reads, but that have no effect beside the others of the command.

Only what the command itself says is looked at: what a forest records, or a bundle sets, serves
other commands too.
"""

from collections.abc import Collection

from btm.config.average import SCALED
from btm.config.bench import asks_own, is_ensemble
from btm.config.moe import SUMMED, TRAINED
from btm.config.schema import Config
from btm.errors import UserError

_DARE = ("dare_ties", "dare_linear")
# A key of averages, and the methods that it changes.
_METHODS = {
    "average.scale": SCALED,
    "average.density": ("ties", *_DARE, "breadcrumbs"),
    "average.gamma": ("breadcrumbs",),
    "average.t": ("slerp",),
    "average.rescale": _DARE,
    "average.seed": _DARE,
    "average.sequences": ("fisher",),
    "average.base": (*SCALED, "slerp", "model_stock"),
}
_SEARCH = ("average.budget", "average.groups")
_SAMPLED = ("mix.seed", "mix.concentration")
# A key of mixtures of experts, and the routers that it changes.
_ROUTERS = {
    "moe.ridge": ("ridge",),
    "moe.tokens": SUMMED,
    "moe.reader": SUMMED,
    "moe.seed": ("random", *TRAINED),
    "moe.steps": TRAINED,
    "moe.train": TRAINED,
    "moe.balance": ("btx",),
}
_LORA = ("trainer.lora_rank", "trainer.lora_alpha", "trainer.lora_targets")
# Of `cluster`, and of what it says of one kind of jobs: keys for which this machine has no use.
_OF_SLURM = {
    *("partition", "account", "qos", "wckey", "time_min", "nodes"),
    *("setup", "python", "extra", "patience", "warn_before"),
}
_CARD = ("license", "languages", "sources", "use", "restrictions")
# A key of exports, and the formats that it changes.
_FORMATS = {
    "export.dtype": ("hf", "gguf"),
    "export.shard_gb": ("hf",),
    "export.force": ("hf", "fairseq", "delta", "delta8", "lora", "gguf"),
    **{f"card.{name}": ("hf",) for name in _CARD},
    "export.block": ("delta8",),
}


def require(verb: str, keys: Collection[str], flags: Collection[str], config: Config) -> None:
    """Raise `UserError` for the first of `keys` and `flags`, as given, that changes nothing."""
    if verb != "ls" and "://" in (config.forest or ""):
        raise UserError(
            f"forest={config.forest}: btm {verb} works in a folder; of a URL there are btm ls and "
            "btm pull from=URL"
        )
    for key in keys:
        if (wanted := _wanted(verb, key, keys, flags, config)) is not None:
            raise UserError(f"{key} has no effect here: {wanted}")
    if "--retry-failed" in flags and config.cluster.kind == "debug":
        raise UserError(
            "--retry-failed has no effect here: cluster=debug runs in this process, and tries what "
            "failed again anyway"
        )


def _wanted(
    verb: str, key: str, keys: Collection[str], flags: Collection[str], config: Config
) -> str | None:
    """Say what a key would need to have an effect; None if it has one."""
    if verb == "average" and key in _METHODS:
        return _of_average(key, keys, config)
    if verb == "average" and key in _SEARCH and config.average.search is None:
        return "nothing is searched; give average.search=valid with it"
    if verb == "average" and (key == "tasks" or key.startswith("bench.")):
        by_tasks = config.average.search == "tasks"
        return None if by_tasks else "nothing is asked; give average.search=tasks with it"
    if verb == "run" and key == "average.search" and config.average.search == "tasks":
        return "a cycle asks no benchmark; give it to btm average"
    if verb == "mix" and key in _SAMPLED and not config.mix.samples:
        return "nothing is drawn; give mix.samples=N with it"
    if verb == "moe":
        return _of_mixture(key, config)
    if verb == "commons init" and key in ("weights", "parent", "commons.least"):
        if not config.commons.wanted:
            return "it is of domains that are asked for; give commons.wanted with it"
        both = key == "parent" and config.weights is not None
        return "weights= says what a branch begins with; leave one of them out" if both else None
    if verb == "bench":
        return _of_benchmark(key, config)
    if verb in ("read train", "read compare"):
        return _of_reader(verb, key, config)
    if verb == "export" and key in _FORMATS and config.format not in _FORMATS[key]:
        return (
            f"format={config.format} does not read it; wanted format={' or '.join(_FORMATS[key])}"
        )
    if key.startswith("cluster.container"):
        return _of_container(verb, key, config)
    if key.startswith("cluster.") and not _OF_SLURM.isdisjoint(key.split(".")):
        kind = config.cluster.kind
        return None if kind == "slurm" else f"cluster={kind} does not read it, only cluster=slurm"
    of_hub = key == "export.force" or key.startswith("card.")
    if verb == "push" and of_hub and not (config.to or "").startswith("hf://"):
        return "a model goes with the card that it has; wanted to=hf://OWNER/NAME"
    if verb == "push" and key == "export.block" and config.push.kind != "delta8":
        return f"push.as={config.push.kind} does not read it; wanted push.as=delta8"
    if key in _LORA and config.trainer.adapter == "none":
        return "no adapter is trained; give trainer.adapter=lora with it"
    if verb == "distil" and key in ("distil.teacher", "distil.temperature"):
        read = config.distil.weight > 0
        return None if read else "distil.weight=0 reads no teacher; give a larger one"
    if verb == "lineage" and key == "lineage.format" and "--json" in flags:
        return "--json is a format of its own; leave one of them out"
    if verb == "remove" and key == "remove.reason" and "--readmit" in flags:
        return "the reason stands on the tombstone; leave it out"
    if verb == "branch" and key == "branch" and config.weights is not None and "weights" in keys:
        return "weights= says how the parents are weighed; leave one of them out"
    if verb == "branch" and key == "parent" and config.branch != "copy":
        return f"branch={config.branch} weighs all ELMs; give branch=copy with it"
    return None


def _of_container(verb: str, key: str, config: Config) -> str | None:
    """Say what a key of containers would need to have an effect; None if it has one."""
    if config.cluster.kind != "slurm" or verb != "run":
        return "only the jobs of btm run cluster=slurm run in containers"
    if key != "cluster.container" and config.cluster.container is None:
        return "there is no container; give cluster.container=IMAGE with it"
    return None


def _of_benchmark(key: str, config: Config) -> str | None:
    """Say what a key of `btm bench` would need to have an effect; None if it has one."""
    tasks, models = config.tasks, config.bench.models
    if key in ("eval.domains", "eval.suites") and tasks and not asks_own(tasks):
        return f"it chooses the text of the tasks btm, and tasks={tasks} have their own"
    if key == "domain" and models and not any(map(is_ensemble, models)):
        return f"an ensemble is fitted on its text, and bench.models={models} names none"
    return None


def _of_reader(verb: str, key: str, config: Config) -> str | None:
    """Say what a key of `btm read train` or `compare` would need to have an effect."""
    grounds = {"expert": "expert", "average.name": "average", "ensemble.experts": "forest"}
    if key not in grounds or (verb == "read compare" and key != "expert"):
        return None
    wanted = f"wanted on={grounds[key]}"
    if verb == "read compare":
        return "it compares all that the forest has; leave it out"
    return None if config.on == grounds[key] else f"on={config.on or 'null'}; {wanted}"


def _of_average(key: str, keys: Collection[str], config: Config) -> str | None:
    wanted, average = _METHODS[key], config.average
    if average.search is not None:
        if key == "average.base":  # it is searched with the experts
            return None
        return f"average.search={average.search} finds the weights of a linear average"
    is_default = average.method is None and config.weights is None and not average.layers
    if key == "average.scale" and is_default and average.scale == "fit":
        return None
    if average.method in wanted:
        return None
    method = average.method or ("null, which fits its scale itself," if is_default else "linear")
    return f"average.method={method} does not read it; give one of {', '.join(wanted)}"


def _of_mixture(key: str, config: Config) -> str | None:
    """Say what a key of `btm moe` would need to have an effect; None if it has one."""
    moe = config.moe
    kept = ("moe.name", "moe.add", "moe.remove", "domain")
    if (moe.add or moe.remove) and key not in kept and (key.startswith("moe.") or key == "weights"):
        return "ELMs join or leave a mixture as it was made; leave it out"
    routers = _ROUTERS.get(key, (moe.router,))
    if moe.router not in routers:
        return f"moe.router={moe.router} does not read it; give one of {', '.join(routers)}"
    return None
