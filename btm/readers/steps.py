"""The steps of `btm read`: train, eval, answer and audit."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from btm.config.choices import SPLITS
from btm.config.schema import Config
from btm.errors import UserError, command
from btm.forest import Forest, tombstone
from btm.forest.paths import ReaderFolder
from btm.forest.readers import ReaderCard
from btm.models import causal_lm
from btm.readers import folder as folders
from btm.readers import train as training
from btm.readers.ground import Ground
from btm.readers.intervals import Interval, interval
from btm.readers.modules import Measures
from btm.readers.reader import Reader
from btm.readers.registry import Parts, Spec, resolve
from btm.readers.setting import Answer, Example, QASetting
from btm.report import Reporter, quiet
from btm.report.progress import Beating
from btm.steps.plan import Plan
from btm.system import durable, lease, sums
from btm.system.json_files import Json, read_object

_TRAINING = ("epochs", "batch_size", "lr", "final_lr", "weight_decay", "seed")


@dataclass(frozen=True)
class Measured:
    """How good a reader is on a split of its questions."""

    reader: str
    split: str
    questions: int
    values: dict[str, Interval]  # by metric
    sha256: str  # of the reader's weights

    def to_json(self) -> Json:
        """Write it as a file of evals/ has it."""
        return asdict(self)


def train(config: Config, reporter: Reporter = quiet) -> tuple[Path, ReaderCard]:
    """Train a reader and publish it in ``readers/``; return its folder and its card.

    A reader of the same name, settings, questions and models that stands is left as it is; of
    others it is made anew. A training that was stopped goes on.
    """
    forest, spec = Forest(config.forest_root), spec_of(config)
    parts = resolve(spec, spec.foreign)
    ground = Ground.of(config)
    source = _source(config)
    splits = read_splits(parts, source)
    if not splits.get("train"):
        raise UserError(f"{source}: no train split with questions to train a reader on")
    making = _making(config, spec, ground, source)
    target = forest.paths.reader(name_of(config))
    if _stands(target, making):
        return target.path, ReaderCard.read(target.card)
    held = _begin(forest, target.path.name, making)
    try:
        card = _train(config, forest, held, making, parts, spec, ground, splits, reporter)
        durable.remove_folder(held.path)
    finally:
        held.release()
    return target.path, card


def plan_of_train(config: Config) -> Plan:
    """Plan `train`; `UserError` for what it would refuse before anything is loaded."""
    forest, spec = Forest(config.forest_root), spec_of(config)
    parts, source = resolve(spec, spec.foreign), _source(config)
    ground, name = Ground.of(config), name_of(config)
    splits = read_splits(parts, source)
    if not splits.get("train"):
        raise UserError(f"{source}: no train split with questions to train a reader on")
    target = forest.paths.reader(name)
    if _stands(target, _making(config, spec, ground, source)):
        return Plan.nothing("read train", name)
    models = tuple(ground.identity) if ground else ()
    on = f", on {', '.join(models)}" if models else ""
    what = f"{spec.model} on {len(splits['train']):,} questions, {config.reader.epochs} epochs{on}"
    return Plan("read train", name, what, reads=(source,), writes=(target.path,))


def plan_of_eval(config: Config) -> Plan:
    """Plan `evaluate`."""
    paths, name = Forest(config.forest_root).paths, name_of(config)
    ReaderCard.read(paths.reader(name).card)
    file = paths.reading(name, config.reader.split)
    what = f"the questions of {config.reader.split}"
    return Plan("read eval", name, what, writes=(file,))


def _train(
    config: Config,
    forest: Forest,
    held: lease.Lease,
    making: Json,
    parts: Parts,
    spec: Spec,
    ground: Ground | None,
    splits: Mapping[str, Sequence[Example]],
    reporter: Reporter,
) -> ReaderCard:
    beating = Beating(reporter, held.beat)
    reader = Reader.new(spec, parts, ground, splits, config.reader.seed)
    items = reader.input.items(splits["train"], answered=True)
    steps = training.fit(reader, items, config.reader, held.path, beating)
    measured = {}
    if splits.get("valid"):
        values = reader.measure(splits["valid"])
        measured["valid"] = {name: float(each.mean()) for name, each in values.items()}
    for name in making["models"]:
        tombstone.refuse(forest.root, name)
    card = ReaderCard(
        name=name_of(config),
        sha256="",
        on=making["on"],
        models=making["models"],
        data=making["data"],
        settings=making["settings"],
        steps=steps,
        parameters=sum(p.numel() for p in reader.model.parameters()),
        measured=measured,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return folders.save(reader, card, forest.paths.reader(card.name))


def evaluate(config: Config, reporter: Reporter = quiet) -> tuple[Measured, Path]:
    """Measure a trained reader on reader.split of its questions; return what came of it and the
    file that it was written to.
    """
    forest, split = Forest(config.forest_root), config.reader.split
    reader, card = load(config, forest)
    examples, values = measure(config, reader, card)
    intervals = {name: interval(each) for name, each in values.items()}
    found = Measured(card.name, split, len(examples), intervals, card.sha256)
    file = forest.paths.reading(card.name, split)
    durable.write_json(file, found.to_json())
    return found, file


def measure(config: Config, reader: Reader, card: ReaderCard) -> tuple[list[Example], Measures]:
    """Measure a reader on reader.split; return the questions, and each metric of every question."""
    parts = resolve(reader.spec, reader.spec.foreign)
    source, split = _source(config, card), config.reader.split
    splits = read_splits(parts, source)
    if not splits.get(split):
        raise UserError(f"{source}: no questions in the split {split}")
    reader.input.know(splits)
    return splits[split], reader.measure(splits[split])


def answer(config: Config) -> list[Answer]:
    """Answer the question of the command; the best answer first."""
    asked = config.reader
    if asked.question is None:
        raise UserError("what is asked? give reader.question='…'")
    setting = QASetting(asked.question, tuple(asked.support), candidates=tuple(asked.candidates))
    reader, _ = load(config, Forest(config.forest_root))
    return reader([setting])[0]


def name_of(config: Config) -> str:
    """Return the name of the reader that is meant: reader.name, or that of its model."""
    name = config.reader.name or config.reader.model
    if name is None:
        raise UserError("which reader? give reader.name=NAME, or reader= for the usual name")
    return name.rpartition(":")[2].lower()


def spec_of(config: Config) -> Spec:
    """Collect the modules that the command names; `UserError` if one is missing."""
    reader = config.reader
    named = {kind: getattr(reader, kind) for kind in ("questions", "input", "model", "output")}
    for kind, name in named.items():
        if name is None:
            raise UserError(
                f"reader.{kind} is not said: give reader=extractive_qa, multiple_choice, nli or "
                "link_prediction, or all four modules"
            )
    return Spec(**named, options=dict(reader.options))


def read_splits(parts: Parts, source: Path) -> dict[str, list[Example]]:
    """Read all splits that a folder of questions has."""
    if not source.is_dir():
        raise UserError(f"reader.data={source}: no such folder; wanted one with a file a split")
    found = {split: parts.read(source, split) for split in SPLITS}
    return {split: examples for split, examples in found.items() if examples}


def load(config: Config, forest: Forest) -> tuple[Reader, ReaderCard]:
    """Load the trained reader that is meant."""
    named = [getattr(config.reader, kind) for kind in ("questions", "input", "model", "output")]
    device = causal_lm.pick_device(config.trainer.device)
    return folders.load(forest, name_of(config), [n for n in named if n], device)


def _source(config: Config, card: ReaderCard | None = None) -> Path:
    if config.reader.data is not None:
        return Path(config.reader.data)
    if card is None:
        raise UserError("which questions? give reader.data=FOLDER, with a file a split")
    return Path(card.settings["reader.data"])


def _making(config: Config, spec: Spec, ground: Ground | None, source: Path) -> Json:
    """Collect all that the result of a training depends on."""
    files = sorted(path for path in source.glob("*") if path.is_file())
    settings = {f"reader.{key}": getattr(config.reader, key) for key in _TRAINING}
    return {
        "on": ground.kind if ground else None,
        "models": ground.identity if ground else {},
        "data": {path.name: sums.file_sha256(path) for path in files},
        "settings": {"reader.data": str(source)} | settings | {"modules": spec.to_json()},
        "version": importlib.metadata.version("torch"),
    }


def _stands(target: ReaderFolder, making: Json) -> bool:
    """Tell whether this very reader stands."""
    if not target.card.is_file():
        return False
    card = ReaderCard.read(target.card)
    return (card.on, card.models, card.data, card.settings) == (
        *(making[key] for key in ("on", "models", "data", "settings")),
    )


def _begin(forest: Forest, name: str, making: Json) -> lease.Lease:
    """Take the folder in which a reader is trained, new or of a training that was stopped."""
    home = forest.paths.reader_in_making(name)
    if lease.find(home) is None:
        with durable.publish_folder(home, replace=True) as folder:
            durable.write_json(ReaderFolder(folder).making, making)
    held = lease.take(home)
    begun = read_object(ReaderFolder(held.path).making, data=dict, settings=dict, models=dict)
    if begun != making:
        held.release()
        gone = command("remove", forest=forest.root)
        raise UserError(
            f"{home} holds the reader {name!r} half trained with other settings, questions or "
            "models: give those and it goes on, give another reader.name=NAME, or first "
            f"{gone} reader.name={name}"
        )
    return held
