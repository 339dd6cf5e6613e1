"""Hugging Face model folders: checked in every way there is, then added to a forest.

A folder is copied first (`intake`); the copy is checked with our own reader (headers, finite
values), then in a process with limits (`probe`), and only then loaded here. It enters like a
trained branch, through `Forest.merge`.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from btm.data import ends
from btm.data.bos import AUTO
from btm.data.tokenizer import copy_tokenizer, read_origin, tokenizer_sha256
from btm.errors import UserError, command, reword
from btm.forest import ELM, Forest
from btm.forest.card import Card
from btm.forest.paths import ModelFolder
from btm.forest.terms import NONE_STATED, Terms
from btm.interop import intake, pickles, probe
from btm.models import causal_lm, trial, weights
from btm.models.causality import require_causal
from btm.system import durable, sandbox

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOTED = re.compile(r"(.+) of the source: sha256 ([0-9a-f]{64})")
_TOKENIZER = "tokenizer"  # the folder of its copy, beside the model's


@dataclass(frozen=True)
class Checked:
    """A model that has passed the checks, ready to enter a forest."""

    source: Path
    model: "PreTrainedModel"
    tokenizer: Path
    tokenizer_sha256: str
    license: str
    notes: list[str]
    sha256: str  # of the weight files of the source


@contextmanager
def checked(
    source: Path,
    key: str,
    place: Path,
    *,
    with_legacy: bool = False,
    bos: str = AUTO,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Checked]:
    """Yield the checked model of the folder `source`, which the setting `key` names.

    `bos` is the policy by which its texts begin: ``data.bos``, or what a forest or suite records.

    Scratch files lie in `place` meanwhile. Raises `UserError`, in one line, for whatever makes the
    model unfit: not a folder, remote code, pickled weights, files that are no regular ones, shapes
    or names that do not fit its config, numbers that are not finite, logits that later tokens
    move, no usable tokenizer.
    """
    if not source.is_dir():
        raise UserError(f"{key}={source}: {_no_folder(source)}")
    with durable.scratch_in(place) as scratch:
        try:
            yield _check(source, scratch, with_legacy, bos, alive)
        except UserError as error:
            copy = scratch / "model"
            for ours in (f"data.tokenizer={copy}", str(copy / intake.PICKLED), str(copy)):
                reword(error, ours, str(source))
            raise


def enter(
    root: Path,
    name: str,
    domains: list[str],
    model: Checked,
    *,
    parent: str | None = None,
    terms: Terms = NONE_STATED,
) -> ELM:
    """Add a checked model to the forest at `root`, planting it if need be; return its ELM.

    `terms` go on its card, but its licence is its README's where that names one. An ELM of that
    name from the same weights is returned as it is; the branch of a killed import of it begins
    anew. Raises `UserError`, and leaves nothing behind, if the forest has another
    architecture or tokenizer, or another ELM of that name.
    """
    source = str(model.source)
    kept = trial.comes_back(model.model, trial.TOKENS, model.tokenizer.parent, source)
    forest = Forest.create(root, kept, model.tokenizer, model.tokenizer_sha256)
    if name in forest:
        require_same(forest[name], model.source, model.sha256)
        return forest[name]
    if forest.has_branch(name) and forest.get_branch(name).origin.get("source") == source:
        with forest.hold(name) as (left, _):
            durable.remove_folder(left.path)
    branch = forest.root_branch(
        name,
        domains,
        model.model,
        source=source,
        source_sha256=model.sha256,
        license=model.license,
        parent=parent,
        method="import" if parent else "none",
        tokenizer=model.tokenizer,
    )
    result = {"steps": 0, "tokens": 0, "notes": model.notes}
    with forest.hold(name) as (held, _):
        durable.write_json(held.files.result, result)
    try:
        if model.license:
            terms = replace(terms, license="")
        return forest.merge(forest.get_branch(name), terms=terms)
    except UserError:
        durable.remove_folder(branch.path)
        raise


def require_same(elm: ELM, source: Path, sha256: str) -> None:
    """Raise `UserError` unless an ELM was imported from weights with this sha256, as those of
    `source` have it.
    """
    found = _imported_sha256(elm.card)
    if found == sha256:
        return
    from_where = f"from weights with sha256 {found[:12]}" if found else "that was not imported"
    root = elm.path.parents[1]
    raise UserError(
        f"{root} has an ELM {elm.name!r} already, {from_where}, and {source} holds others "
        f"({sha256[:12]}); ELMs are never replaced: give another name (name=, of a seed "
        "seed.name=) or forest=DIR, or first remove and readmit it: "
        f"{command('remove', expert=elm.name, forest=root)}, then again with --readmit"
    )


def _imported_sha256(card: Card) -> str:
    """Read the sha256 of the weights that an ELM was imported from; empty if it was not.

    The cards of an older btm have it in their notes alone, file by file.
    """
    noted = (_NOTED.fullmatch(note) for note in card.notes)
    digests = {match[1]: match[2] for match in noted if match}
    return card.source_sha256 or (intake.identity(digests) if digests else "")


def _check(
    source: Path, scratch: Path, with_legacy: bool, bos: str, alive: Callable[[], None]
) -> Checked:
    """Copy a model folder and check the copy."""
    copy = scratch / "model"
    copy.mkdir()
    sandbox.start(probe.__name__, pickles.__name__)
    taken = intake.take(source, copy, legacy=with_legacy, alive=alive)
    if taken.pickled:
        _convert(copy, taken)
        shutil.rmtree(copy / intake.PICKLED)
        if len(taken.weights) > 1:
            intake.write_index(copy)
    _require_finite(copy, source)
    sandbox.ask(probe.QUESTION, copy)
    model, notes = _load(copy)  # safe in this process only now, after the box has tried it
    copy_tokenizer(copy, scratch / _TOKENIZER, bos)
    _require_vocabulary(model, scratch / _TOKENIZER, source)
    trial.run(model, trial.TOKENS, str(source))
    require_causal(model, str(source))
    origin = read_origin(scratch / _TOKENIZER)
    notes += ends.settle(model, origin["eos"], origin["vocab_size"], origin.get("bos"))
    if "bos" in origin or bos != AUTO:
        what = f"the token {origin['bos']}" if "bos" in origin else "no BOS"
        notes.append(f"texts begin with {what} (data.bos={bos})")
    copied = [f"{name} of the source: sha256 {digest}" for name, digest in taken.weights.items()]
    sha256 = tokenizer_sha256(scratch / _TOKENIZER)
    return Checked(
        source,
        model,
        scratch / _TOKENIZER,
        sha256,
        taken.license,
        copied + notes,
        intake.identity(taken.weights),
    )


def _convert(copy: Path, taken: intake.Taken) -> None:
    """Convert pickled weights in a box; a refusal names them as the source does."""
    home = copy / intake.PICKLED
    try:
        sandbox.ask(pickles.QUESTION, home, copy)
    except UserError as error:
        for number, name in enumerate(taken.weights, 1):
            ours = intake.usual(number, len(taken.weights), "bin")
            reword(error, str(home / ours), str(copy / name))
        raise


def _no_folder(source: Path) -> str:
    """Explain why `source` is no model folder, with the remedy."""
    if source.is_file():
        return (
            "a file; wanted the folder of a Hugging Face model, with its config.json and tokenizer"
        )
    if len(source.parts) == 2 and not source.parent.exists():
        return (
            "no such folder; if it is a model of the Hub, fetch it first: "
            f"hf download {source} --local-dir DIR"
        )
    return "no such folder"


def _require_finite(folder: Path, source: Path) -> None:
    bad = weights.first_not_finite(folder)
    if bad is not None:
        raise UserError(f"{source}: a NaN or an infinity in tensor {bad!r}")


def _load(folder: Path) -> tuple["PreTrainedModel", list[str]]:
    """Load the model in a dtype that loses nothing; return it with notes on what was changed."""
    declared = causal_lm.read_config(ModelFolder(folder).config)
    said = declared.get("dtype") or declared.get("torch_dtype")
    dtype, notes = causal_lm.widest(folder, said), []
    if said is not None and dtype != said:
        notes.append(f"its config says {said}, its weights need {dtype}, in which they are kept")
    import torch

    model = causal_lm.load_model(folder, dtype=getattr(torch, dtype))
    settings = model.generation_config
    try:
        if settings is not None:
            settings.validate(strict=True)
    except ValueError:
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_model_config(model.config)
        notes.append("its generation_config.json contradicted itself and was left out")
    return model, notes


def _require_vocabulary(model: "PreTrainedModel", tokenizer: Path, source: Path) -> None:
    rows, size = causal_lm.vocabulary(model), read_origin(tokenizer)["vocab_size"]
    if rows < size:
        raise UserError(
            f"{source} has embeddings for {rows:,} tokens, its tokenizer {size:,}: "
            "resize the model (resize_token_embeddings) or give it the tokenizer "
            "it was trained with"
        )
