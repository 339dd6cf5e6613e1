#!/usr/bin/env python
"""A forest on a Ray cluster: what the wire costs, what a step costs, and machines that die and join.

    python scripts/bench/serve_cluster.py forest=DIR [--part wire step deaths]

The machines are processes of this one (`ray.cluster_utils.Cluster`), which share its cores.

    wire     bytes, time and error of each number type in which log-probabilities are sent
    step     a step of the engine: members in this process, and one actor each
    deaths   generations, several at once, while a machine is killed or added every few of them;
             each is compared with what one machine writes

The words are those of `btm serve`.
"""

import argparse
import os
import queue
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from btm.cli.compose import compose
from btm.config.schema import Config
from btm.config.serve_ray import WIRES
from btm.ensemble.sampling import Sampling
from btm.report.tables import table
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine, Limits
from btm.serve.members.cluster.member import ReplicatedMember
from btm.serve.members.cluster.placement import placed
from btm.serve.members.cluster.wire import pack, unpack
from btm.serve.members.local import LocalMember
from btm.serve.request import Done, Event, Request, Token

PARTS = ("wire", "step", "deaths")
GREEDY = Sampling(temperature=0)
TEXTS = (
    "In the beginning God created",
    "def main(argv):",
    "My friends, we have come",
    "a kind of tree",
    "And it came to pass in those days, that there went out",
    "import os\nimport sys\n",
    "We the people",
    "the state of being",
)


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--every", type=int, default=25, help="generations between two events")
    parser.add_argument("--wire", choices=WIRES, nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--at-once", type=int, default=8)
    arguments, words = parser.parse_known_args()
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    torch.set_num_threads(1)  # as each actor has
    config = compose(words)
    bench = Bench(config, arguments)
    for part in arguments.part:
        print(table(list(getattr(bench, part)()), f"{part}: {bench.what}"), flush=True)


class Machines:
    """A cluster of processes of this machine; the first is the gateway's and has no CPUs to give."""

    def __init__(self, cpus: int, count: int) -> None:
        from ray.cluster_utils import Cluster

        self._common = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20}
        self.cluster, self._cpus = Cluster(), cpus
        self._working: list[Any] = []
        self._begin(num_cpus=0, include_dashboard=False)
        for _ in range(count):
            self.add()

    @property
    def newest(self) -> str:
        """The id of the machine that joined last."""
        return self._working[-1].node_id

    def add(self) -> None:
        """Add a machine."""
        self._working.append(self._begin(num_cpus=self._cpus))

    def _begin(self, **settings) -> Any:
        """Begin a machine; Ray gives each 30 seconds to start, which is little on a busy one."""
        for attempt in range(5):
            try:
                return self.cluster.add_node(**self._common, **settings)
            except Exception as error:
                if attempt == 4 or "timed out during startup" not in str(error):
                    raise
        raise AssertionError

    def kill(self) -> None:
        """Kill the machine that has been there longest."""
        node = self._working.pop(0)
        self.cluster.remove_node(node, allow_graceful=False)


