"""The settings that the result of a training depends on, and the differences of two sets of them.

A key that can change the parameters beyond rounding is in `OF_RESULT`, every other one of the
sections `trainer`, `seed` and `fairseq` in `OF_MACHINE`; a test asks that of each key. The card of
an ELM keeps the former (`Card.settings`), so a command that asks for others can name them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from btm.config.schema import Config
from btm.config.training import TrainerConfig
from btm.system.json_files import Json

OF_RESULT = frozenset(
    """
    trainer.backend trainer.steps trainer.batch_size trainer.seq_len trainer.optimizer
    trainer.embedding_bits trainer.lr trainer.warmup trainer.decay trainer.decay_power
    trainer.decay_share trainer.final_lr trainer.betas trainer.weight_decay trainer.clip
    trainer.carry trainer.precision trainer.seed trainer.delta_density trainer.delta_every
    trainer.delta_prune trainer.delta_mask
    trainer.adapter trainer.lora_rank trainer.lora_alpha trainer.lora_targets
    trainer.average_last trainer.average_every trainer.average_decay
    fairseq.options
    seed.source seed.domains seed.steps seed.lr seed.grow_batch seed.grow_after seed.sampling
    """.split()  # noqa: SIM905
)
# Where and how it is computed, and what is written beside it: the same parameters up to rounding.
# seed.name says which ELM is meant.
OF_MACHINE = frozenset(
    """
    trainer.micro_batch_size trainer.offload trainer.kernels trainer.compile trainer.write_behind
    trainer.gradient_checkpointing trainer.device trainer.parallel trainer.threads
    trainer.valid_every trainer.valid_tokens trainer.checkpoint_every trainer.log_every
    trainer.mirrors
    fairseq.python
    seed.name
    """.split()  # noqa: SIM905
)
# Settings of other sections that cards name.
_OF_CARDS = frozenset(
    """
    ensemble.top_k ensemble.prior ensemble.decay ensemble.prior_sequences ensemble.gate
    score.window score.max_tokens
    """.split()  # noqa: SIM905
)
Settings = Json  # {dotted key: value}

# Settings that are named only where they are on, and what they are where they are not named.
_OFF = {
    "trainer.average_last": 0,
    "trainer.average_decay": 0.0,
    "trainer.adapter": "none",
    "seed.sampling": None,
}
RATES = ("trainer.lr", "seed.lr")  # either may give the peak of a root
STEPS = "seed.steps"
CANDIDATES = "candidates"  # names of the ELMs among which a branch was weighed


@dataclass(frozen=True)
class Difference:
    """A setting of what stands, and what was asked for instead."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.key} was {spelled(self.old)}, now {spelled(self.new)}"


def of_root(config: Config, lr: float) -> Settings:
    """Return the settings of the training of a root with the peak learning rate `lr`.

    Where `seed.steps` is null, trainer.steps stands for it: so a run with more domains, whose seed
    phase would be longer, goes on with the seed that stands.
    """
    seed, trainer = config.seed, config.trainer
    # The root's schedule is that of all training unless the experts begin one of their own.
    carry = "fresh" if trainer.carry == "fresh" else "continue"
    made = of_trainer(trainer) | _fairseq(config)
    made |= {RATES[seed.lr is not None]: lr, "trainer.carry": carry, "seed.domains": seed.domains}
    made["seed.grow_batch"] = seed.grow_batch  # also where it is 1, which another may differ from
    if seed.grow_batch > 1:
        made["seed.grow_after"] = seed.grow_after
    if seed.sampling is not None:
        made["seed.sampling"] = seed.sampling
    if seed.steps is not None:
        made[STEPS] = seed.steps
    if seed.steps is None or carry != "fresh":
        made["trainer.steps"] = trainer.steps
    return made


def of_expert(config: Config, lr: float, *, continues: bool) -> Settings:
    """Return the settings of the training of an expert with the peak rate `lr`.

    `continues` tells whether it goes on with its parent's optimizer and schedule.
    """
    trainer = config.trainer
    carry = "continue" if continues else "fresh"
    made = of_trainer(trainer) | _fairseq(config) | _delta(trainer) | _adapter(trainer)
    return made | {"trainer.lr": lr, "trainer.carry": carry, "trainer.steps": trainer.steps}


def of_branch(config: Config) -> Settings:
    """Return the settings by which a branch's several candidates were weighed."""
    if config.weights is not None:
        return {"branch": "weights"}
    if config.branch in ("copy", "uniform"):
        return {"branch": config.branch}
    prior = "token" if config.branch == "token" else config.ensemble.prior
    made: Settings = {
        "branch": config.branch,
        "ensemble.top_k": config.ensemble.prior_top_k,  # the prior keeps so many parents
        "ensemble.prior_sequences": config.ensemble.prior_sequences,
        "score.window": config.window,
        "score.max_tokens": config.score.max_tokens,
    }
    # The estimator of parents' weights is em where asked for, else the paper's cached prior.
    if prior != "token":
        made["ensemble.prior"] = "em" if prior == "em" else "cached"
    if made.get("ensemble.prior") == "cached":
        made["ensemble.decay"] = config.ensemble.decay
    return made


