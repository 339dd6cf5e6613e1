"""The router of a mixture of experts: from sums of hidden states, drawn, or trained."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.config import identity
from btm.config.moe import TRAINED
from btm.config.schema import Config
from btm.config.training import TrainerConfig
from btm.data.batches import Batches, windows
from btm.data.shards import Shard, require_text
from btm.data.windows import Windows
from btm.errors import UserError, command
from btm.forest import ELM, Forest, index, publish, trained_on
from btm.forest.card import Card
from btm.forest.paths import MOES, ModelFolder
from btm.forest.suites import open_suites
from btm.models import causal_lm, flops, weights
from btm.models.average import Settings, normalise
from btm.models.files import INDEX
from btm.models.moe import hidden, routers
from btm.models.moe.hidden import Array, Sums
from btm.report import Beating, Reporter
from btm.steps import averages
from btm.steps.beside import seeds
from btm.steps.moe.recipe import MoeRecipe
from btm.system import durable, lease
from btm.system.json_files import Json, read_object
from btm.train import moe as training
from btm.train.schedule import Schedule, default_lr
from btm.train.training import Trained, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def sums_file(expert: str) -> str:
    """Name the file of an expert's sums, in the folder of the mixture."""
    return f"sums-{expert}.safetensors"


def rows_of(mixture: MoeRecipe, sums: Sequence[Sums], values: Json) -> Array:
    """Make the routers' rows, (L, E, H), of a mixture that has the config `values`."""
    if mixture.router == "ridge":
        return routers.ridge(sums, mixture.settings["ridge"])
    if mixture.router == "domain":
        return routers.domain(sums)
    layers, width = values["num_hidden_layers"], values["hidden_size"]
    return routers.random(mixture.experts, mixture.settings["seed"], layers, width)


def sums_of(
    config: Config, forest: Forest, mixture: MoeRecipe, elms: Sequence[ELM], reporter: Reporter
) -> list[Sums]:
    """Return the sums of each expert's domain; those that a mixture of that name has are reused.

    The text is the head of the domain's train split, which the expert was trained on itself. Where
    ELMs joined or left, those that the average of the ELMs before has read are reused too.
    """
    suite, reader = open_suites(config), str(mixture.settings["reader"])
    most = int(mixture.settings["tokens"])
    shards = [suite.shard(elm.card.domains[0], "train") for elm in elms]
    standing = forest.paths.derived(MOES, mixture.name).path
    found: list[Sums | None] = []
    for elm, shard in zip(elms, shards, strict=True):
        file = standing / sums_file(elm.name)
        known = Sums.read(file) if file.is_file() else None
        wanted: dict[str, str | int] = {
            "expert": elm.card.sha256,
            "shard": shard.sha256,
            "reader": reader,
            "tokens": shard.head(most)[0],
            "window": config.window,
        }
        if not (mixture.keeps and reader == "average" and known is not None and known.model):
            wanted["model"] = model_of(forest, mixture, elm)
        found.append(known if known is not None and known.is_of(wanted) else None)
    missing = [i for i, each in enumerate(found) if each is None]
    if missing:
        trained_on.record(forest.paths, [shards[i] for i in missing])
        total = sum(shards[i].head(most)[0] for i in missing)
        said = f"hidden states of {', '.join(elms[i].name for i in missing)}"
        with reporter.scoring(said, total) as told:
            for i in missing:
                with _reader(forest, mixture, elms[i], reporter) as folder:
                    read = _read(config, folder, elms[i], shards[i], reader, most, told)
                found[i] = replace(read, model=model_of(forest, mixture, elms[i]))
    return [each for each in found if each is not None]


def read_by_others(
    forest: Forest, mixture: MoeRecipe, elms: Sequence[ELM], sums: Sequence[Sums]
) -> dict[str, str]:
    """Name the experts whose text another model has read than a mixture made anew would let read
    it: {name: hash of that model}.
    """
    return {
        elm.name: each.model
        for elm, each in zip(elms, sums, strict=bool(sums))
        if each.model != model_of(forest, mixture, elm)
    }


def model_of(forest: Forest, mixture: MoeRecipe, elm: ELM) -> str:
    """Hash the model whose hidden states are read (moe.reader) for an expert's domain: the weights
    of an ELM, or the parents of an average with their shares.
    """
    how = mixture.settings["reader"]
    if how == "expert":
        return elm.card.sha256
    if how == "seed":
        return _seed(forest, mixture).card.sha256
    shares = normalise(mixture.weights)
    parents = [[forest[name].card.sha256, share] for name, share in shares.items()]
    return hashlib.sha256(json.dumps(parents).encode()).hexdigest()


