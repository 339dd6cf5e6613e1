"""The models that are averaged, and one tensor in each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import filter as matching
from pathlib import Path

from btm.errors import UserError
from btm.models import weights as wt
from btm.models.average import shares
from btm.models.average.settings import Settings

Table = dict[str, wt.Tensor]


@dataclass(frozen=True)
class Group:
    """One tensor in each of k models, with its weights, base and Fisher information."""

    name: str
    tensors: tuple[wt.Tensor, ...]  # (k,) by the models' folders, sorted
    weights: tuple[float, ...]  # (k,) as given
    labels: tuple[str, ...]  # (k,) the folders' names
    base: wt.Tensor | None = None
    importance: tuple[wt.Tensor, ...] = ()  # (k,) or none

    @property
    def shares(self) -> list[float]:
        """The weights, scaled to sum to 1; the error names the tensor if none is positive."""
        if sum(self.weights) <= 0:
            raise UserError(f"average.layers gives no model a weight for the tensor {self.name!r}")
        scaled = shares.normalise(dict(enumerate(self.weights)))
        return [scaled.get(j, 0.0) for j in range(len(self.weights))]


class Models:
    """Models of the same tensors; equal layouts share one table, so thousands fit in memory."""

    def __init__(self, sources: Mapping[Path, float], settings: Settings) -> None:
        """Read the headers of all models; `UserError` if they differ in tensors or shapes."""
        weights = {Path(folder): float(weight) for folder, weight in sources.items()}
        shares.require_usable(weights)
        self.folders = sorted(folder for folder, weight in weights.items() if weight != 0)
        self.weights = [weights[folder] for folder in self.folders]
        self.first = wt.tensors(self.folders[0])
        self._layers = settings.layers
        self._tables = [self._table(folder) for folder in self.folders]
        self._base = settings.base
        self._base_table = self._table(settings.base) if settings.base else {}
        self._importance = [
            settings.importance[folder] for folder in self.folders if settings.importance
        ]
        self._importance_tables = [self._table(folder) for folder in self._importance]
        self._check_layers(settings.layers)

    def group(self, name: str) -> Group:
        """Collect one tensor from every model."""
        labels = tuple(folder.name for folder in self.folders)
        own = shares.own_weights(name, self._layers)
        weights = self.weights if own is None else [own.get(label, 0.0) for label in labels]
        return Group(
            name,
            _located(name, self.folders, self._tables),
            tuple(weights),
            labels,
            _located(name, [self._base], [self._base_table])[0] if self._base else None,
            _located(name, self._importance, self._importance_tables),
        )

    def _table(self, folder: Path) -> Table:
        """Read a model's table of tensors, or reuse the first's if only the folder differs."""
        table = wt.tensors(folder)
        _require_same(self.first, table, self.folders[0], folder)
        same = all(
            (t.file.name, t.offset, t.dtype) == (o.file.name, o.offset, o.dtype)
            for t, o in ((tensor, self.first[name]) for name, tensor in table.items())
        )
        return self.first if same else table

    def _check_layers(self, layers: Mapping[str, Mapping[str, float]]) -> None:
        known = {folder.name for folder in self.folders}
        for pattern, own in layers.items():
            if not matching(self.first, pattern):
                some = ", ".join(list(self.first)[:3])
                raise UserError(
                    f"average.layers: no tensor is called {pattern!r}; there are {some}, …"
                )
            for name in own.keys() - known:
                raise UserError(
                    f"average.layers.{pattern}: {name!r} is none of {', '.join(sorted(known))}"
                )


def require_same_tensors(one: Path, other: Path) -> None:
    """Raise `UserError` unless two model folders hold tensors of the same names and shapes."""
    _require_same(wt.tensors(one), wt.tensors(other), one, other)


def _require_same(ours: Table, theirs: Table, one: Path, other: Path) -> None:
    for name in sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"{one} and {other} differ: only one of them has the tensor {name!r}")
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape or tensor.is_float != theirs[name].is_float:
            shapes = f"{list(tensor.shape)} against {list(theirs[name].shape)}"
            raise UserError(f"{one} and {other} differ: tensor {name!r} is {shapes}")


def _located(name: str, folders: list[Path], tables: list[Table]) -> tuple[wt.Tensor, ...]:
    """Locate one tensor in each folder."""
    return tuple(
        replace(table[name], file=folder / table[name].file.name)
        for folder, table in zip(folders, tables, strict=True)
    )
