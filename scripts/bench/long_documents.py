"""How much memory and time `btm prepare` takes for one document of any length, kind by kind.

    python scripts/bench/long_documents.py                        50 MB of each kind
    python scripts/bench/long_documents.py --mb 200 --kinds text

Each kind is prepared by the command in a process of its own, which says at its end what the peak of
its resident memory was (Linux). The processes that tokenize beside it get a few megabytes at once.
"""

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import btm.data
from btm.data.domains import find

DEMO = Path(btm.data.__file__).parent / "demo"
# The peak of a process is not in its rusage alone, which begins with that of the one before it.
CHILD = """
import sys
from pathlib import Path
from btm.cli.main import main
if __name__ == "__main__":
    code = main(sys.argv[1:])
    status = Path("/proc/self/status").read_text().split()
    print(status[status.index("VmHWM:") + 1])
    sys.exit(code)
"""
SMALL = [f"Section {i} of the law, with few words {'and more ' * (i % 5)}." for i in range(200)]


def words(size: int) -> str:
    """Make text of the suite that ships with btm, ASCII alone, with no document like another."""
    texts = [text for source in find(DEMO) for _, text in source.documents("text")]
    rng, parts, made = random.Random(0), [], 0
    while made < size:
        parts.append(f"{made} " + rng.choice(texts).encode("ascii", "ignore").decode())
        made += len(parts[-1]) + 1
    return "\n".join(parts)


KINDS: dict[str, Callable[[int], str]] = {
    "text": words,
    "text and an emoji": lambda size: words(size) + "\U0001f600",
    "dna": lambda size: "".join(random.Random(0).choices("ACGT", k=size)),
    "base64": lambda size: base64.b64encode(random.Random(0).randbytes(size * 3 // 4)).decode(),
    "one letter": lambda size: "a" * size,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=50, help="of the document (default 50)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    for kind in args.kinds:
        for ending in ("jsonl", "parquet"):
            peak, seconds = measure(KINDS[kind](args.mb * 1_000_000), ending)
            print(f"{kind:<20} {ending:<8} {peak / 1e9:6.2f} GB {seconds:8.1f} s", flush=True)


def measure(document: str, ending: str) -> tuple[int, float]:
    """Prepare a domain with one long document; return the peak in bytes, and the seconds."""
    with tempfile.TemporaryDirectory(prefix="btm-bench-") as scratch:
        folder = Path(scratch) / "texts" / "law"
        folder.mkdir(parents=True)
        for split, texts in {
            "train": [document, *SMALL[:100]],
            "valid": SMALL[100:150],
            "test": SMALL[150:],
        }.items():
            write(folder / f"{split}.{ending}", texts)
        given = ["data=folder", f"data.root={folder.parent}", "data.name=x", f"data.out={scratch}"]
        command = [sys.executable, "-c", CHILD, "prepare", *given, "data.row_bytes=2000000000"]
        begun = time.perf_counter()
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(ran.stdout.split()[-1]) * 1024, time.perf_counter() - begun


def write(path: Path, texts: list[str]) -> None:
    """Write texts as JSON lines or parquet."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as handle:
            handle.writelines(
                json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts
            )
        return
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": texts}), path)


if __name__ == "__main__":
    main()
