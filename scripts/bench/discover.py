"""How many documents a second one core clusters, and how evenly: the parts of btm discover, each by
itself.

    python scripts/bench/discover.py                    of the suite that ships with btm
    python scripts/bench/discover.py --text DIR -k 64   of any folder of domains

The fit of features (words, TF-IDF, truncated SVD) and of centres (balanced k-means) on a sample;
balanced assignment alone, of features that stand there; the stream that writes the domains:
features, balanced assignment and writing, the reading of the text apart. Times are this process's
processor time on one thread of BLAS; balance is the largest cluster over the smallest, less 1, over
all that was streamed. Text with fewer documents than asked for is cut into more.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import btm.data
from btm.config.data import DiscoverConfig
from btm.data.discover import corpus
from btm.data.discover.assign import balanced_assignment
from btm.data.discover.cluster import balanced_kmeans
from btm.data.discover.router import CHARS, Router
from btm.data.domains import find

DEMO = Path(btm.data.__file__).parent / "demo"
SHORTEST, LONGEST = 2_000, 6_000  # characters of a document that is taken as it is


def main() -> None:
    args = parse()
    threadpool_limits(1)
    texts = documents(args.text, args.documents)
    rng = np.random.default_rng(0)
    sample = [texts[i] for i in rng.choice(len(texts), min(args.sample, len(texts)), replace=False)]
    config = DiscoverConfig()
    router, features = timed(
        "fit: features", len(sample), lambda: Router.fit(sample, config.features, config.seed)
    )
    for k in args.k:
        cluster(router, features, k, texts, args.scratch)


def cluster(
    router: Router, features: np.ndarray, k: int, texts: list[str], scratch: Path | None
) -> None:
    """Print what k clusters cost, and how even they are."""
    name, count = f"k={k}", len(features)
    router.centres, _ = timed(
        f"fit: centres, {name}", count, lambda: balanced_kmeans(features, k, seed=0)
    )
    scores = router.similarity(features)
    timed(f"assign, {name}", count, lambda: in_blocks(scores))
    with tempfile.TemporaryDirectory(dir=scratch, prefix="btm-bench-") as folder:
        stream = (("train", text) for text in texts)
        counts = timed(
            f"stream, {name}",
            len(texts),
            lambda: corpus.write(router, stream, Path(folder), lambda line: None),
        )
    sizes = counts[:, 0]
    print(
        f"balance, {name}: {sizes.min():,} to {sizes.max():,}, {sizes.max() / sizes.min() - 1:.3%}",
        flush=True,
    )


def in_blocks(scores: np.ndarray) -> None:
    for start in range(0, len(scores), corpus.BLOCK):
        balanced_assignment(scores[start : start + corpus.BLOCK])


def timed(name: str, count: int, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    made = work()
    seconds = time.process_time() - start
    print(f"{name}: {count / seconds:,.0f} documents/s ({seconds:.1f} s for {count:,})", flush=True)
    return made


def documents(root: Path, wanted: int) -> list[str]:
    """Return `wanted` documents of 2,000 to 6,000 characters, a mix of all domains; longer ones are
    cut.
    """
    streams = [_cut(text for _, text in source.documents("text")) for source in find(root)]
    texts: list[str] = []
    whole = 0
    while streams and len(texts) < wanted:
        for stream in list(streams):
            found = next(stream, None)
            if found is None:
                streams.remove(stream)
                continue
            texts.append(found[0])
            whole += found[1]
    texts = texts[:wanted]
    characters = sum(map(len, texts))
    seen = sum(min(len(text), CHARS) for text in texts)
    print(
        f"{len(texts):,} documents of {root}: {whole:,} whole ones, {len(texts) - whole:,} cut "
        "from longer ones or put "
        f"together from paragraphs; {characters / len(texts):,.0f} characters each, "
        f"{seen / len(texts):,.0f} looked at"
    )
    if len(texts) < wanted:
        print(f"the text has no more: {wanted:,} were asked for")
    return texts


def _cut(texts: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Yield documents and whether they are whole: short ones are joined, long ones cut."""
    short = ""
    for text in texts:
        if SHORTEST <= len(text) <= LONGEST:
            yield text, True
        elif len(text) < SHORTEST:
            short = f"{short}\n\n{text}" if short else text
            if len(short) >= SHORTEST:
                yield short, False
                short = ""
        else:
            pieces = -(-len(text) // 4_000)
            size = -(-len(text) // pieces)
            for start in range(0, len(text), size):
                yield text[start : start + size], False


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text", type=Path, default=DEMO, help="a folder of domains (default: the demo suite)"
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument(
        "--sample",
        type=int,
        default=100_000,
        help="documents that the features and centres are fitted on",
    )
    parser.add_argument("-k", type=int, nargs="+", default=[8, 64], help="clusters (default: 8 64)")
    parser.add_argument(
        "--scratch", type=Path, help="where the domains are written (default: the system's)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
