"""The plan of one volunteer for a round: the steps, and its part of every batch.

`trainer.batch_size` sequences are the batch of all volunteers together. In a round each takes as
many steps as one machine would, with a part of the batch by its share of the round's tokens, which
follows from measured speeds. So the step, and with it the learning rate, means what it means on one
machine, however many take part.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from btm.commons.together.rounds import Progress
from btm.config.training import TrainerConfig
from btm.errors import UserError
from btm.system import durable
from btm.system.json_files import read_object

_FILE = "begun.json"


@dataclass(frozen=True)
class Plan:
    """A volunteer's part of a round, as it was when that was begun."""

    base: str  # sha256 of the weights that the round begins with
    batch: int  # sequences a step
    steps: int
    horizon: int  # steps of the whole schedule, and those before the round
    offset: int
    read: int  # sequences of own text that earlier rounds read

    @classmethod
    def make(
        cls, at: Progress, base: str, trainer: TrainerConfig, share: float, read: int
    ) -> "Plan":
        """Plan a round for a machine that does `share` of its tokens, between 0 and 1.

        A share of less than one sequence a step takes fewer steps. Raises `UserError` if the round
        has fewer tokens than a sequence.
        """
        if trainer.seq_len > at.together.tokens:
            raise UserError(
                f"a sequence has {trainer.seq_len:,} tokens, and a round of {at.domain!r} has "
                f"{at.together.tokens:,}: lower trainer.seq_len"
            )
        most = at.together.tokens // trainer.seq_len
        batch = min(most, max(1, round(trainer.batch_size * share)))
        sequences = at.budget * share / trainer.seq_len
        steps = min(most // batch, max(1, round(sequences / batch)))
        horizon = max(1, round(steps * at.wanted.tokens / at.budget))
        offset = round(horizon * at.tokens / at.wanted.tokens)
        return cls(base, batch, steps, horizon, offset, read)

    @property
    def first(self) -> int:
        """The batches of this size that hold what was read before."""
        return -(-self.read // self.batch)

    @property
    def read_after(self) -> int:
        """The sequences of own text that were read once the round is trained."""
        return (self.first + self.steps) * self.batch

    def write(self, folder: Path) -> None:
        """Write the plan beside what is trained by it."""
        durable.write_json(folder / _FILE, asdict(self))

    @classmethod
    def read_from(cls, folder: Path) -> "Plan":
        """Read the plan of what is trained in `folder`."""
        numbers = dict.fromkeys(("batch", "steps", "horizon", "offset", "read"), int)
        found = read_object(folder / _FILE, base=str, **numbers)
        return cls(**{name: found[name] for name in cls.__dataclass_fields__})
