"""What stands in a forest, for its report: cards, costs, sizes on disk, courses of training."""

import json
import math
import os
from pathlib import Path

from btm.errors import UserError
from btm.forest import Forest
from btm.forest.card import Card
from btm.forest.index import PLACES
from btm.forest.paths import ModelFolder, Paths
from btm.steps.report.facts import Cost, Curve, Holding
from btm.system import lease
from btm.system.json_files import Json

_POINTS = 80  # of a curve, at most: what a screen can show of a hundred
_BRANCH = "branch"
Found = list[tuple[str, ModelFolder, Card]]  # models: kind, folder, card


def models(paths: Paths) -> Found:
    """List the models of a forest whose cards can be read: (kind, folder, card)."""
    found = []
    for kind, place in PLACES.items():
        for path in sorted((paths.root / place).glob("[!.]*")):
            folder = ModelFolder(path)
            try:
                found.append((kind, folder, Card.read(folder.card)))
            except (UserError, OSError):
                continue  # `btm verify` tells of it
    return found


def costs(found: Found) -> list[Cost]:
    """Make the ledger of the models of a forest."""
    return [
        Cost(
            card.name,
            kind,
            card.domains,
            card.tokens,
            card.flops,
            card.total_tokens,
            card.total_flops,
            card.parameters,
            size(folder.path)[1],
        )
        for kind, folder, card in found
    ]


def cards(found: Found) -> list[Json]:
    """Make the cards as JSON, without what other parts of the report say and what says nothing."""
    left_out = {"ancestors", "schema", "candidates"}
    made = []
    for kind, _, card in found:
        told = {key: value for key, value in card.to_json().items() if key not in left_out}
        made.append({"kind": kind} | {key: v for key, v in told.items() if v not in ("", [], {})})
    return made


def disk(root: Path) -> list[Holding]:
    """Measure the folders of a forest, the largest first."""
    found = []
    for path in sorted(root.iterdir()):
        files, count = size(path)
        if files:
            found.append(Holding(path.name, files, count))
    return sorted(found, key=lambda holding: -holding.bytes)


def size(path: Path) -> tuple[int, int]:
    """Count the files below `path` and their bytes; those that vanish meanwhile do not count."""
    if path.is_file():
        return 1, path.stat().st_size
    files = total = 0
    stack = [path]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append(Path(entry.path))
                continue
            try:
                total += entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue
            files += 1
    return files, total


def curves(paths: Paths, found: Found) -> list[Curve]:
    """Read the courses of training of all models, and of the branches in the making."""
    places = [(card.name, kind, folder.metrics) for kind, folder, card in found]
    for branch in Forest(paths.root).branches():
        folder = lease.find(paths.branch(branch.name))
        if folder is not None:
            places.append((branch.name, _BRANCH, ModelFolder(folder).metrics))
    read = (curve(name, kind, file) for name, kind, file in places)
    return [each for each in read if each is not None]


def curve(name: str, kind: str, file: Path) -> Curve | None:
    """Read one metrics.jsonl; None if there is none. A line that is no record is passed over."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    rows, planned = [], 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
            planned = int(row["steps"])
            rows.append(
                (
                    int(row["step"]),
                    int(row["tokens"]),
                    _finite(row["loss"]),
                    float(row["lr"]),
                    float(f"{row['tokens_per_second']:.4g}"),
                    _finite(row.get("valid_nats")),
                )
            )
        except (ValueError, KeyError, TypeError):
            continue
    if not rows:
        return None
    steps, tokens, losses, rates, speeds, valid = map(list, zip(*_thinned(rows), strict=True))
    return Curve(name, kind, planned, steps, tokens, losses, rates, speeds, valid)


Row = tuple[int, int, float | None, float, float, float | None]


def _thinned(rows: list[Row]) -> list[Row]:
    """Keep `_POINTS` rows, evenly, with the first and the last; and those with a valid loss while
    they are few.
    """
    if len(rows) <= _POINTS:
        return rows
    step = (len(rows) - 1) / (_POINTS - 1)
    kept = {round(i * step) for i in range(_POINTS)}
    valid = [i for i, row in enumerate(rows) if row[-1] is not None]
    kept |= set(valid[:: max(1, len(valid) // (_POINTS // 4))])
    return [rows[i] for i in sorted(kept)]


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return round(value, 4)
