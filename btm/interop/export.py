"""Export of a model as a folder for others: weights, config, tokenizer, card and README."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from btm.data import ends
from btm.errors import UserError
from btm.forest import Forest, index, model_card
from btm.forest.card import Card
from btm.forest.paths import ModelFolder
from btm.forest.terms import NONE_STATED, Terms, descended, refused, unstated
from btm.models import causal_lm, files, weights
from btm.models.average import Settings, average
from btm.system import durable, sums


def export(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    shard_gb: float = 0.0,
    terms: Terms = NONE_STATED,
    force: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> Path:
    """Publish the model folder `source` at `target` and return `target`.

    The weights are the same bytes, unless they are converted to `dtype` (fp32, bf16, fp16) or split
    into files of `shard_gb` (10⁹ bytes). `terms` are stated on the card, the licence instead of the
    model's own. Raises `UserError` if something else stands at `target`, if numbers do not fit into
    `dtype`, if the weights do not match the card, or if a licence forbids it and `force` is false.
    """
    card = card_of(source, terms, force=force)
    if weights.sha256(source) != card.sha256:
        raise UserError(
            f"{source}: its weights are not those of its card (sha256): damaged, "
            "restore it from a copy"
        )
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"to={target} lies in the folder that is exported; give another to=DIR")
    with publish(target) as made:
        durable.require_space(made, sum(file.stat().st_size for file in weights.files(source)))
        _write(source, made, card, dtype, shard_gb, alive)
    return target


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends.

    If `target` holds the same files already, it is left alone; `UserError` if it holds others.
    """
    scratch = durable.scratch_folder(durable.make_folder(target.absolute().parent))
    made = scratch / target.name
    made.mkdir()
    try:
        yield made
        durable.sync_tree(made)
        if not target.exists():
            durable.rename_folder(made, target)
        elif not _same(made, target):
            raise UserError(
                f"to={target} holds something else already; give another to=DIR, or delete it"
            )
    finally:
        durable.remove_folder(scratch)


def card_of(
    source: Path,
    terms: Terms,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Card:
    """Make the card of the model in `source` as it is exported, with `terms` stated.

    Raises `UserError` if a licence forbids it (btm/forest/terms.py); with `force` the card says so.
    Where nobody stated the licence of an imported model, the card and `say` tell it.
    """
    card, root = Card.read(ModelFolder(source).card), source.absolute().parents[1]
    notes = []
    if Forest.stands(root):
        card = descended(card, Forest(root))
    if why := refused(card, terms.license):
        if not force:
            raise UserError(f"{card.name!r}: {why}; or export.force=true, if you have the right")
        notes.append(f"exported by force: {why}")
    if terms.license and card.license not in ("", terms.license):
        notes.append(f"licence stated at export: {terms.license}, before: {card.license}")
    card = Terms.of_card(card).with_(terms).on(card)
    if Forest.stands(root) and (why := unstated(card, Forest(root))):
        say(f"note: {why}")
        notes.append(why)
    return replace(card, notes=[*card.notes, *notes])


def _write(
    source: Path,
    made: Path,
    card: Card,
    dtype: str | None,
    shard_gb: float,
    alive: Callable[[], None],
) -> None:
    causal_lm.copy_files(source, made)
    ends.declare(made, [source])  # an ELM of an older btm may say otherwise
    if dtype is None and not shard_gb:
        _copy_weights(source, made, alive)
    else:
        stored = None if dtype is None else weights.STORED[dtype]
        settings = Settings(dtype=stored, shard_bytes=int(shard_gb * 1e9) or None)
        average({source: 1.0}, made, alive, settings)
    if dtype is not None:
        causal_lm.declare_dtype(ModelFolder(made).config, weights.STORED[dtype])
    digests = weights.digests(made)
    sha256 = weights.identity(digests)
    if sha256 != card.sha256:
        what = f"as {dtype}" if dtype else "in other files"
        note = f"exported {what} from sha256 {card.sha256}"
        card = replace(card, sha256=sha256, notes=[*card.notes, note])
    durable.write_json(ModelFolder(made).card, card.to_json())
    text = model_card.readme(card, index.kind_of(source))
    ModelFolder(made).readme.write_text(text)
    sums.write(made, digests)


def _copy_weights(source: Path, made: Path, alive: Callable[[], None]) -> None:
    """Copy the weight files unchanged."""
    for file in [*weights.files(source), *source.glob(files.INDEX)]:
        with durable.naming(made / file.name):
            shutil.copyfile(file, made / file.name)
        alive()


def _same(one: Path, other: Path) -> bool:
    """Tell whether two folders hold the same files."""
    names = sums.names(one)
    return sums.names(other) == names and all(
        (other / name).is_file() and sums.file_sha256(one / name) == sums.file_sha256(other / name)
        for name in (*names, sums.NAME)
    )
