"""One training phase of a cycle: a branch on its own shards, under the schedule that
`trainer.carry` gives it.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from btm.config.schema import Config
from btm.config.training import TrainerConfig
from btm.data.batches import Batches, Growth, windows
from btm.data.shards import Shard, Suite
from btm.errors import UserError
from btm.forest import ELM, Branch, Forest
from btm.models import causal_lm, weights
from btm.report import Reporter
from btm.system.json_files import read_object
from btm.train import checkpoint, loop
from btm.train.fairseq import training
from btm.train.lora import trainee as adapted
from btm.train.schedule import Schedule, default_lr
from btm.train.sparse import trainee
from btm.train.training import Pulse, Run, Trained, Training

FIND = "find"  # as trainer.lr: the rate that a short test finds (btm/steps/rates.py)


@dataclass(frozen=True)
class Course:
    """What a training phase does: its steps and rates, and the parent whose optimizer it goes on
    with.
    """

    steps: int
    schedule: Schedule
    continued: ELM | None = None
    notes: tuple[str, ...] = ()  # on the card: what became of the parent's optimizer and schedule

    @property
    def moments(self) -> Path | None:
        """The optimizer's state to begin with."""
        return self.continued.path / checkpoint.MOMENTS if self.continued else None


def train(
    config: Config,
    forest: Forest,
    branch: Branch,
    shards: list[Shard],
    suite: Suite,
    reporter: Reporter,
    pulse: Pulse,
    run: Run | None = None,
) -> Trained:
    """Train with the schedule and the optimizer state that the policy trainer.carry gives.

    `run` is the loop, by default that of one process, for a dense or a sparse expert.
    """
    is_root = not branch.parents
    course = course_of(config, forest, branch)
    # The rate that was meant, on the card too.
    trainer = replace(config.trainer, lr=course.schedule.peak)
    run = run or _loop(config)
    if is_root and run is trainee.train:
        raise UserError(
            f"trainer.delta_density={trainer.delta_density}: {branch.name!r} has no parents that "
            "it could differ from "
            "in few parameters; a root is trained with 1.0"
        )
    if is_root and run is adapted.train:
        raise UserError(
            f"trainer.adapter={trainer.adapter}: {branch.name!r} has no parents that an adapter "
            "could stand beside; a root is trained with none"
        )
    causal_lm.check_context(config, causal_lm.read_config(branch.files.config))
    valid = None
    if len(shards) == 1:
        valid = windows(
            suite.shard(shards[0].domain, "valid"), trainer.seq_len, trainer.valid_tokens
        )
    with reporter.training(branch.name) as report:
        trained = run(
            Training(
                branch.path,
                batches(config, shards, branch.name, is_root=is_root),
                trainer,
                course.schedule,
                course.steps,
                valid=valid,
                moments=course.moments,
                keep_moments=is_root and trainer.carry != "fresh",
                report=report,
                pulse=pulse,
            )
        )
    return replace(
        trained,
        notes=[*trained.notes, *course.notes],
        lr=course.schedule.peak,
        data={shard.domain: shard.sha256 for shard in shards},
    )


def batches(config: Config, shards: list[Shard], name: str, *, is_root: bool) -> Batches:
    """Make the batches that the branch `name` trains on; `UserError` if a shard is too short."""
    trainer = config.trainer
    growth = growth_of(config) if is_root else Growth()
    sampling = config.seed.sampling if is_root else None
    pieces = [piece for shard in shards for piece in shard.pieces(trainer.seq_len + 1)]
    return Batches(
        pieces, trainer.seq_len, trainer.batch_size, trainer.seed, growth, name, sampling
    )


def growth_of(config: Config) -> Growth:
    """Make the rule by which the batch of the seed phase grows."""
    return Growth(config.seed.grow_batch, config.seed.grow_after)


def _loop(config: Config) -> Run:
    """Return the function that trains, as trainer.backend, .adapter and .delta_density say."""
    if config.trainer.backend == "fairseq":
        return partial(training.train, fairseq=config.fairseq, legacy=config.imports.legacy)
    if config.trainer.adapter == "lora":
        return adapted.train
    return loop.train if config.trainer.delta_density == 1 else trainee.train


def course_of(config: Config, forest: Forest, branch: Branch) -> Course:
    """Decide the steps and the schedule of a branch, and whose optimizer it continues, as
    trainer.carry says.

    Raises `UserError` where trainer.carry=continue cannot do what the other settings say.
    """
    if not config.trainer.steps:
        raise ValueError("trainer.steps is still to be decided (steps.settled does)")
    continued = _continued(config, forest, branch) if branch.parents else None
    if continued is not None and continued.card.schedule:
        return _rest(config.trainer, continued)
    trainer = replace(config.trainer, lr=rate(config, forest, branch))
    if not branch.parents:
        # The seed phase is the first part of a longer schedule, unless experts begin theirs anew.
        steps = config.seed.steps
        if steps is None:
            raise ValueError("seed.steps is still to be decided (steps.train does)")
        horizon = steps + (0 if trainer.carry == "fresh" else trainer.steps)
        return Course(steps, Schedule.of(trainer, horizon=horizon))
    if continued is None:
        schedule = Schedule.of(trainer, horizon=trainer.steps)
        return Course(trainer.steps, schedule, notes=_anew(trainer.carry, forest, branch))
    # A seed of an older btm, whose card does not say how long its schedule was to be.
    offset = continued.card.steps
    schedule = Schedule.of(trainer, horizon=offset + trainer.steps, offset=offset)
    return Course(trainer.steps, schedule, continued, (_goes_on(continued),))


