"""A server at four times its capacity: memory, shares of its clients, refusals, failures.

    python scripts/bench/serve_load.py forest=DIR [--minutes 10] [--clients 4] [--csv FILE]

The server is a process of its own, `btm serve`. First it is measured how many answers a second it
gives when as many are asked for as it writes at once. Then four times as many are asked for at any
time, through OpenAI's own client, as many by each client: all but one in requests of one prompt, the
last in requests of eight. Who is refused (429) waits as long as Retry-After says.

Reported: the server's memory in the first and the last quarter of the time, the least and the most
answers of a client of single prompts over their mean, what was answered and refused, and failures,
which should be none: any other status, and any 429 without Retry-After.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from btm.report.tables import table

if TYPE_CHECKING:
    import openai

RUNNING, TOKENS, PROMPT, LIST = 8, 24, "In the beginning of the year", 8
OVERLOAD = 4  # times what is written at once


def main() -> None:
    """Print the table; exit with 1 if something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    with served(words) as (url, process):
        rate = capacity(url)
        load = Load(url, process, 60 * arguments.minutes)
        row = {"answers/s at capacity": rate} | load.run(arguments.clients)
    print(table([{"": name, "measured": value} for name, value in row.items()], "load"))
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([row]).to_csv(arguments.csv, index=False)
    if row["failures"]:
        sys.exit(1)


@contextmanager
def served(words: list[str]) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a forest on a free port of this machine."""
    limits = [f"serve.running={RUNNING}", f"serve.waiting={2 * RUNNING}", "serve.port=0"]
    command = [sys.executable, "-m", "btm.cli", "serve", *limits, "serve.reload=0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if " is served at " in line)
            yield line.partition(" is served at ")[2].partition(",")[0], process
        finally:
            process.terminate()


def ask(client: "openai.OpenAI", prompts: int, seed: int) -> int:
    """Ask for answers to one prompt or several; return how many came."""
    found = client.completions.create(
        model="forest",
        prompt=[f"{PROMPT} {seed} {number}" for number in range(prompts)],
        max_tokens=TOKENS,
        seed=seed,
        extra_body={"ignore_eos": True},
    )
    return len(found.choices)


def capacity(url: str) -> float:
    """Measure answers per second, as many asked for at once as are written at once."""
    with client_of(url) as client:
        ask(client, RUNNING, 0)  # members are loaded
        begin = time.perf_counter()
        count = sum(ask(client, RUNNING, 1 + number) for number in range(3))
        return count / (time.perf_counter() - begin)


def client_of(url: str) -> "openai.OpenAI":
    """Make a client that never asks twice by itself, over a connection for each request: one that
    is kept may be closed for idleness just as it is used again.
    """
    import openai

    alone = {"Connection": "close"}
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120, default_headers=alone
    )


@dataclass
class Load:
    """Clients that ask more than can be answered."""

    url: str
    process: subprocess.Popen
    seconds: float
    answers: Counter = field(default_factory=Counter)  # {client: answers}
    told: Counter = field(default_factory=Counter)  # {what was said: requests}
    failures: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes, at equal distances of time
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, clients: int) -> dict:
        """Ask for so long; report."""
        prompts = [1] * (clients - 1) + [LIST]
        made = [client_of(self.url) for _ in prompts]
        self.begin = time.perf_counter()
        threads = [
            threading.Thread(
                target=self.worker, args=(made[number], number, prompts[number], worker)
            )
            for number in range(clients)
            # Each asks for the next answer once it has one: so many are under way at once.
            for worker in range(max(1, OVERLOAD * RUNNING // clients // prompts[number]))
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.memory.append(resident(self.process.pid))
            time.sleep(min(1.0, self.seconds / 40))
        return self.row(clients)

    @property
    def passed(self) -> float:
        """The seconds since the beginning."""
        return time.perf_counter() - self.begin

    def worker(self, client: "openai.OpenAI", number: int, prompts: int, worker: int) -> None:
        """Ask again and again; wait where the server says so."""
        import openai

        seed = 10_000 * (1 + number) + 1000 * worker
        while self.passed < self.seconds:
            seed += 1
            try:
                count = ask(client, prompts, seed)
                with self.lock:  # other threads count for the same client
                    self.answers[number] += count
                    self.told["answered"] += 1
            except openai.RateLimitError as error:
                with self.lock:
                    self.told["429"] += 1
                wait = error.response.headers.get("Retry-After")
                if wait is None:
                    self.failures.append("429 without Retry-After")
                time.sleep(float(wait or 1))
            except openai.OpenAIError as error:
                self.failures.append(repr(error))

    def row(self, clients: int) -> dict:
        """Sum up."""
        quarter = max(1, len(self.memory) // 4)
        first = float(np.median(self.memory[:quarter]))
        last = float(np.median(self.memory[-quarter:]))
        single = [self.answers[number] for number in range(clients - 1)]
        for failure, count in Counter(self.failures).items():
            print(f"{count} × {failure}")
        return {
            "seconds": self.seconds,
            "answers/s": sum(self.answers.values()) / self.passed,
            "requests answered": self.told["answered"],
            "requests refused (429)": self.told["429"],
            "failures": len(self.failures),
            "memory MB, first quarter": first / 1e6,
            "memory MB, last quarter": last / 1e6,
            "drift": last / first - 1,
            "least over most answers of a client of single prompts": min(single) / max(1, *single),
            f"answers of the client of {LIST} prompts over their mean": self.answers[clients - 1]
            * len(single)
            / max(1, sum(single)),
        }


def resident(pid: int) -> int:
    """Read the memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    main()
