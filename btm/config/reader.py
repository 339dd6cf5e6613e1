"""Settings of readers of questions (btm/readers)."""

import math
from dataclasses import dataclass
from typing import Any

from btm.config.checks import (
    check_choice,
    check_fraction,
    check_least,
    check_name,
    check_path,
    check_seed,
    require,
)
from btm.config.choices import SPLITS
from btm.config.keys import key
from btm.errors import UserError

GROUNDS = ("expert", "average", "forest")


@dataclass
class ReaderConfig:
    """A reader of questions: its modules, its questions, its training."""

    name: str | None = key(None, "name of the reader in readers/; null: that of its model")
    data: str | None = key(
        None, "folder of its questions, a file a split; null: the one that it was trained on"
    )
    split: str = key("test", "split of the questions that read eval and compare measure", SPLITS)
    questions: str | None = key(
        None,
        "how files of questions are read: a name, or package.module:NAME; null: as reader= says",
    )
    input: str | None = key(
        None,
        "module before the model: a name, or package.module:NAME; null: as reader= says",
    )
    model: str | None = key(
        None, "module that computes scores: a name, or package.module:NAME; null: as reader= says"
    )
    output: str | None = key(
        None,
        "module after the model: a name, or package.module:NAME; null: as reader= says",
    )
    options: dict[str, Any] = key(
        {}, "settings of these modules, {name: value}; docs/readers.md lists them"
    )
    epochs: int = key(10, "passes over the training questions")
    batch_size: int = key(128, "items of a training step: questions, or windows of their support")
    lr: float = key(0.003, "learning rate of Adam")
    final_lr: float = key(1.0, "share of reader.lr that is left at the end, reached linearly")
    weight_decay: float = key(0.0, "decoupled weight decay (AdamW), a step, times the rate")
    seed: int = key(0, "seed of first parameters, order of questions and dropout")
    checkpoint_every: int = key(500, "training steps from one checkpoint to the next")
    question: str | None = key(
        None, "of read answer: the question; of links 'subject relation ?'; null: none is asked"
    )
    support: list[str] = key([], "of read answer: texts that the question is about")
    candidates: list[str] = key([], "of read answer: the answers to choose from")


def check_reader(reader: ReaderConfig) -> None:
    """Raise `UserError` naming the first key of `reader` whose value makes no sense."""
    if reader.name is not None:
        check_name(reader.name, "reader.name")
    check_path(reader.data, "reader.data")
    check_choice(reader.split, "reader.split", SPLITS)
    check_least(reader, "reader", 1, "epochs", "batch_size", "checkpoint_every")
    check_fraction(reader, "reader", "weight_decay")
    check_seed(reader.seed, "reader.seed")
    positive = math.isfinite(reader.lr) and reader.lr > 0
    require(positive, "reader.lr", reader.lr, "wanted more than 0")
    require(0 <= reader.final_lr <= 1, "reader.final_lr", reader.final_lr, "wanted [0, 1]")
    for kind in ("questions", "input", "model", "output"):
        name = getattr(reader, kind)
        if name is not None and (not name or name.count(":") > 1 or "/" in name):
            raise UserError(
                f"reader.{kind}={name!r}: wanted a name, or package.module:NAME of your own code"
            )