def of_trainer(trainer: TrainerConfig) -> Settings:
    """Return the settings of `trainer` that every training has, without rate, steps and carry.

    What has no effect beside the others, as trainer.decay_share without wsd, is left out.
    """
    names = ["backend", "batch_size", "seq_len", "optimizer", "warmup", "decay", "betas"]
    names += ["weight_decay", "clip", "precision", "seed"]
    if trainer.optimizer == "adamw8bit":
        names.append("embedding_bits")
    if trainer.decay == "polynomial":
        names.append("decay_power")
    if trainer.decay == "wsd":
        names.append("decay_share")
    if trainer.decay != "constant":
        names.append("final_lr")
    if trainer.average_last:
        names += ["average_last", "average_every"]
    if trainer.average_decay:
        names.append("average_decay")
    return {f"trainer.{name}": getattr(trainer, name) for name in names}


def _delta(trainer: TrainerConfig) -> Settings:
    if trainer.delta_density == 1:
        return {"trainer.delta_density": 1.0}
    names = ["delta_density", "delta_mask"]
    if trainer.delta_mask != "random":  # which is drawn once
        names += ["delta_every", "delta_prune"]
    return {f"trainer.{name}": getattr(trainer, name) for name in names}


def _adapter(trainer: TrainerConfig) -> Settings:
    """Return the settings of an adapter; none where a training has none."""
    names = ["adapter", "lora_rank", "lora_alpha", "lora_targets"]
    return {
        f"trainer.{name}": getattr(trainer, name) for name in names if trainer.adapter != "none"
    }


def _fairseq(config: Config) -> Settings:
    return (
        {"fairseq.options": config.fairseq.options} if config.trainer.backend == "fairseq" else {}
    )


def apply(config: Config, settings: Mapping[str, Any]) -> None:
    """Set the keys of `config` to what the settings of a card say; what no result depends on, or is
    no key, as the sha256 of a seed that read, is passed over.
    """
    for dotted, value in settings.items():
        section, _, key = dotted.partition(".")
        if dotted in OF_RESULT or dotted in _OF_CARDS or section == "distil":
            own = getattr(config, section)
            if key in {field.name for field in fields(own)}:
                setattr(own, key, value)


def apply_training(config: Config, settings: Mapping[str, Any]) -> None:
    """Set the keys that train an expert as the settings on its card say, and that weigh the parents
    of its branch; what is named only where it is on is off otherwise.

    An optimizer that was continued is continued where that is possible still.
    """
    known = (OF_RESULT | _OF_CARDS) - {"ensemble.gate"}
    made = {key: value for key, value in settings.items() if key in known}
    if not any(key.startswith("trainer.") for key in made):
        return
    made = {key: off for key, off in _OFF.items() if key.startswith("trainer.")} | made
    if made.get("trainer.carry") == "continue":
        made["trainer.carry"] = "auto"
    if "ensemble.top_k" in made:
        made["ensemble.commit"] = 0  # the card has what the prior keeps
    apply(config, made)


def lacking(config: Config, settings: Mapping[str, Any]) -> list[str]:
    """List what the training of an expert depends on and its card does not name."""
    return sorted(of_expert(config, 0.0, continues=False).keys() - settings.keys())


def differences(stands: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Difference]:
    """List the settings, by key, in which `asked` differs from those of what stands.

    What one side does not have is no difference, nor is what `asked` leaves to btm: a precision of
    auto, an empty list of domains.
    """
    old, new = dict(stands), dict(asked)
    for key in _OFF.keys() & (old.keys() | new.keys()):
        old.setdefault(key, _OFF[key])
        new.setdefault(key, _OFF[key])
    rate = next((key for key in RATES if key in new), RATES[0])
    for key in RATES:
        if key in old:
            old[rate] = old.pop(key)
    return [
        Difference(key, old[key], new[key])
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key] and new[key] not in ("auto", [])
    ]


def said(found: Mapping[str, Sequence[Difference]]) -> str:
    """Say in one line what each ELM of `found` differs in; ELMs of equal differences together."""
    who: dict[str, list[str]] = {}
    for name, differing in found.items():
        for each in differing:
            who.setdefault(str(each), []).append(name)
    return "; ".join(f"{what} ({_few(names)})" for what, names in who.items())


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def spelled(value: Any) -> str:
    """Spell a setting as the command line takes it: null, true, 0.002, [law,news], {law: 0.5}."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {spelled(each)}' for key, each in value.items())}}}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)
