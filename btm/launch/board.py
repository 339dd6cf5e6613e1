"""The live table of a cycle: redrawn on a terminal, a line for each change elsewhere."""

import time
from typing import IO, TYPE_CHECKING

from btm.launch.records import CycleState, JobState, Records, read_shown
from btm.report.progress import duration

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_LINES_EVERY = 5.0  # seconds between progress lines where nothing can be redrawn
_ROWS = 20  # of a live table
# States of jobs from the top of the table to its end, which is cut off.
_ORDER = (
    "running",
    "ended",
    "failed",
    "queued",
    "ready",
    "cancelled",
    "blocked",
    "waiting",
    "done",
)


class Board:
    """Shows the states that a driver publishes, until it is closed."""

    _live: "Live | None" = None  # on a terminal alone

    def __init__(self, stream: IO[str], records: Records) -> None:
        """Show on `stream`, as a live table if that is a terminal."""
        self.stream, self.records = stream, records
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
            self._live.update(self._table(state))
        elif time.monotonic() - self.printed >= _LINES_EVERY:
            self.printed = time.monotonic()
            for name, job in state["jobs"].items():
                if job["state"] == "running" and (progress := self._progress(name, job)):
                    self.say(f"{name:<22} {progress}")

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
            text += self._summary(name, job)
        self.say(f"{text}{': ' if job['message'] else ''}{job['message']}")

    def say(self, text: str) -> None:
        """Print a line above the table."""
        clock = duration(time.monotonic() - self.begun)
        line = f"[{clock:>12}] {text}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self.stream, flush=True)

    def _summary(self, name: str, job: JobState) -> str:
        shown = read_shown(self.records.progress(name, job["try"])) or {}
        if "steps" in shown:
            rate = f"{shown['tokens_per_second']:,.0f} tokens/s"
            return f": {shown['steps']:,} steps, loss {shown['loss']:.3f}, {rate}"
        return f": {shown['scored']:,} tokens scored" if "scored" in shown else ""

    def _progress(self, name: str, job: JobState) -> str:
        shown = read_shown(self.records.progress(name, job["try"])) or {}
        if "to_score" in shown:
            return f"scored {shown['scored']:,} of {shown['to_score']:,} tokens"
        if "steps" not in shown:
            return ""
        rate = f"{shown['tokens_per_second']:,.0f} tokens/s"
        left = duration(shown["eta_seconds"])
        step = max(shown["step"], 0)
        return f"step {step:>6}/{shown['steps']}  loss {shown['loss']:.3f}  {rate}  {left} left"

    def _table(self, state: CycleState) -> "Table":
        from rich import box
        from rich.table import Table

        counts = ", ".join(f"{count} {name}" for name, count in state["counts"].items())
        title = f"{self.records.forest}: {counts}"
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for column in ("job", "state", "progress"):
            table.add_column(column)
        rows = sorted(state["jobs"].items(), key=lambda item: _ORDER.index(item[1]["state"]))
        for name, job in rows[:_ROWS]:
            progress = self._progress(name, job) if job["state"] == "running" else job["message"]
            table.add_row(name, job["state"], progress)
        if len(rows) > _ROWS:
            table.add_row(f"and {len(rows) - _ROWS} more", "", "")
        return table
