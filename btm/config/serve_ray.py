"""Settings of the Ray cluster whose machines read for a server; part of `btm.config.serve`."""

from dataclasses import dataclass

from btm.config.checks import check_choice, check_least, check_path, require
from btm.config.keys import key

WIRES = ("fp32", "fp16", "int8")


@dataclass
class RayConfig:
    """Where the members of a server run, and how they answer, under serve.engine=ray."""

    address: str | None = key(
        None,
        "address of a Ray cluster, as HOST:6379, or auto: the one that this machine is part of; "
        "null: one of this machine alone",
    )
    replicas: int = key(
        2, "replicas of a model, each on another machine, as far as there is room for them"
    )
    cpus: float = key(1.0, "CPUs of a replica: its threads, and what a machine must have free")
    gpus: float = key(0.0, "GPUs of a replica; a fraction shares one")
    wire: str = key(
        "fp16",
        "number type in which replicas send log-probabilities, each as its distance from the "
        "likeliest one's; int8 is block-wise",
        WIRES,
    )
    patience: float = key(60.0, "seconds after which a replica that does not answer counts as dead")


def check_ray(ray: RayConfig) -> None:
    """Raise `UserError` naming the first key of `ray` whose value makes no sense."""
    check_path(ray.address, "serve.ray.address")
    check_choice(ray.wire, "serve.ray.wire", WIRES)
    check_least(ray, "serve.ray", 1, "replicas", "patience")
    check_least(ray, "serve.ray", 0, "gpus")
    require(0 < ray.cpus < float("inf"), "serve.ray.cpus", ray.cpus, "wanted more than 0")
