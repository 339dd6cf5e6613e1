"""The costs of an ELM of a forest: parameters, FLOPs, bytes and the time that training takes."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from btm.config.schema import Config
from btm.data.shards import Suite
from btm.errors import UserError
from btm.forest.paths import ModelFolder, Paths
from btm.forest.suites import open_suite
from btm.models import causal_lm, configs, flops, weights
from btm.steps.plan import Plan
from btm.system.json_files import read_object

MOMENTS = 2  # of AdamW, for each parameter
_CHECKPOINTS = 3  # at once: the newest, the one before it, and the one being written
_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Costs:
    """The costs of one ELM of a forest."""

    parameters: int
    flops_per_token: float  # of training
    scoring_flops_per_token: float
    tokens_per_second: float | None  # of all jobs of a machine together; None: not known yet

    @classmethod
    def of(cls, config: Config) -> "Costs":
        """Measure them on the seed if it stands, else compute them from the architecture."""
        root = Path(config.forest_root)
        seeds = [Paths(place).elm(config.seed.name).path for place in (root, config.base_root)]
        seed = next((seed for seed in seeds if seed.is_dir()), seeds[0])
        if ModelFolder(seed).config.is_file():
            count, made = weights.parameters(seed), causal_lm.load_config(seed)
        elif config.seed.source:
            source = Path(config.seed.source)
            count, made = weights.parameters(source), causal_lm.load_config(source)
        else:
            folder = Path(config.data.out) / config.data.name
            is_prepared = Suite.stands(folder)
            words = open_suite(config).vocab_size if is_prepared else config.data.vocab_size
            made = configs.make_config(config.model, words, 0)
            count = causal_lm.count_parameters(made)
        shape = flops.Shape.of_config(made)
        training = shape.training_flops(config.trainer.seq_len)
        return cls(count, training, shape.inference_flops(config.window), _rate(config, root))

    @property
    def elm_bytes(self) -> int:
        """The weights of one ELM on disk."""
        return self.parameters * _BYTES

    @property
    def training_bytes(self) -> int:
        """The checkpoints of one training on disk, at most."""
        return self.parameters * _BYTES * (1 + MOMENTS) * _CHECKPOINTS

    def seconds(self, tokens: int) -> float | None:
        """Estimate the time that training on `tokens` takes; None where no speed is known."""
        return None if self.tokens_per_second is None else tokens / self.tokens_per_second


def priced(config: Config, plan: Plan) -> Plan:
    """Add to `plan` its FLOPs, the bytes that it keeps and, for a training, its time.

    What the plan says of these itself stays, as where it makes no ELM.

    Apart from the plan itself, since a step that decides by its plan need not count them.
    """
    if plan.idle or not (plan.tokens or plan.makes):
        return plan
    costs, tokens = Costs.of(config), plan.tokens or 0
    trains = plan.steps is not None
    per_token = costs.flops_per_token if trains else costs.scoring_flops_per_token
    return replace(
        plan,
        flops=tokens * per_token if plan.flops is None else plan.flops,
        disk_bytes=len(plan.makes) * costs.elm_bytes
        if plan.disk_bytes is None
        else plan.disk_bytes,
        seconds=costs.seconds(tokens) if trains else None,
    )


def _rate(config: Config, root: Path) -> float | None:
    """Return tokens per second: measured here for all jobs together, or that of the seed."""
    known = _measured(Paths(root).jobs.throughput)
    if known and config.cluster.kind != "slurm":
        return max(known.values())
    metrics = Paths(root).elm(config.seed.name).metrics
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    if not lines:
        return None
    return json.loads(lines[-1])["tokens_per_second"]


def _measured(file: Path) -> dict[str, float]:
    """Read the measured speed for each number of jobs; a damaged record counts as none."""
    try:
        return read_object(file, tokens_per_second=dict)["tokens_per_second"]
    except (OSError, UserError):
        return {}
