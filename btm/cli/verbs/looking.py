"""The verbs that show a forest: its report as a page, and its cycle while it runs."""

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.cli.verbs.output import Output
from btm.config.schema import Config
from btm.errors import UserError

if TYPE_CHECKING:
    from btm.launch.records import CycleState
    from btm.report.tables import TableRow
    from btm.steps.report import Rebuilding


def report(config: Config, out: Output) -> None:
    """Write one HTML file that shows the forest: models, experts by domain, posterior, lineage,
    training, cycle, costs, cards.

    It holds all that it needs, and asks no network; so it can be mailed, or kept beside a paper. It
    reads what stands in the forest: nothing is trained or scored, and a part that is missing says
    which command makes it. eval.name=NAME chooses the evaluation, the comparison and the benchmarks
    (the forest's own); to=FILE says where to write (evals/<name>-report.html).

    example: btm report forest=experts/demo
    example: btm report forest=experts/demo eval.name=demo-em to=demo-em.html
    """
    from btm import steps
    from btm.launch import history

    root = Path(config.forest_root)
    file = steps.report(config, history.told(root), rebuilding(root))
    size = file.stat().st_size
    out.line(f"wrote {file}: {size / 1e6:.2f} MB", {"file": str(file), "bytes": size})


def watch(config: Config, out: Output) -> None:
    """Show the cycle of a forest while it runs: who trains, how far, how fast, how long yet, which
    tries failed, from whom each expert was branched.

    On a terminal a table that is redrawn, elsewhere a line for each change; with --json a line of
    JSON for each look that differs, as btm status --json has it. to=FILE also writes the page of
    btm report again and again, which a browser that has it open follows; no port is opened. It ends
    when nobody works on the cycle any more. Ctrl-C ends the watching alone: the jobs go on.

    example: btm watch forest=experts/demo
    example: btm watch forest=experts/demo to=live.html
    example: btm watch experiment=demo --json
    """
    from btm import steps
    from btm.launch import cycles, history

    root = Path(config.forest_root)

    def page(every: int, state: "CycleState") -> None:
        with suppress(UserError):  # no forest stands yet: its seed is still being prepared
            steps.report(config, history.told(root, state), rebuilding(root), live=every)

    def line(rows: "list[TableRow]") -> None:
        print(json.dumps(rows), file=out.stdout, flush=True)

    lines, pages = line if out.as_json else None, page if config.to is not None else None
    said = cycles.watch(config, out.stdout, lines, pages)
    if not out.as_json:
        out.line(said, None)


def rebuilding(root: Path) -> "Rebuilding | None":
    """Tell the command that grows the forest at `root` again; None if it records no settings."""
    from btm.forest import settings
    from btm.steps.report import Rebuilding

    found, suites = settings.read(root), settings.read_suites(root)
    if found is None or found.suite not in suites:
        return None
    words = words_of(found.values, suites[found.suite].data)
    command = shlex.join(["btm", "run", f"forest={root}", *words])
    notes = [
        "It grows the seed and the experts of the first command, with the settings that the forest "
        "records; threads and device are the machine's own."
    ]
    if others := sorted(suites.keys() - {found.suite}):
        notes.append(f"Other text joined later, by btm grow: {', '.join(others)}.")
    text = {name: record.data for name, record in suites.items()}
    return Rebuilding(command, found.values, text, notes)


def words_of(values: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """List the words of a command whose settings, once composed, are these recorded ones."""
    from btm.cli.compose import all_keys, bundles_of, compose

    bundles = [
        f"{group}={name}"
        for group, name in (("model", values["model"]["name"]), ("data", data["name"]))
        if name in bundles_of(group)
    ]
    base = all_keys(compose(bundles, "ls"))
    sections = {**values, "data": data}
    branch = sections.pop("branch")
    wanted = {
        f"{section}.{key}": value for section, of in sections.items() for key, value in of.items()
    }
    wanted["branch"] = branch
    changed = {key: value for key, value in wanted.items() if base.get(key, value) != value}
    return bundles + [f"{key}={_written(value)}" for key, value in changed.items()]


def _written(value: Any) -> str:
    """Write a value as a command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(map(_element, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_element(k)}: {_element(v)}' for k, v in value.items())}}}"
    return str(value)


def _element(value: Any) -> str:
    """Write an element of a list or a map: a text that holds more than a name in quotes."""
    if not isinstance(value, str):
        return _written(value)
    is_name = re.fullmatch(r"[A-Za-z_*][\w.*-]*", value)
    if is_name and value not in ("null", "true", "false"):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