def _seed(forest: Forest, mixture: MoeRecipe) -> ELM:
    roots = seeds(forest, list(mixture.experts))
    if len(roots) != 1:
        raise UserError(
            f"moe.reader=seed: {len(roots)} ELMs without parents stand in {forest.root}, and "
            "one is wanted: give moe.reader=expert or average"
        )
    return forest[roots[0]]


@contextmanager
def _reader(forest: Forest, mixture: MoeRecipe, elm: ELM, reporter: Reporter) -> Iterator[Path]:
    """Find the model whose hidden states are read (moe.reader) for an expert's domain."""
    how = mixture.settings["reader"]
    if how == "expert":
        yield elm.path
    elif how == "seed":
        yield _seed(forest, mixture).path
    else:
        with publish.trial(forest, mixture.weights, Settings(), reporter.alive) as folder:
            yield folder


def _read(
    config: Config,
    folder: Path,
    elm: ELM,
    shard: Shard,
    reader: str,
    most: int,
    told: Callable[[int], None],
) -> Sums:
    import torch

    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    model: PreTrainedModel = causal_lm.load_trainable(folder, config.trainer.device).eval()
    causal_lm.check_context(config, model.config.to_dict(), str(folder))
    require_text([shard], "btm moe")
    text = windows(shard, config.window, most)
    gram, total = hidden.read(model, _batches(text, config.score.batch_size), told)
    found = Sums(elm.card.sha256, shard.sha256, reader, text.n_tokens, gram, total)
    return replace(found, window=config.window)