def _rest(trainer: TrainerConfig, parent: ELM) -> Course:
    """Continue the schedule that stands on a parent's card, with its peak, length and shape.

    Beyond its end the rate stays what it was there. What `trainer` says otherwise is a `UserError`
    under trainer.carry=continue, and a note on the card under auto.
    """
    try:
        schedule = Schedule.rest(parent.card.schedule, parent.card.steps)
    except ValueError as error:
        raise UserError(f"{parent.path}: its card has {error}; give trainer.carry=fresh") from None
    steps, left = trainer.steps, schedule.steps_left
    ignored = ", ".join(schedule.contradictions(trainer))
    if ignored and trainer.carry == "continue":
        raise UserError(
            f"trainer.carry=continue goes on with the schedule of {parent.name!r}, which has "
            f"another: {ignored}; leave these out, or give trainer.carry=fresh"
        )
    if schedule.lr(steps - 1) == 0 and steps > left:
        raise UserError(
            f"trainer.steps={steps}: the schedule of {parent.name!r} has {left} steps left, and "
            f"ends with a rate of 0, which teaches nothing: give trainer.steps={max(1, left)}, or "
            "trainer.carry=fresh"
        )
    notes = [_goes_on(parent)]
    if ignored:
        notes.append(f"without effect, for {parent.name}'s schedule has another: {ignored}")
    if steps > left:
        notes.append(
            f"{steps - left} steps at {schedule.lr(steps - 1):g}, the last rate of "
            f"{parent.name}'s schedule, which had {left} left"
        )
    if steps < left:
        notes.append(f"ends {left - steps} steps before {parent.name}'s schedule does")
    return Course(steps, schedule, parent, tuple(notes))


def _goes_on(parent: ELM) -> str:
    """Write the note of a branch that continues its parent."""
    return f"continues the optimizer and schedule of {parent.name}"


def _anew(carry: str, forest: Forest, branch: Branch) -> tuple[str, ...]:
    """Write the note of a branch that could not continue its parent under trainer.carry=auto."""
    if carry != "auto" or not (kept := _kept(forest, list(branch.parents))):
        return ()
    parent = next(iter(branch.parents))
    return (f"begins a new optimizer and schedule: {parent!r} was trained with {kept}",)


def rate(config: Config, forest: Forest, branch: Branch) -> float:
    """Return the peak learning rate of a branch: as given, as a test found it, or by the model's
    size.
    """
    given = config.trainer.lr
    if not branch.parents and config.seed.lr is not None:
        return config.seed.lr
    if given == FIND:
        return _found(config, forest, branch)
    return default_lr(weights.parameters(branch.path)) if given is None else float(given)


def _found(config: Config, forest: Forest, branch: Branch) -> float:
    """Return the rate that the test of this branch found, or else the one that the seed was trained
    with.

    Raises `UserError` if there is neither, as under a seed that was imported.
    """
    if branch.files.rates.exists():
        return float(read_object(branch.files.rates, lr=float)["lr"])
    seed = forest[config.seed.name].card if config.seed.name in forest else None
    if seed is None or seed.lr is None:
        raise UserError(
            f"trainer.lr=find: nothing was tested for {branch.name!r}, nor for the seed: give a "
            "number"
        )
    return seed.lr


def _continued(config: Config, forest: Forest, branch: Branch) -> ELM | None:
    """Return the parent whose optimizer and schedule the branch continues, as trainer.carry says,
    or None.
    """
    if config.trainer.carry == "fresh" or config.trainer.adapter != "none":
        return None
    names = list(branch.parents)
    kept = _kept(forest, names)
    if kept == config.trainer.optimizer:
        return forest[names[0]]
    if config.trainer.carry == "continue":
        why = (
            f"{names[0]!r} was trained with {kept}"
            if kept
            else f"{names[0]!r} kept no optimizer state"
        )
        why = "it has several parents" if len(names) > 1 else why
        raise UserError(
            f"trainer.carry=continue: branch {branch.name!r} cannot, for {why}; use auto or fresh"
        )
    return None


def _kept(forest: Forest, parents: list[str]) -> str | None:
    """Return the optimizer whose moments the only one of `parents` kept; None if there are none."""
    if len(parents) != 1:
        return None
    file = forest[parents[0]].path / checkpoint.MOMENTS
    return checkpoint.optimizer_of(file) if file.is_file() else None
