#!/usr/bin/env python
"""Send a served forest thousands of requests, most of them wrong in something.

    python scripts/bench/fuzz_serve.py experts/demo --requests 50000

Starts `btm serve` in a process of its own. Each request is a right one of which up to three keys
were given other values, or were taken away; some bodies are cut off. It ends with 1 if any answer
has a status of 500 or more, if an error has another shape than OpenAI's, if something is left at
work, or if the server's memory grew by more than 5 % over the second half.
"""

import argparse
import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**63,
    2**70,
    0.5,
    -0.0,
    1e308,
    "",
    "a",
    "\ud800",
    "\x00",
    "世界" * 50,
]
ODD += [[], {}, [[]], [None], ["", 1], {"type": "text"}, [[1, "a"]], {"a": {"b": []}}, "x" * 70_000]
MODELS = ["forest", "forest:bayes", "forest:tracking", "seed"]
SOME = ["forest[bible,speeches]", "forest:bayes[bible]", "forest[]", "forest[[a]]", "seed[seed]"]
PROMPTS = ["In the beginning", "", ["def f", "And"], [1, 2, 3], [[1], [2, 300]], "\n\t 世界"]
COMMON = {
    "model": [*MODELS, *SOME],
    "max_tokens": [0, 1, 2, 3],
    "temperature": [0, 0.7, 2, 1e-9],
    "top_p": [0, 0.5, 1],
    "top_k": [0, 1, 40],
    "min_p": [0, 0.1, 1],
    "n": [1, 2],
    "stop": ["e", ["\n", " t"], None],
    "seed": [0, -5, None],
    "logit_bias": [{}, {"5": 100}, {"7": -100, "8": 1.5}],
    "stream": [True, False],
    "btm_posterior": [True, False],
}
MESSAGES = [[{"role": "user", "content": "Hello"}], [{"role": "tool", "content": ""}]]
RIGHT: dict[str, dict[str, list]] = {
    "/v1/completions": COMMON | {"prompt": PROMPTS, "logprobs": [0, 3], "echo": [True, False]},
    "/v1/chat/completions": COMMON | {"messages": MESSAGES, "logprobs": [True, False]},
    "/v1/score": {"model": [*MODELS, *SOME], "prompt": PROMPTS, "top": [0, 3]},
    "/v1/hidden_states": {"model": ["seed", "bible"], "prompt": PROMPTS[:4], "layer": [-1, 0]},
    "/tokenize": {"prompt": PROMPTS, "return_token_strs": [True, False]},
    "/detokenize": {"tokens": [[1, 2], [], [300] * 20]},
}
PATHS = [*RIGHT, *["/v1/completions"] * 4]


def request(rng: random.Random) -> tuple[str, bytes]:
    """Draw a path and a body."""
    path = rng.choice(PATHS)
    body = {key: rng.choice(values) for key, values in RIGHT[path].items() if rng.random() < 0.7}
    body.setdefault("model", "forest") if "model" in RIGHT[path] else None
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        key = rng.choice([*RIGHT[path], "suffix", "tools", "best_of", "user", "x"])
        body[key] = rng.choice(ODD)
    raw = json.dumps(body).encode()
    return path, raw[: rng.randrange(len(raw))] if rng.random() < 0.02 else raw


class Fuzz:
    """Threads that send requests, and what came of them."""

    def __init__(self, url: str, seed: int) -> None:
        self.port, self.seed = urlsplit(url).port, seed
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def send(self, count: int, threads: int) -> None:
        """Send `count` requests by several threads."""
        self.seed += threads
        at_work = [
            threading.Thread(target=self._send, args=(self.seed + i, count // threads))
            for i in range(threads)
        ]
        for thread in at_work:
            thread.start()
        for thread in at_work:
            thread.join()

    def _send(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        for _ in range(count):
            path, raw = request(rng)
            connection.request("POST", path, raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self._note(path, raw, answer.status, answer.read())

    def _note(self, path: str, raw: bytes, status: int, said: bytes) -> None:
        is_shaped = status < 400 or set(json.loads(said)["error"]) == {
            *("message", "type", "param", "code")
        }
        failed = status >= 500 or not is_shaped or b'data: {"error"' in said
        with self._lock:
            self.statuses[status] += 1
            if failed:
                self.wrong.append(f"{status} {path} {raw[:300]!r} {said[:300]!r}")


def at_work(port: int) -> float:
    """Count what runs or waits, as /metrics says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    rows = connection.getresponse().read().decode().splitlines()
    return sum(
        float(row.split()[1]) for row in rows if row.startswith(("btm_running ", "btm_wait"))
    )


def memory(process: int) -> float:
    """Read the resident memory of a process, in MB."""
    rows = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(row.split()[1]) / 1024 for row in rows if row.startswith("VmRSS"))


def main() -> int:
    """Serve, send, count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("forest")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    command = [sys.executable, "-m", "btm.cli", "serve", f"forest={args.forest}", "serve.port=0"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE) as process:
        said = b""
        while process.stdout and not said.rstrip().endswith(b"}"):
            said += process.stdout.readline()
        fuzz, begun, sizes = Fuzz(json.loads(said)["url"], args.seed), time.monotonic(), []
        for part in range(10):
            fuzz.send(args.requests // 10, args.threads)
            sizes.append(memory(process.pid))
            print(f"{part + 1}/10: {dict(fuzz.statuses)}, {sizes[-1]:.0f} MB", flush=True)
        spent, left = time.monotonic() - begun, at_work(fuzz.port)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    grown = sizes[-1] / sizes[4] - 1
    for line in fuzz.wrong[:10]:
        print(line)
    total = fuzz.statuses.total()
    print(f"{total} requests in {spent:.0f} s, {len(fuzz.wrong)} failures, {left:g} left at work, ")
    print(f"memory {grown:+.1%} over the second half, exit code {code}")
    return 1 if fuzz.wrong or left or grown > 0.05 or code else 0


if __name__ == "__main__":
    sys.exit(main())
