"""How a verb reports, and what several verbs ask and show."""

import json
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from btm.cli.stops import Stops
from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.errors import UserError
from btm.system.json_files import Json

if TYPE_CHECKING:
    from btm.report.comparison import Comparison


@dataclass
class Output:
    """Where results (stdout, as tables or JSON) and progress (stderr) go."""

    as_json: bool
    stdout: IO[str]
    stderr: IO[str]
    flags: Collection[str] = ()
    stops: Stops = field(default_factory=Stops)
    _tables: int = 0  # that were printed

    @property
    def reporter(self) -> Any:
        """The progress of long work, which signals stop."""
        from btm.cli.verbs.stopping import StoppingReporter

        return StoppingReporter(self.stderr, self.stops)

    def line(self, text: str, value: Any) -> None:
        """Print a sentence, or `value` as JSON."""
        print(json.dumps(value, indent=1) if self.as_json else text, file=self.stdout)

    def rows(
        self, rows: Sequence[Mapping[str, Any]], title: str, spare: Sequence[str] = ()
    ) -> None:
        """Print a table that fits the terminal, or its rows as JSON.

        The columns `spare` are left out first where there is no room for all.
        """
        if self.as_json:  # a row a line: indented, ten thousand would take half a second
            lines = ",\n".join(" " + json.dumps(row) for row in rows)
            print(f"[\n{lines}\n]" if rows else "[]", file=self.stdout)
            return
        from btm.report.fit import terminal_width
        from btm.report.tables import table

        space = "\n" if self._tables else ""  # between two tables
        self._tables += 1
        print(space + table(rows, title, terminal_width(self.stdout), spare), file=self.stdout)

    def paragraph(self, text: str) -> None:
        """Print sentences, wrapped to the terminal."""
        from btm.report.fit import terminal_width

        width = terminal_width(self.stdout)
        print(textwrap.fill(text, width) if width else text, file=self.stdout)


def sweep(config: Config) -> None:
    """Delete what killed commands left in the forest; a cycle's driver does that itself."""
    from btm.forest import Forest

    Forest(config.forest_root).sweep()


def expert_of(config: Config) -> str:
    """Return the expert that is meant; `UserError`, with those there are, if none was named."""
    if config.expert is None:
        raise UserError(f"which one? give expert=NAME{_choices(config)}")
    return config.expert


def _choices(config: Config) -> str:
    """List the ELMs and branches of the forest, at most ten, for an error."""
    from btm.forest import Forest

    if not Forest.stands(config.forest_root):
        return ""
    forest = Forest(config.forest_root)
    names = sorted({*forest.names(), *(branch.name for branch in forest.branches())})
    more = f" and {len(names) - 10} more (btm ls)" if len(names) > 10 else ""
    return f"; {config.forest_root} has {', '.join(names[:10])}{more}" if names else ""


def is_named(config: Config) -> bool:
    """Tell whether expert=, average=, student= or moe= names a model."""
    from btm.forest.models import derived_of

    return config.expert is not None or derived_of(config) is not None


def model_of(config: Config) -> str:
    """Return the name of the model that is meant: expert=NAME is an ELM, or else another model of
    that name; average=, student= and moe= name one of that kind.

    `UserError` if none was named, or several.
    """
    from btm.forest.models import derived_of

    derived = derived_of(config)
    if derived is None:
        if config.expert is None:
            raise UserError(
                "which one? give expert=NAME, average=NAME, student=NAME or moe=NAME"
                + _choices(config)
            )
        return config.expert
    if config.expert is not None:
        raise UserError(
            f"expert={config.expert} and {derived}: two models, and one is wanted; leave out one"
        )
    return derived


def show_elm(elm: Any, out: Output) -> None:
    """Print the card of a model of the forest: its chief lines, or as JSON all of it."""
    from btm.forest import card_table

    if out.as_json:
        return out.line("", asdict(elm.card))
    rows = [{"card": name, elm.name: text} for name, text in card_table.lines(elm.card)]
    out.rows(rows, f"{elm.path} (all of the card: --json)")


def show_comparison(found: "Comparison", file: Path, out: Output) -> None:
    """Print the tables of a comparison, what must not be missed, and where it stands."""
    from btm.report import comparison

    if out.as_json:
        return out.line("", found.to_json())
    begun = (
        f"windows begin every {found.stride} tokens" if found.stride else "each window begun anew"
    )
    out.rows(comparison.shard_rows(found), f"perplexity by shard, {begun}")
    spare = ("training FLOPs", "ahead on", "kind", "FLOPs/token", "training tokens")
    out.rows(comparison.summary_rows(found), comparison.title(found), spare)
    for note in found.notes:
        out.paragraph(f"note: {note}")
    out.paragraph(comparison.summary(found))
    _say_where(file, out)


def show_evaluation(config: Config, result: Json, out: Output) -> None:
    """Print the tables of an evaluation, and where it stands."""
    from btm.forest.paths import Paths
    from btm.report.tables import eval_rows, ledger_rows, model_rows

    for line in result.get("warnings", []):
        print(f"warning: {line}", file=out.stderr)
    if out.as_json:
        return out.line("", result)
    out.rows(
        eval_rows(result),
        f"perplexity by shard, {result['ensemble']['rule']} under the "
        f"{result['ensemble']['prior']} prior"
        + (
            f", windows of {result['window']} every {result['stride']} tokens"
            if result.get("stride")
            else ""
        )
        + (f", models with {LoadConfig(**result['load'])}" if "load" in result else ""),
        ("tokens", "bits/byte", "top expert", "best ELM"),
    )
    if models := model_rows(result):
        out.rows(models, "averages and models: mean perplexity")
    out.rows(
        ledger_rows(result), "cost: training with all ancestors, each once; inference of one token"
    )
    file = Paths(result["forest"]).evaluation(config.eval.name)
    _say_where(file, out)


def _say_where(file: Path, out: Output) -> None:
    """Name the file of the numbers, and of the picture if it could be drawn."""
    out.line(f"numbers: {file}", None)
    if (picture := file.with_suffix(".png")).exists():
        out.line(f"picture: {picture}", None)
