"""The serving engine: what mixing costs, what batching brings, and how long a client waits.

    python scripts/bench/serve.py forest=DIR [--part …] [--model forest] [--csv FILE]

Parts, each after a check that both sides write the same tokens:

    overhead   a step of the engine over the same members' bare forward passes
    batching   tokens per second of 1 … 32 clients at once
    one        one ELM: the engine beside transformers' generate, for 1 text and for 16
    naive      the ensemble beside a loop that runs each member's generate for one token and mixes
    latency    seconds to the first token and between tokens, of clients that come at random
    llama      one model beside llama.cpp (scripts/llama_cpp) on its GGUF in float32, for 1 text and
               for 16; only if asked for

The words are those of `btm generate`. `--random 8` takes, instead of the forest's experts, so many
GPT-2 models of 124 M random parameters and 50,257 tokens, which it writes beside the forest. What is
compared is run in turns, one after another.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from btm.cli.compose import compose
from btm.config.schema import Config
from btm.ensemble.sampling import Sampling
from btm.interop import gguf
from btm.models import tokenizer_files
from btm.report.tables import table
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.limits import Limits
from btm.serve.members.kv_cache import Batch
from btm.serve.members.local import LocalMember
from btm.serve.request import Event, Request, Token

PROMPT = "The history of the people of the north, and of their kings and their wars, begins with"
PARTS = ("overhead", "batching", "one", "naive", "latency", "llama")
LLAMA = Path(__file__).parents[2] / ".llama-cpp/node_modules"
GREEDY = Sampling(temperature=0)


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS[:-1]))
    parser.add_argument("--model", default="forest")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    torch.set_num_threads(arguments.threads)
    config = compose(words)
    if arguments.random:
        names = [str(folder) for folder in random_models(config, arguments.random)]
        config = replace(config, ensemble=replace(config.ensemble, experts=names))
    engine = Engine(Catalog(config), Limits(running=64, waiting=256))
    bench = Bench(engine, arguments.model, arguments.tokens, arguments.rounds)
    found: list[dict] = []
    for part in arguments.part:
        rows = list(getattr(bench, part)())
        print(table(rows, f"{part}: {bench.what}"), flush=True)
        found += [{"part": part, "model": bench.what, **row} for row in rows]
    if arguments.csv:
        pd.DataFrame(found).to_csv(arguments.csv, index=False)


def random_models(config: Config, count: int) -> list[Path]:
    """Write GPT-2 models of 124 M random parameters with the forest's tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = Catalog(config).forest.tokenizer
    folders = [Path(f"{config.forest_root}-random/{n}") for n in range(count)]
    for n, folder in enumerate(folders):
        if (folder / "ready").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(n)
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        GPT2LMHeadModel(GPT2Config(**ends)).save_pretrained(folder)
        tokenizer_files.copy(tokenizer, folder)
        (folder / "ready").touch()
    return folders


