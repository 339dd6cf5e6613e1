"""The cards of trained readers: what each stands on, by sha256, and how good it is."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from btm.errors import UserError
from btm.forest.card import typed
from btm.forest.paths import Paths, ReaderFolder
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
