"""How fast `btm prepare` is, and how much memory it takes, on real text repeated to any size.

    python scripts/bench/prepare.py                     2 GB made of the suite that ships with btm
    python scripts/bench/prepare.py --text DIR --gb 1   of any folder of domains

First one process encodes the same text through tiktoken and through tokenizers, after a check that
both give the same ids; then the whole of prepare runs, and its peak of resident memory is that of
all its processes together, sampled ten times a second. Speeds are megabytes (10^6) of UTF-8 text a
second.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import btm.data
from btm.config.data import DataConfig
from btm.data.domains import find
from btm.data.encode import Encoder, cores
from btm.data.prepare import prepare

DEMO = Path(btm.data.__file__).parent / "demo"
SIDE_BY_SIDE_BYTES = 20_000_000


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="btm-bench-") as scratch:
        root = Path(scratch) / "text"
        size = repeat(args.text, root, int(args.gb * 1e9))
        config = DataConfig(
            name="bench",
            root=str(root),
            out=str(Path(scratch) / "data"),
            vocab_size=args.vocab_size,
            workers=args.workers,
        )
        timeline: list[Moment] = []
        with Peak() as peak:
            suite = prepare(config, lambda line: timeline.append(now(line)))
        timeline.append(now("end"))
        report(timeline, size, peak.bytes, args.workers or cores())
        side_by_side(suite.tokenizer, args.text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=2.0, help="of text (default 2)")
    parser.add_argument(
        "--text", type=Path, default=DEMO, help="a folder of domains (default: the demo suite)"
    )
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=0, help="as data.workers")
    parser.add_argument(
        "--scratch", type=Path, help="where to put input and output (default: TMPDIR)"
    )
    return parser.parse_args()


class Moment(NamedTuple):
    """What had been spent when a line of progress came: seconds, and seconds of processors."""

    wall: float
    cpu: float
    line: str


def now(line: str) -> Moment:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Moment(time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used), line)


def texts(root: Path) -> Iterator[tuple[str, str]]:
    for source in find(root):
        yield from ((source.domain, text) for _, text in source.documents("text"))


def repeat(text: Path, root: Path, wanted: int) -> int:
    """Write `wanted` bytes of text as ROOT/<domain>.jsonl; each copy of a document says which it
    is.
    """
    root.mkdir()
    written = copy = 0
    handles = {source.domain: (root / f"{source.domain}.jsonl").open("w") for source in find(text)}
    while written < wanted:
        for domain, document in texts(text):
            document = f"{copy}\n{document}"
            handles[domain].write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            written += len(document.encode())
        copy += 1
    for handle in handles.values():
        handle.close()
    return written


def report(timeline: list[Moment], size: int, peak: int, workers: int) -> None:
    start, last = timeline[0], timeline[-1]
    end = next(moment for moment in timeline if moment.line.startswith("looking for near"))
    tokenizer = next(moment for moment in timeline if moment.line.startswith("tokenizer"))
    packing = next(moment for moment in timeline if ": packing" in moment.line)
    mb = size / 1e6
    print(f"text                {mb:10,.0f} MB")
    print(f"reading (pass 1)    {mb / (tokenizer.wall - start.wall):10.1f} MB/s")
    print(f"tokenizer           {packing.wall - tokenizer.wall:10.1f} s")
    rates = f"{mb / (end.wall - packing.wall):10.1f} MB/s, {mb / (end.cpu - packing.cpu):.1f} a core-second"
    print(f"packing (pass 2)    {rates}")
    print(f"near-duplicates     {last.wall - end.wall:10.1f} s")
    print(
        "reading and packing "
        f"{mb / (end.wall - packing.wall + tokenizer.wall - start.wall):10.1f} MB/s"
    )
    print(f"peak resident       {peak / 1e6:10,.0f} MB, {workers} workers and the parent")


def side_by_side(tokenizer: Path, text: Path) -> None:
    """Encode the same documents both ways in one process, a chunk at a time."""
    chunks: list[list[str]] = [[]]
    size = 0
    domains = len(find(text))
    share: dict[str, int] = {}
    for domain, document in texts(text):
        if share.get(domain, 0) < SIDE_BY_SIDE_BYTES // domains:
            share[domain] = share.get(domain, 0) + len(document.encode())
            size += len(document.encode())
            chunks[-1].append(document)
            if sum(map(len, chunks[-1])) > 250_000:
                chunks.append([])
    chunks = [chunk for chunk in chunks if chunk]
    fast = Encoder.open(tokenizer)
    slow = Encoder(fast.spec, fast.eos, fast.vocab_size, fast=False)
    equal = all(np.array_equal(fast.encode(chunk).ids, slow.encode(chunk).ids) for chunk in chunks)
    print(f"ids of both equal   {equal!s:>10} on {size / 1e6:.0f} MB")
    for name, encoder in {"tiktoken": fast, "tokenizers": slow}.items():
        start, spent = time.perf_counter(), time.process_time()
        for chunk in chunks:
            encoder.encode(chunk)
        wall, cpu = time.perf_counter() - start, time.process_time() - spent
        print(f"{name:<19} {size / 1e6 / wall:10.1f} MB/s, {size / 1e6 / cpu:.1f} a core-second")


class Peak:
    """The highest sum of resident memory of this process and its descendants."""

    def __enter__(self) -> "Peak":
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self.bytes = max(self.bytes, resident("self"))


def resident(process: str) -> int:
    """Return the resident bytes of a process and of all it started (Linux)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task").glob("*/children")
        started = [child for path in children for child in path.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0
    )
    return own + sum(resident(child) for child in started)


if __name__ == "__main__":
    main()