class Bench:
    """The parts, over one engine that is stepped by hand."""

    def __init__(self, engine: Engine, model: str, tokens: int, rounds: int) -> None:
        self.engine, self.model, self.tokens, self.rounds = engine, model, tokens, rounds
        self.served = engine.catalog.find(model)
        engine.members.wait(self.served)
        members = [engine.members[m.sha256] for m in self.served.members]
        self.models = [member.model for member in members if isinstance(member, LocalMember)]
        self.device = self.models[0].device
        self.ids = engine.catalog.tokenizer(PROMPT, add_special_tokens=False).input_ids
        millions = sum(p.numel() for p in self.models[0].parameters()) / 1e6
        self.what = (
            f"{model}, {len(self.models)} members of {millions:.1f} M parameters, "
            f"{torch.get_num_threads()} threads"
        )

    def request(self, model: str = "", tokens: int = 0, seed: int | None = None) -> Request:
        """Ask for a text of the full length, at temperature 0 without a seed."""
        sampling = GREEDY if seed is None else Sampling(seed=seed)
        count = tokens or self.tokens
        return Request(model or self.model, tuple(self.ids), count, sampling, ignore_ends=True)

    def write(self, requests: list[Request]) -> list[list[int]]:
        """Answer requests at once; return their tokens."""
        found: dict[int, list[int]] = {}
        for request in requests:
            written: list[int] = []

            def listen(event: Event, written: list[int] = written) -> None:
                if isinstance(event, Token):
                    written.append(event.id)

            found[self.engine.submit(request, listen)] = written
        self.drain()
        return list(found.values())

    def text(self, count: int) -> torch.Tensor:
        """Lay out the prompt of several clients, with the token that begins a text."""
        return torch.tensor([[self.served.start, *self.ids]] * count, device=self.device)

    def drain(self) -> None:
        """Step until nothing is left to do."""
        while self.engine.counts().running or self.engine.counts().waiting:
            self.engine.step()

    def overhead(self) -> Iterator[dict]:
        """Time steps of the engine, and the same reads of the same members without it."""
        for clients in (1, 4):
            for seed in range(clients):
                self.engine.submit(self.request(tokens=self.tokens + 8, seed=seed), lambda _: None)
            while self.engine.counts().waiting or not self.engine._running:
                self.engine.step()
            bare = [Batch(model, list(range(clients))) for model in self.models]
            known = self.text(clients)
            with torch.inference_mode():
                for batch in bare:
                    batch.read(known, last=True)
            new = torch.zeros(clients, 1, dtype=torch.long, device=self.device)
            whole, alone = [], []
            for _ in range(self.tokens):
                whole.append(timed(self.engine.step))
                alone.append(timed(partial(read_all, bare, new)))
            self.drain()
            found = statistics.median(whole) / statistics.median(alone)
            yield {
                "clients": clients,
                "step ms": 1e3 * statistics.median(whole),
                "bare passes ms": 1e3 * statistics.median(alone),
                "ratio": found,
            }

    def batching(self) -> Iterator[dict]:
        """Count tokens per second of several clients at once; the first writes as it does alone."""
        sizes = (1, 2, 4, 8, 16, 32)
        alone = self.write([self.request(seed=0)])[0]
        speeds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(self.rounds):
            for size in sizes:
                requests = [self.request(seed=seed) for seed in range(size)]
                begin = time.perf_counter()
                found = self.write(requests)
                seconds = time.perf_counter() - begin
                if found[0] != alone:
                    print("a client among others wrote other tokens than alone")
                speeds[size].append(size * self.tokens / seconds)
        first = statistics.median(speeds[1])
        for size, measured in speeds.items():
            speed = statistics.median(measured)
            yield {"clients": size, "tokens/s": speed, "over one": speed / first}

    def one(self) -> Iterator[dict]:
        """Write with one ELM, here and by transformers' generate."""
        name = self.served.members[0].name
        model = self.models[0]
        for texts in (1, 16):
            requests, text = [self.request(name)] * texts, self.text(texts)
            ours = partial(self.write, requests)
            theirs = partial(generated, model, text, self.tokens)
            facts = {"texts": texts, "same tokens": ours() == theirs()}
            yield self.beside(facts, ours, theirs, "transformers generate", texts * self.tokens)

    def llama(self) -> Iterator[dict]:
        """Write with one model, here and by llama.cpp, which reads and writes on as many threads."""
        member, texts = self.served.members[0], (1, 16)
        with tempfile.TemporaryDirectory() as folder:
            file = gguf.export(member.path, Path(folder) / "model.gguf", "fp32")
            room = (1 + len(self.ids) + self.tokens) * max(texts)
            with LlamaCpp(file, torch.get_num_threads(), room, max(texts)) as other:
                for count in texts:
                    requests = [self.request(member.name)] * count
                    ours = partial(self.write, requests)
                    theirs = partial(
                        other.write, [self.served.start, *self.ids], self.tokens, count
                    )
                    facts = {"texts": count, "same tokens": ours() == theirs()}
                    yield self.beside(facts, ours, theirs, "llama.cpp", count * self.tokens)

    def naive(self) -> Iterator[dict]:
        """Write with the ensemble, here and by a loop over generate of each member."""
        requests = [self.request()]
        yield self.beside(
            {"same tokens": self.write(requests) == [self.by_hand()]},
            lambda: self.write(requests),
            lambda: [self.by_hand()],
            "loop over generate",
            self.tokens,
        )

    def by_hand(self) -> list[int]:
        """Write greedily as one would without an engine: each member generates one token after the
        whole text, and the scores are mixed.
        """
        ids, online = [self.served.start, *self.ids], self.served.begin()
        with torch.inference_mode():
            read = [
                torch.log_softmax(model(torch.tensor([ids], device=self.device)).logits[0], -1)
                for model in self.models
            ]
        for place, token in enumerate(ids[1:]):
            online.update(np.array([float(logp[place, token]) for logp in read]), token)
        for _ in range(self.tokens):
            logp_E = [self.scores(model, ids) for model in self.models]
            joint = torch.stack(logp_E).double().cpu()
            joint += torch.as_tensor(online.log_weights)[:, None]
            token = int(joint.logsumexp(0).argmax())
            online.update(np.array([float(logp[token]) for logp in logp_E]), token)
            ids.append(token)
        return ids[1 + len(self.ids) :]

    def scores(self, model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
        """Ask generate for log p of every next token, (V,)."""
        text = torch.tensor([ids], device=self.device)
        out = model.generate(
            text,
            attention_mask=torch.ones_like(text),
            max_new_tokens=1,
            eos_token_id=None,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.log_softmax(out.logits[0][0].float(), -1)

    def beside(
        self,
        facts: dict,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        called: str,
        tokens: int,
    ) -> dict:
        """Time two ways in turns."""
        mine, others = [], []
        for _ in range(self.rounds):
            mine.append(tokens / timed(ours))
            others.append(tokens / timed(theirs))
        engine, other = statistics.median(mine), statistics.median(others)
        return facts | {
            "engine tokens/s": engine,
            f"{called} tokens/s": other,
            "ratio": engine / other,
        }

    def latency(self) -> Iterator[dict]:
        """Let clients come at random, at shares of what 16 at once get."""
        requests = [self.request(seed=seed) for seed in range(16)]
        capacity = 16 / timed(lambda: self.write(requests))  # requests per second
        for share in (0.25, 0.5, 0.9):
            rng = np.random.default_rng(0)
            arrivals = np.cumsum(rng.exponential(1 / (share * capacity), 40))
            clients = [Client() for _ in arrivals]
            begin, coming = time.perf_counter(), 0
            while coming < len(clients) or self.engine.counts().running:
                while coming < len(clients) and time.perf_counter() - begin >= arrivals[coming]:
                    clients[coming].came = time.perf_counter()
                    self.engine.submit(self.request(seed=coming), clients[coming].hear)
                    coming += 1
                self.engine.step()
            first = [client.at[0] - client.came for client in clients]
            between = [gap for client in clients for gap in np.diff(client.at)]
            yield {
                "share of capacity": share,
                "requests/s": share * capacity,
                "first token p50 ms": 1e3 * float(np.quantile(first, 0.5)),
                "first token p99 ms": 1e3 * float(np.quantile(first, 0.99)),
                "next token p50 ms": 1e3 * float(np.quantile(between, 0.5)),
                "next token p99 ms": 1e3 * float(np.quantile(between, 0.99)),
            }


class LlamaCpp:
    """A process of llama.cpp that has a GGUF loaded, and writes when it is asked."""

    def __init__(self, file: Path, threads: int, room: int, texts: int) -> None:
        node = next(iter(LLAMA.glob("node-linux-*/bin/node")), "node")
        words = [node, Path(__file__).with_name("llama.mjs"), LLAMA / "node-llama-cpp", file]
        self._process = subprocess.Popen(
            [*map(str, words), str(threads), str(room), str(texts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def write(self, ids: list[int], tokens: int, texts: int) -> list[list[int]]:
        """Go on greedily with a text, several times at once; return what each has written."""
        assert self._process.stdin is not None and self._process.stdout is not None
        question = {"ids": ids, "tokens": tokens, "texts": texts}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["written"]


class Client:
    """A client that notes when its tokens come."""

    def __init__(self) -> None:
        self.came, self.at = 0.0, []

    def hear(self, event: Event) -> None:
        """Note a token."""
        if isinstance(event, Token):
            self.at.append(time.perf_counter())


def generated(model: torch.nn.Module, text: torch.Tensor, tokens: int) -> list[list[int]]:
    """Write greedily with transformers, past the tokens that end a text."""
    out = model.generate(
        text,
        attention_mask=torch.ones_like(text),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[:, text.shape[1] :].tolist()


def read_all(batches: list, new: torch.Tensor) -> None:
    """Read a token of each text with each member, as a step of the engine does."""
    with torch.inference_mode():
        for batch in batches:
            batch.read(new, last=True)


def timed(work: Callable[[], object]) -> float:
    """Run something; return the seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
