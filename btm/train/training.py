"""What one training is given (`Training`), and what it says of itself once it is done
(`Trained`).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from btm.config.training import TrainerConfig
from btm.data.batches import Batches
from btm.data.windows import Windows
from btm.system.json_files import Json
from btm.train.metrics import Report
from btm.train.schedule import Schedule

Pulse = Callable[[int], bool]  # told of every step; returns whether the training should stop


@dataclass(frozen=True)
class Training:
    """One training of the model in `folder`, in place; the same for every way to train it."""

    folder: Path
    batches: Batches  # of DEMix those of its first domain
    trainer: TrainerConfig
    schedule: Schedule
    steps: int
    valid: Windows | None = None  # validated on every trainer.valid_every steps
    moments: Path | None = None  # an optimizer.safetensors to begin with (trainer.carry=continue)
    keep_moments: bool = False  # leave them in `folder`, for trainings that continue this one
    report: Report | None = None
    pulse: Pulse = lambda step: False
    # Steps whose losses may be on the device unread; None: 1 on a CPU, `losses.ON_A_GPU` elsewhere.
    unread: int | None = None


@dataclass(frozen=True)
class Trained:
    """The result of a training. As JSON it is trained.json, from which the card is made.

    A field that is None was not measured, and is left out of the file.
    """

    steps: int
    tokens: int
    flops: float = 0.0
    exact: bool = True  # bit for bit what an unbroken run gives
    notes: list[str] = field(default_factory=list)
    optimizer: Json | None = None  # bytes of its state: `optimizers.StateSize`
    backend: str | None = None  # where it is not btm itself
    fairseq: Json | None = None  # its versions and arguments
    loss: float | None = None  # of the last step, nats per token
    trainer: Json | None = None  # the trainer section that was in force
    settings: Json | None = None  # that the result depends on (btm/config/identity.py)
    precision: str | None = None
    schedule: Json | None = None
    delta: Json | None = None  # of a sparse expert: density, budget, nonzeros, …
    adapter: Json | None = None  # kind, rank, alpha, targets, parameters, bytes
    lr: float | None = None  # peak
    data: dict[str, str] | None = None  # domain: sha256 of the training shard
    languages: list[str] | None = None  # that its suite states of that text: tags of BCP 47
    sources: list[dict[str, str]] | None = None  # as `card.sources`
    valid_nats: float | None = None  # of the expert, on the valid split of its domain
    parent_valid_nats: dict[str, float] | None = None  # of each parent, on the same tokens

    def to_json(self) -> Json:
        """Return the content of trained.json."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Json) -> "Trained":
        """Return the result whose `to_json` gave `values`."""
        return cls(**values)


Run = Callable[[Training], Trained]  # a way to train: dense, sparse, distributed, by fairseq
