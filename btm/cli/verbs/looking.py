"""The verbs that show a forest: its report as a page, and its cycle while it runs."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from btm.cli.verbs.grown_again import rebuilding
from btm.cli.verbs.output import Output
from btm.config.schema import Config
from btm.errors import UserError

if TYPE_CHECKING:
    from btm.launch.records import CycleState
    from btm.report.tables import TableRow


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
