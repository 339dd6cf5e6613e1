"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler
state.
"""

import math
from dataclasses import dataclass, replace

from btm.config.training import TrainerConfig
from btm.system.json_files import Json

# Measured by scripts/bench/choosing.py for 0.2 to 1 M parameters and extrapolated above
# (docs/choosing.md): the best peak of a dense LM falls with its size; 6e-4 at 125 M is what GPT-3
# was trained with (arXiv 2005.14165, table 2.1).
_REFERENCE = (125e6, 6e-4)
_EXPONENT = -0.39
# The setting that gives each part of a schedule, but its length.
_KEYS = {"peak": "lr", "warmup_steps": "warmup", "decay": "decay", "final": "final_lr"}
_KEYS_OF = {"polynomial": {"power": "decay_power"}, "wsd": {"share": "decay_share"}}


def default_lr(parameters: int) -> float:
    """Return the peak learning rate of a root with so many parameters, to two digits."""
    size, lr = _REFERENCE
    return float(f"{lr * (parameters / size) ** _EXPONENT:.1e}")


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then decay, over `horizon` steps, of which a training runs from step `offset` on.

    Under `wsd` (warm-up, stable, decay: MiniCPM, arXiv 2404.06395) the rate falls in the last
    `share` of them only (not before the warm-up is over), so that experts which continue it begin
    from a seed whose rate has hardly fallen.

    A fresh schedule has offset 0 and its own steps as horizon. One that continues a seed phase has
    the seed's steps as offset and both phases' steps as horizon, as in the BTM paper (section 3.1).
    """

    peak: float
    horizon: int
    offset: int = 0
    warmup_steps: int = 0
    decay: str = "cosine"
    power: float = 1.0
    final: float = 0.1
    # None but under wsd, so that what was begun before that was there goes on
    share: float | None = None

    @classmethod
    def of(cls, trainer: TrainerConfig, *, horizon: int, offset: int = 0) -> "Schedule":
        """Return the schedule that `trainer` describes over `horizon` steps; its `lr` must be a
        number.

        Raises `ValueError` where the rate is still to be chosen by size or by a test
        (btm/train/phase.py, `rate`).
        """
        if not isinstance(trainer.lr, int | float):
            raise ValueError(f"trainer.lr={trainer.lr} is no rate yet")
        return cls(
            peak=trainer.lr,
            horizon=horizon,
            offset=offset,
            warmup_steps=round(trainer.warmup * horizon),
            decay=trainer.decay,
            power=trainer.decay_power,
            final=trainer.final_lr,
            share=trainer.decay_share if trainer.decay == "wsd" else None,
        )

    @classmethod
    def rest(cls, kept: Json, steps: int) -> "Schedule":
        """Return the rest of a schedule, as a card keeps it, after a training of `steps` steps.

        Raises `ValueError` for values that make no schedule.
        """
        try:
            begun = cls(**kept)
            rest = replace(begun, offset=begun.offset + steps)
            rest.lr(0)
        except (TypeError, KeyError, ArithmeticError) as error:
            raise ValueError(f"no schedule: {error}") from None
        return rest

    @property
    def steps_left(self) -> int:
        """Steps of the training until the rate is as low as it gets."""
        return max(0, self.horizon - self.offset)

    def contradictions(self, trainer: TrainerConfig) -> list[str]:
        """List the settings of `trainer` that this schedule does not follow, each with what it has
        instead: "trainer.lr=0.003 (peak 0.001)". A rate that is still to be chosen contradicts
        nothing.
        """
        lr = trainer.lr if isinstance(trainer.lr, int | float) else self.peak
        said = Schedule.of(replace(trainer, lr=lr), horizon=self.horizon, offset=self.offset)
        keys = _KEYS | (_KEYS_OF.get(self.decay, {}) if said.decay == self.decay else {})
        return [
            f"trainer.{key}={getattr(trainer, key)} ({part} {getattr(self, part)})"
            for part, key in keys.items()
            if getattr(said, part) != getattr(self, part)
        ]

    def lr(self, step: int) -> float:
        """Return the learning rate of the training's own step `step`, counted from 0."""
        position = self.offset + step
        if position < self.warmup_steps:
            return self.peak * (position + 1) / self.warmup_steps
        span = max(1, self.horizon - self.warmup_steps)
        remaining = 1 - min(1.0, (position - self.warmup_steps) / span)
        shape = {
            "constant": 1.0,
            "cosine": 0.5 * (1 - math.cos(math.pi * remaining)),
            "linear": remaining,
            "polynomial": remaining**self.power,
            "wsd": min(1.0, remaining * span / min(span, (self.share or 1.0) * self.horizon)),
        }[self.decay]
        return self.peak * (self.final + (1 - self.final) * shape)
