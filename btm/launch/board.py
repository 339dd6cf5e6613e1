"""The live table of a cycle: redrawn on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Literal

from btm.launch.jobs import Job
from btm.launch.records import CycleState, JobState, Records, read_shown
from btm.launch.view import NO_JOBS, JobView, ordered, shown_as, views
from btm.report.progress import duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_LINES_EVERY = 5.0  # seconds between progress lines where nothing can be redrawn
_AROUND = 8  # lines of a terminal that a live table leaves free
_LEAST = 5  # rows of a live table
_STYLES = {"running": "bold", "failed": "red", "blocked": "red", "done": "green", "waiting": "dim"}


class Board:
    """Shows the states that a driver publishes, until it is closed."""

    _live: "Live | None" = None  # on a terminal alone

    def __init__(
        self, stream: IO[str], records: Records, jobs: Mapping[str, Job] = NO_JOBS
    ) -> None:
        """Show on `stream`, as a live table if that is a terminal.

        With the `jobs` of the cycle by name, it has their parents too.
        """
        self.stream, self.records, self.jobs = stream, records, jobs
        self.seen: dict[str, tuple[str, int]] = {}
        self.begun = time.monotonic()
        self.printed = time.monotonic()
        if stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=stream), refresh_per_second=4, transient=True)
            self._live.start()

    def show(self, state: CycleState) -> None:
        """Show the changes since the last state."""
        for name, job in state["jobs"].items():
            now = (job["state"], job["try"])
            if self.seen.get(name) != now:
                if name in self.seen or now[0] not in ("waiting", "ready", "done"):
                    self._changed(name, job)
                self.seen[name] = now
        if self._live is not None:
            found = views(self.records, state, self.jobs)
            self._live.update(self._table(state, found, self._live.console.height))
        elif time.monotonic() - self.printed >= _LINES_EVERY:
            self.printed = time.monotonic()
            for each in views(self.records, state):
                if each.state == "running" and each.progress:
                    self.say(f"{each.name:<22} {each.progress}")

    def close(self) -> None:
        """End the live table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _changed(self, name: str, job: JobState) -> None:
        if job["state"] in ("waiting", "ready", "queued") and not job["message"]:
            return
        text = f"{name:<22} {job['state']}"
        if job["try"] > 1:
            text += f" (try {job['try']})"
        if job["state"] == "done":
            shown = read_shown(self.records.progress(name, job["try"])) or {}
            summary = shown_as(name, job, shown).summary
            text += f": {summary}" if summary else ""
        self.say(f"{text}{': ' if job['message'] else ''}{job['message']}")

    def say(self, text: str) -> None:
        """Print a line above the table."""
        clock = duration(time.monotonic() - self.begun)
        line = f"[{clock:>12}] {text}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self.stream, flush=True)

    def _table(self, state: CycleState, found: list[JobView], height: int) -> "Table":
        """Draw the table, as many rows of it as a terminal of `height` lines has room for."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        counts = ", ".join(f"{count} {name}" for name, count in state["counts"].items())
        most = max(_LEAST, height - _AROUND)
        table = Table(
            title=Text(f"{self.records.forest}: {counts}"),
            box=box.SIMPLE_HEAD,
            title_justify="left",
            pad_edge=False,
        )
        for column in ("job", "state", "try", "progress", "parents"):
            side: Literal["right", "left"] = "right" if column == "try" else "left"
            table.add_column(column, justify=side, no_wrap=column != "parents")
        for each in ordered(found)[:most]:
            told = each.progress if each.state == "running" else each.message
            attempt = str(each.attempt) if each.attempt > 1 else ""
            cells = (each.name, each.state, attempt, told, each.parents)
            style = _STYLES.get(each.state, "")
            table.add_row(*map(Text, cells), style=style)
        if len(found) > most:
            table.add_row(f"and {len(found) - most} more", "", "", "", "")
        return table
