"""How many of many seeded corruptions of a forest `btm verify --full` finds.

    python scripts/bench/corruption.py --count 10000

Each damages one file of one forest in one way, looks, and puts it back: a bit or a byte that flips,
two bytes that change places, a block of zeros, a file that is cut off, emptied, longer, missing or
new, or that has another's content. The forest is a real one of tiny models. The exit code is 1 if
one was missed.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from btm.forest import verify


def flip_bit(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


def change_byte(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :]


def swap(content: bytes, rng: random.Random) -> bytes:
    one, other = sorted(rng.sample(range(len(content)), 2))
    return b"".join(
        [
            content[:one],
            content[other : other + 1],
            content[one + 1 : other],
            content[one : one + 1],
            content[other + 1 :],
        ]
    )


def zeros(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    size = min(rng.choice([1, 16, 512, 4096]), len(content) - at)
    return content[:at] + bytes(size) + content[at + size :]


def cut_off(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def longer(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 100))


KINDS: dict[str, Callable[[bytes, random.Random], bytes] | None] = {
    "a bit flipped": flip_bit,
    "a byte changed": change_byte,
    "two bytes swapped": swap,
    "a block zeroed": zeros,
    "cut off": cut_off,
    "emptied": lambda content, rng: b"",
    "longer": longer,
    "missing": None,
    "a new file": None,
    "another's content": None,
}


def sealed(root: Path) -> list[Path]:
    """Return every file that is meant never to change."""
    places = [root / "elms", root / "averages", root / "tokenizer"]
    found = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [root / "forest.json", *sorted(found)]


def damage(kind: str, file: Path, files: list[Path], rng: random.Random) -> Path:
    """Damage `file`, or make a new one beside it; return which was touched."""
    content, change = file.read_bytes(), KINDS[kind]
    if kind == "missing":
        file.unlink()
    elif kind == "a new file":
        file = file.with_name(f"new{rng.randrange(10**6)}.bin")
        file.write_bytes(rng.randbytes(9))
    elif kind == "another's content":
        file.write_bytes(rng.choice([f for f in files if f.read_bytes() != content]).read_bytes())
    elif change is not None:
        changed = change(content, rng)
        while changed == content:  # zeros where there were zeros, equal bytes swapped
            changed = change(content, rng)
        file.write_bytes(changed)
    return file


def trials(
    root: Path, count: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> tuple[Counter[str], list[str]]:
    """Damage the forest `count` times; return how often in which way, and each time that nothing
    was found.
    """
    rng = random.Random(seed)
    files, missed, counts = sealed(root), [], Counter[str]()
    begun = time.monotonic()
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        places = [f for f in files if f.parent != root] if kind == "a new file" else files
        file = rng.choice(places)
        whole = file.read_bytes()
        touched = damage(kind, file, files, rng)
        only = (
            file.parent.name if file.parent.parent.name == "elms" and rng.random() < 0.9 else None
        )
        found = [f for f in verify.verify(root, full=True, only=only) if not f.note]
        if not found:
            missed.append(f"{number}: {kind}: {touched.relative_to(root)}")
        if touched != file:
            touched.unlink()
        file.write_bytes(whole)
        counts[kind] += 1
        if number % 500 == 499:
            say(f"{number + 1} of {count}, {len(missed)} missed, {time.monotonic() - begun:.0f} s")
    return counts, missed


def grow(root: Path) -> Path:
    """Grow the forest of `experiment=smoke`, seed, three experts and their average; return it."""
    from btm import steps
    from btm.cli.compose import compose

    words = [
        "experiment=smoke",
        "trainer.steps=4",
        "seed.steps=8",
        "merge.force=true",
        "score.max_tokens=256",
    ]
    config = compose([*words, f"data.out={root / 'data'}", f"forest={root / 'forest'}"])
    steps.run(config)
    return root / "forest"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="btm-corruption-"))
    try:
        root = grow(work)
        if verify.verify(root, full=True):
            raise RuntimeError("the forest is damaged before anything was done to it")
        begun = time.monotonic()
        counts, missed = trials(root, args.count, args.seed, lambda text: print(text, flush=True))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for line in missed:
        print(f"MISSED  {line}")
    for kind, number in counts.items():
        print(f"{kind:20} {number:6}")
    print(
        f"{sum(counts.values()):,} corruptions, {len(missed)} missed, "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
