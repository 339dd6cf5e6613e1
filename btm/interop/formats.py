"""Import and export of models in other formats: a function for each format."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from btm import fairseq
from btm.config.checks import check_name
from btm.config.schema import Config
from btm.data.tokenizer import recorded_policy
from btm.errors import UserError, reword
from btm.forest import ELM, Forest, Terms, own_model
from btm.forest.models import derived_of
from btm.forest.suites import require_beginning
from btm.interop import delta, delta8, export, gguf, huggingface, intake, lora, mergekit, received
from btm.report import Reporter, quiet
from btm.system import durable


def import_model(
    config: Config, reporter: Reporter = quiet, measure: received.Measure = received.unmeasured
) -> ELM:
    """Add the model that ``from=`` names to the forest; without a forest, plant one from it.

    Returns its ELM; one of that name from the same weights is returned as it is. `measure` finds
    the losses of a received difference and its parents (`btm.steps.received`). Raises `UserError`,
    with nothing changed, for whatever makes the model unfit.
    """
    source, root = _source(config), Path(config.forest_root)
    if config.format == "delta":
        return delta.import_elm(config, source, measure, reporter)
    name, domains = imported_as(config)
    if config.format == "delta8":
        return delta8.enter(Forest(root), source, name, config, measure, reporter.alive)
    if config.format == "lora":
        return lora.import_elm(config, source, name, domains, measure, reporter)
    forest = Forest(root) if Forest.stands(root) else None
    if forest and (elm := standing(config, forest, name, reporter)) is not None:
        return elm
    if config.parent is not None and forest is None:
        raise UserError(f"parent={config.parent}: there is no forest in {root} yet; leave it out")
    if forest:
        require_beginning(config)
    if forest and config.parent is not None:
        forest[config.parent]  # raises for an unknown name, before the long checks
    legacy = config.imports.legacy
    bos = recorded_policy(forest.tokenizer) if forest else config.data.bos
    with ExitStack() as stack:
        folder = stack.enter_context(_as_hugging_face(source, root, config.format, legacy))
        model = stack.enter_context(
            huggingface.checked(
                folder, "from", root, with_legacy=legacy, bos=bos, alive=reporter.alive
            )
        )
        reporter.line(f"checked {source}")
        model = replace(model, source=source)  # the user's folder, not the converted one
        terms = Terms.of_config(config.card)
        return huggingface.enter(root, name, domains, model, parent=config.parent, terms=terms)


def standing(config: Config, forest: Forest, name: str, reporter: Reporter = quiet) -> ELM | None:
    """Return the ELM `name`, if it stands and is from the weights that ``from=`` holds now.

    None if there is none; `UserError` if it is from others, or was not imported.
    """
    if name not in forest:
        return None
    elm, source, legacy = forest[name], _source(config), config.imports.legacy
    if not source.exists():
        raise UserError(f"from={source}: no such file or folder")
    with _as_hugging_face(source, forest.root, config.format, legacy) as folder:
        sha256 = intake.source_sha256(folder, legacy=legacy, alive=reporter.alive)
    huggingface.require_same(elm, source, sha256)
    reporter.line(f"{elm.path} stands there, from these very weights")
    return elm


@contextmanager
def _as_hugging_face(source: Path, root: Path, format: str, legacy: bool) -> Iterator[Path]:
    """Yield a model of another format as a Hugging Face folder, deleted when the block ends."""
    if format == "hf":
        yield source
        return
    if not source.exists():
        raise UserError(f"from={source}: no such file or folder")
    place = durable.make_folder(root.absolute().parent)
    durable.sweep(place)  # what killed imports left
    scratch = durable.scratch_folder(place)
    try:
        fairseq.to_hugging_face(source, scratch, legacy=legacy)
        yield scratch
    except UserError as error:
        reword(error, str(scratch), str(source))
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def imported_as(config: Config) -> tuple[str, list[str]]:
    """Return the name and the domains of an import; the first model of a forest is the seed.

    The seed has no domain.
    """
    planted = Forest.stands(config.forest_root)
    if config.format == "delta":
        return delta.named(config, _source(config))
    if config.expert is None and planted:
        raise UserError("import under which name? give name=NAME")
    name = check_name(config.expert or config.seed.name, "name")
    if config.domain is not None:
        return name, [config.domain]
    return name, [name] if planted else []


def _source(config: Config) -> Path:
    if config.imports.source is None:
        raise UserError("import what? give from=DIR, the folder of a Hugging Face model")
    if config.format in ("mergekit", "gguf"):
        raise UserError(
            f"format={config.format} is for export only; wanted for an import: hf, fairseq, "
            "delta, delta8 or lora"
        )
    return Path(config.imports.source)


def export_model(config: Config, reporter: Reporter = quiet) -> tuple[Path | None, str]:
    """Write a model of the forest in another format; return its path, and its text if it is a text.

    Without ``to=`` a text is only returned. Raises `UserError` if there is no such model, if the
    format cannot hold it, or if something else stands there.
    """
    source = exported(config)
    if config.format == "mergekit":
        return _export_text(mergekit.recipe(Forest(config.forest_root), source), config)
    if config.to is None:
        raise UserError("export to where? give to=DIR")
    terms, force = Terms.of_config(config.card), config.export.force
    export.card_of(source, terms, force=force, say=reporter.line)  # refuses what licences forbid
    if config.format == "fairseq":
        return _export_fairseq(source, Path(config.to)), ""
    if config.format == "delta":
        return delta.export(source, Path(config.to)), ""
    if config.format == "lora":
        return lora.export(source, Path(config.to)), ""
    wanted = config.export
    if config.format == "gguf":
        if wanted.shard_gb:
            raise UserError(
                f"export.shard_gb={wanted.shard_gb:g}: a GGUF is one file; leave it out"
            )
        return gguf.export(source, Path(config.to), wanted.dtype, reporter.alive), ""
    if config.format == "delta8":
        if config.expert is None:
            raise UserError(
                "format=delta8 is the difference of an ELM from its parents: give expert=NAME"
            )
        forest, target = Forest(config.forest_root), Path(config.to)
        delta8.export(forest, config.expert, target, wanted.block, reporter.alive)
        return target, ""
    if wanted.dtype == "q8_0":
        raise UserError("export.dtype=q8_0: of format=gguf alone; wanted fp32, bf16 or fp16")
    target = export.export(
        source,
        Path(config.to),
        dtype=wanted.dtype,
        shard_gb=wanted.shard_gb,
        terms=terms,
        force=force,
        alive=reporter.alive,
    )
    return target, ""


def _export_fairseq(source: Path, target: Path) -> Path:
    """Publish a model as a checkpoint of fairseq with its dict.txt."""
    if target.exists():
        raise UserError(f"to={target} stands there already; give another to=DIR, or delete it")
    with durable.publish_folder(target) as folder:
        fairseq.from_hugging_face(source, folder)
    return target


def exported(config: Config) -> Path:
    """Find the folder of the model to export."""
    forest = Forest(config.forest_root)
    derived = derived_of(config)
    if config.expert is not None and derived is None:
        return forest[config.expert].path
    if derived is None or config.expert is not None:
        raise UserError(
            "export what? give expert=NAME (an ELM), average=NAME, student=NAME or moe=NAME"
        )
    return own_model(forest, derived).path


def _export_text(text: str, config: Config) -> tuple[Path | None, str]:
    if config.to is None:
        return None, text
    target = Path(config.to)
    if target.is_dir() or (target.exists() and target.read_bytes() != text.encode()):
        raise UserError(
            f"to={target} holds something else already; give another to=FILE, or delete it"
        )
    with durable.publish_file(target) as handle:
        handle.write(text.encode())
    return target, text