class Bench:
    """The parts, over one forest."""

    def __init__(self, config: Config, arguments: argparse.Namespace) -> None:
        self.config, self.arguments = config, arguments
        self.catalog = Catalog(config)
        self.served = self.catalog.find("forest")
        encode = self.catalog.tokenizer
        self.prompts = [tuple(encode(t, add_special_tokens=False).input_ids) for t in TEXTS]
        self.what = f"{len(self.served.members)} members, {self.served.vocabulary} tokens"

    def request(self, n: int) -> Request:
        """Ask for a text of the full length."""
        prompt = self.prompts[n % len(self.prompts)]
        return Request("forest", prompt, self.arguments.tokens, GREEDY, ignore_ends=True)

    @contextmanager
    def on_cluster(self, address: str, wire: str, replicas: int = 1) -> Iterator[Engine]:
        """Start an engine whose members read on a cluster."""
        ray = replace(self.config.serve.ray, address=address, wire=wire, replicas=replicas)
        config = replace(self.config, serve=replace(self.config.serve, engine="ray", ray=ray))
        members = self.served.members
        with placed(config, members, len(members)) as load, self.started(load) as engine:
            engine.members.wait(self.served)
            yield engine

    @contextmanager
    def started(self, load=None) -> Iterator[Engine]:
        """Start an engine."""
        engine = Engine(self.catalog, Limits(running=64, waiting=256), load)
        engine.members.wait(self.served)
        engine.start()
        try:
            yield engine
        finally:
            engine.close()

    def wire(self) -> Iterator[dict]:
        """Send what the members say after each token of the texts, and random rows of 50,257."""
        engine = Engine(self.catalog)
        engine.members.wait(self.served)
        rows = []
        with torch.inference_mode():
            for model in self.served.members:
                member = engine.members[model.sha256]
                assert isinstance(member, LocalMember)
                network = member.model
                for prompt in self.prompts:
                    ids = torch.tensor([[self.served.start, *prompt]])
                    rows.append(torch.log_softmax(network(ids).logits[0].float(), -1))
        real = torch.cat(rows)
        random = torch.log_softmax(3 * torch.randn(16, 50_257), -1)
        for name, logp in (("of the forest", real), ("random", random)):
            for kind in WIRES:
                yield {"rows": name, "tokens": logp.shape[1], "wire": kind} | sent(logp, kind)

    def step(self) -> Iterator[dict]:
        """Time the tokens of texts that are written at once."""
        machines = Machines(len(self.served.members), 1)
        for clients in (1, 8):
            with self.started() as engine:
                yield {"members": "in this process", "clients": clients} | self.gaps(
                    engine, clients
                )
            for kind in self.arguments.wire:
                with self.on_cluster(machines.cluster.address, kind) as engine:
                    row = {"members": f"actors, {kind}", "clients": clients}
                    yield row | self.gaps(engine, clients)
        machines.cluster.shutdown()

    def gaps(self, engine: Engine, clients: int) -> dict:
        """Measure the time from one token to the next."""
        self.write(engine, [self.request(n) for n in range(clients)])
        begin = time.perf_counter()
        request = replace(self.request(0), max_tokens=200)
        clients_of = [replace(request, prompt=self.prompts[n]) for n in range(clients)]
        found = self.write(engine, clients_of, spacing=True)
        seconds = time.perf_counter() - begin
        gaps = np.diff(found[0][0])
        return {
            "step ms, median": 1e3 * statistics.median(gaps),
            "p99 ms": 1e3 * float(np.quantile(gaps, 0.99)),
            "tokens/s": 200 * clients / seconds,
        }

    def write(self, engine: Engine, requests: list[Request], *, spacing: bool = False) -> list:
        """Answer requests at once; return the tokens of each, or when they came, and its end."""
        hearing = [Hearing() for _ in requests]
        for request, each in zip(requests, hearing, strict=True):
            engine.submit(request, each.hear)
        return [(each.at if spacing else each.tokens, each.done.get()) for each in hearing]

    def deaths(self) -> Iterator[dict]:
        """Write texts while machines die and join."""
        with self.started() as engine:
            asked = [self.request(n) for n in range(len(self.prompts))]
            wanted = [tokens for tokens, _ in self.write(engine, asked)]
        for kind in self.arguments.wire:
            machines = Machines(len(self.served.members), 2)
            with self.on_cluster(machines.cluster.address, kind, replicas=2) as engine:
                yield {"wire": kind} | self.survive(engine, machines, wanted)
            machines.cluster.shutdown()

    def survive(self, engine: Engine, machines: Machines, wanted: list[list[int]]) -> dict:
        """Write texts, a few at once, and kill or add a machine every few of them."""
        count, at_once = self.arguments.generations, self.arguments.at_once
        found_members = (engine.members[model.sha256] for model in self.served.members)
        members = [each for each in found_members if isinstance(each, ReplicatedMember)]
        begin = time.perf_counter()
        events, used, found = {"killed": 0, "added": 0}, [], []

        def write() -> None:
            for first in range(0, count, at_once):
                requests = [self.request(n) for n in range(first, min(count, first + at_once))]
                found.extend(self.write(engine, requests))

        writing = threading.Thread(target=write)
        writing.start()
        for number in range(1, count // self.arguments.every):
            while len(found) < number * self.arguments.every:
                time.sleep(0.05)
            if number % 2:
                # So that no model is without a replica.
                while not all(sum(c.reads for c in m.copies) == 2 for m in members):
                    time.sleep(0.05)
                machines.kill()
                events["killed"] += 1
            else:
                machines.add()
                events["added"] += 1
                came, machine = time.perf_counter(), machines.newest
                while not any(c.reads for m in members for c in m.copies if c.machine == machine):
                    time.sleep(0.05)
                used.append(time.perf_counter() - came)
        writing.join()
        same = sum(found[n][0] == wanted[n % len(wanted)] for n in range(count))
        return events | {
            "generations": count,
            "failed": sum(done.reason != "length" for _, done in found),
            "without a member": sum(bool(done.lost) for _, done in found),
            "as on one machine": same,
            "until one that joins reads, s": max(used, default=0.0),
            "seconds": time.perf_counter() - begin,
        }


class Hearing:
    """A client that keeps its tokens, and when they came."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.at: list[float] = []
        self.done: queue.Queue[Done] = queue.Queue()

    def hear(self, event: Event) -> None:
        """Note an event."""
        if isinstance(event, Token):
            self.tokens.append(event.id)
            self.at.append(time.perf_counter())
        elif isinstance(event, Done):
            self.done.put(event)


def sent(logp: torch.Tensor, kind: str) -> dict:
    """Measure what sending rows costs, and how far off they arrive."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        packed = pack(logp, kind)
        read = unpack(packed)
        times.append(time.perf_counter() - begin)
    seconds = min(times)
    p, q = logp.double(), torch.log_softmax(read.double(), -1)
    p = torch.log_softmax(p, -1)
    likely = p > np.log(1e-4)
    return {
        "bytes a row": packed.bytes / len(logp),
        "ms a row": 1e3 * seconds / len(logp),
        "KL, nats": f"{float((p.exp() * (p - q)).sum(1).mean()):.1e}",
        "error of log p at p > 1e-4, mean": f"{float((p - read)[likely].abs().mean()):.1e}",
        "max": f"{float((p - read)[likely].abs().max()):.1e}",
        "other first, %": 100 * float((p.argmax(1) != read.argmax(1)).float().mean()),
    }


if __name__ == "__main__":
    main()