def _batches(text: Windows, rows: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield the inputs of `rows` windows at a time, and how many of their tokens count."""
    for start in range(0, text.n_windows, rows):
        ids = text.inputs(start, min(start + rows, text.n_windows))
        yield ids, min(ids.size, text.n_tokens - start * text.L)


def with_reading(config: Config, card: Card, elms: Sequence[ELM], sums: Sequence[Sums]) -> Card:
    """Put on the card what was read for the router: which text, how many tokens, FLOPs.

    What stood already counts too: it was read for this router.
    """
    if not sums:
        return card
    like = elms[0].card
    shape = flops.Shape(like.matrix_parameters, like.attention)
    if not like.matrix_parameters:  # a card from before the ledger
        shape = flops.Shape.of_config(causal_lm.load_config(elms[0].path))
    tokens = sum(each.tokens for each in sums)
    data = {elm.card.domains[0]: each.shard for elm, each in zip(elms, sums, strict=True)}
    spent = tokens * shape.inference_flops(config.window)
    return replace(card, tokens=tokens, flops=spent, data=data)


def text_of(config: Config, mixture: MoeRecipe, elms: Sequence[ELM]) -> dict[str, str]:
    """Name the train text that the router is made of, {domain: sha256 of the shard}."""
    if not (mixture.is_summed or mixture.router in TRAINED):
        return {}
    suite = open_suites(config)
    domains = sorted({domain for elm in elms for domain in elm.card.domains})
    return {domain: suite.shard(domain, "train").sha256 for domain in domains}


def settings_of(config: Config, forest: Forest, mixture: MoeRecipe, elms: Sequence[ELM]) -> Json:
    """Collect what the router depends on beside `moe`: the settings of `trainer` where it is
    trained, the window where text is read for it, and the seed that reads.
    """
    if mixture.is_summed:
        read: Json = {"score.window": config.window}
        if mixture.settings["reader"] == "seed":
            read["seed.sha256"] = _seed(forest, mixture).card.sha256
        return read
    if mixture.router not in TRAINED:
        return {}
    trainer = _trainer(config, elms)
    return identity.of_trainer(trainer) | {"trainer.lr": trainer.lr}


def _trainer(config: Config, elms: Sequence[ELM]) -> TrainerConfig:
    """Fill in the rate: where a test was to find it, that of one ELM's size. No test is made for a
    mixture, and each of its matrices is as large as an ELM's.
    """
    given = config.trainer.lr
    like = default_lr(weights.parameters(elms[0].path))
    return replace(config.trainer, lr=float(given) if isinstance(given, int | float) else like)


def tokens_of(config: Config, mixture: MoeRecipe) -> int:
    """Count the tokens that a router is trained on."""
    return int(mixture.settings["steps"]) * config.trainer.batch_size * config.trainer.seq_len


def trained(
    config: Config,
    forest: Forest,
    mixture: MoeRecipe,
    elms: Sequence[ELM],
    card: Card,
    write: Callable[[Path], dict[str, str]],
    reporter: Reporter,
) -> Path:
    """Train a mixture that `write` begins, from wherever an earlier attempt stopped, and publish
    it; return its folder.

    It is trained in a hidden folder beside it, under a lease, on the train text of all its experts.
    """
    suite = open_suites(config)
    shards = [suite.shard(domain, "train") for domain in card.domains]
    home = forest.paths.moe_in_making(mixture.name)
    making = _making(replace(card, data=text_of(config, mixture, elms)))
    if lease.find(home) is None:
        with durable.publish_folder(home, replace=True) as folder:
            write(folder)
            durable.write_json(ModelFolder(folder).making, making)
    held = lease.take(home)
    try:
        beating = Beating(reporter, held.beat)
        begun = read_object(
            ModelFolder(held.path).making, recipe=dict, settings=dict, data=dict, parents=dict
        )
        if begun != making:
            gone = command("remove", moe=mixture.name, forest=forest.root)
            raise UserError(
                f"{home} holds the mixture {mixture.name!r} half made of other ELMs or text or "
                "with other settings: give those and it goes on, give another moe=NAME, or first "
                f"{gone}"
            )
        trained_on.record(forest.paths, shards)
        result = _train(config, mixture, elms, held.path, shards, beating)
        path = publish.derived(
            forest,
            index.MOE,
            _with_training(card, result),
            lambda folder: _copy(held.path, folder),
            averages.measuring(config, forest, beating),
        )
        durable.remove_folder(held.path)
    finally:
        held.release()
    return path


def clear(forest: Forest, card: Card) -> None:
    """Delete what a process that was killed after it had published this mixture left of its making,
    unless somebody is at work there.
    """
    home = forest.paths.moe_in_making(card.name)
    if (left := lease.find(home)) is None or lease.held(home):
        return
    begun = ModelFolder(left).making
    if begun.is_file() and read_object(begun) == _making(card):
        durable.remove_folder(left)


def _making(card: Card) -> Json:
    """Collect the recipe, settings, text and parents of a trained mixture, by its card."""
    return {
        "recipe": card.recipe,
        "settings": card.settings,
        "data": card.data,
        "parents": {name: asdict(parent) for name, parent in card.parents.items()},
    }


def _train(
    config: Config,
    mixture: MoeRecipe,
    elms: Sequence[ELM],
    folder: Path,
    shards: list[Shard],
    reporter: Reporter,
) -> Trained:
    """Train the mixture in `folder`, unless it is trained; return what that took."""
    done = ModelFolder(folder).result
    if done.exists():
        return Trained.from_json(read_object(done, steps=int, tokens=int))
    steps, trainer = int(mixture.settings["steps"]), _trainer(config, elms)
    require_text(shards, "btm moe")
    pieces = [piece for shard in shards for piece in shard.pieces(trainer.seq_len + 1)]
    with reporter.training(mixture.name) as report:
        found = training.train(
            Training(
                folder,
                Batches(
                    pieces, trainer.seq_len, trainer.batch_size, trainer.seed, order=mixture.name
                ),
                trainer,
                Schedule.of(trainer, horizon=steps),
                steps,
                report=report,
                pulse=reporter.pulse,
            ),
            mixture.router,
            mixture.settings["train"],
            float(mixture.settings.get("balance", 0.0)),
        )
    peak = trainer.lr if isinstance(trainer.lr, float) else None
    found = replace(found, lr=peak, data={shard.domain: shard.sha256 for shard in shards})
    durable.write_json(done, found.to_json())
    return found


def _with_training(card: Card, result: Trained) -> Card:
    """Put on the card what the training took."""
    return replace(
        card,
        steps=result.steps,
        tokens=result.tokens,
        flops=result.flops,
        lr=result.lr,
        schedule=result.schedule or {},
        data=result.data or {},
        exact=result.exact,
        notes=result.notes,
    )


def _copy(source: Path, target: Path) -> dict[str, str]:
    """Copy the trained model; return the sha256 of each weight file."""
    causal_lm.copy_files(source, target)
    for file in [*weights.files(source), source / INDEX]:
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    shutil.copyfile(ModelFolder(source).metrics, ModelFolder(target).metrics)
    return weights.digests(target)
