"""Packages that are not installed with btm, and are imported only where they are used."""

from importlib.util import find_spec

from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.data.documents import Source
from btm.data.formats import OF_PYARROW, format_of
from btm.errors import UserError
from btm.models import inference
from btm.serve.members.cluster.connect import require_token
from btm.system.extras import install
from btm.train.fairseq import command

_MIRRORS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # {mirror: package}
_CLUSTERING = ("sklearn", "scipy")
_SERVER = ("fastapi", "uvicorn", "prometheus_client")


def optimizer(config: Config) -> None:
    """Require bitsandbytes for moments of 8 bits; it is not imported, which would take seconds."""
    if config.trainer.optimizer == "adamw8bit" and not _installed("bitsandbytes"):
        raise UserError(
            f"trainer.optimizer=adamw8bit needs bitsandbytes: {install('int8')}, "
            "or use trainer.optimizer=adamw"
        )


def adapter(config: Config) -> None:
    """Require peft for adapters; it is not imported, which would take seconds."""
    if config.trainer.adapter == "lora" and not _installed("peft"):
        raise UserError(
            f"trainer.adapter=lora needs peft: {install('lora')}, or use trainer.adapter=none"
        )


def quantisation(config: Config) -> None:
    """Require bitsandbytes for models in int8, and a device that multiplies them."""
    load = config.load
    if load.quantization == "int8" and not _installed("bitsandbytes"):
        raise UserError(
            f"load.quantization=int8 needs bitsandbytes: {install('int8')}, or use load.dtype=bf16"
        )
    inference.require_device(load, config.trainer.device)


def mirrors(config: Config) -> None:
    """Require what metrics are mirrored to."""
    for mirror in config.trainer.mirrors:
        if not _installed(_MIRRORS[mirror]):
            raise UserError(
                f"trainer.mirrors={config.trainer.mirrors}: {mirror} is not installed: "
                f"{install(mirror)}, or leave it out"
            )


def fairseq(config: Config) -> None:
    """Require a Python that has fairseq, and options that are fairseq's to take."""
    if config.trainer.backend == "fairseq":
        command.interpreter(config.fairseq.python)
        command.extra_options(config.fairseq.options)


def parquet(config: Config) -> None:
    """Require pyarrow where text lies in files of parquet or Arrow."""
    if config.baseline == "random_split" or _installed(
        "pyarrow"
    ):  # the former has no text of its own
        return
    for source in _sources(config):
        for _, path in source.listing():
            if (form := format_of(path)) in OF_PYARROW:
                raise UserError(f"{path}: {form} needs pyarrow; run: {install('parquet')}")


def clustering(config: Config) -> None:
    """Require what discovery clusters with."""
    if not all(map(_installed, _CLUSTERING)):
        raise UserError(f"discovery needs scikit-learn; run: {install('discover')}")


def server(config: Config) -> None:
    """Require what the HTTP server is made of."""
    if missing := [package for package in _SERVER if not _installed(package)]:
        raise UserError(f"btm serve needs {', '.join(missing)}; run: {install('serve')}")


def cluster(config: Config) -> None:
    """Require Ray where its cluster serves, and a token where others could reach it."""
    if config.serve.engine != "ray":
        return
    if not _installed("ray"):
        raise UserError(f"serve.engine=ray needs Ray; run: {install('cluster')}")
    require_token(config.serve.ray)


def harness(config: Config) -> None:
    """Require lm-evaluation-harness."""
    _require_harness("btm bench")


def harness_of_search(config: Config) -> None:
    """Require lm-evaluation-harness where the weights of an average are searched by benchmark."""
    if config.average.search == "tasks":
        _require_harness("average.search=tasks")


def _require_harness(what: str) -> None:
    if not _installed("lm_eval"):
        raise UserError(f"{what} needs lm-evaluation-harness; run: {install('eval')}")


def _sources(config: Config) -> list[Source]:
    return preparation.sources(config.data)


def _installed(package: str) -> bool:
    """Tell whether a package can be found, without importing it."""
    return find_spec(package) is not None
