"""The cards of trained readers: what each stands on, by sha256, and how good it is."""

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from btm.errors import UserError, unknown
from btm.forest.card import typed
from btm.forest.paths import Paths, ReaderFolder
from btm.system import durable, lease
from btm.system.json_files import Json, read_object

SCHEMA = 1


@dataclass(frozen=True)
class ReaderCard:
    """The provenance of one reader."""

    name: str
    sha256: str  # of its weights
    on: str | None  # expert, average, forest; None: it reads no text by a model
    models: dict[str, str]  # {model of the forest that it stands on: sha256 of its weights}
    data: dict[str, str]  # {file of questions: sha256}
    settings: Json = field(
        default_factory=dict
    )  # {dotted key: value} that its training depended on
    steps: int = 0
    parameters: int = 0
    measured: dict[str, dict[str, float]] = field(default_factory=dict)  # {split: {metric: mean}}
    created: str = ""
    schema: int = SCHEMA

    def to_json(self) -> Json:
        """Write it as card.json has it."""
        return asdict(self)

    @classmethod
    def read(cls, file: Path) -> "ReaderCard":
        """Read a card; `UserError` if it is damaged, or newer than this btm."""
        values = read_object(file, schema=int)
        if values["schema"] > SCHEMA:
            raise UserError(
                f"{file}: written by a newer btm (schema {values['schema']}); this one reads "
                f"{SCHEMA}"
            )
        try:
            return typed(cls(**values))
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}: not a valid card: {error}: train the reader again") from None


def all_of(root: Path) -> list[tuple[ReaderFolder, ReaderCard]]:
    """List the readers of a forest whose cards can be read, by name."""
    found = []
    for folder in Paths(root).readers():
        try:
            found.append((folder, ReaderCard.read(folder.card)))
        except (UserError, OSError):
            continue
    return found


def standing_on(root: Path, sha256: str) -> list[str]:
    """Name the readers of a forest that stand on the weights `sha256`."""
    return [card.name for _, card in all_of(root) if sha256 in card.models.values()]


def remove(root: Path, name: str) -> Path:
    """Delete the reader `name` and its training that was stopped; return where it was.

    What it came to stays in evals/. `UserError` if there is none, `lease.HeldError` while a process
    trains it.
    """
    paths = Paths(root)
    stands = {folder.path.name: folder.path for folder in paths.readers()}
    making = paths.reader_in_making(name)
    begun = lease.find(making)
    if name not in stands and begun is None:
        raise unknown("reader", name, stands, str(root))
    if begun is not None:
        durable.remove_folder(lease.take(making).path)
    if name in stands:
        bin = durable.scratch_folder(stands[name].parent)  # swept if this process dies here
        with suppress(FileNotFoundError):  # another process removes it too
            durable.rename_folder(stands[name], bin / name)
        durable.remove_folder(bin)
    return paths.reader(name).path
