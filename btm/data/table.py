"""The table of a prepared suite: what each domain holds, and what was left out of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from btm.config.choices import SPLITS
from btm.data.documents import BY_DOCUMENT, BY_FILE, BY_PLACE
from btm.data.duplicates import in_words
from btm.data.shards import NEAR, SKIPPED, Suite
from btm.system.json_files import Json

_ALL_READ: Mapping[str, str] = MappingProxyType({})
_PART_OF_TRAIN = {
    BY_DOCUMENT: "from train, by document",
    BY_FILE: "from train, by file",
    BY_PLACE: "from train, within its file",
}
# The columns that a narrow terminal shows last.
SPARE = (
    *("valid_bytes", "test_bytes", "train_bytes", "near_in", "found_in", "bytes_per_token"),
    *("test_documents", "valid_documents", "valid_tokens", "test_tokens"),
)
_PLACES = "skipped_places"  # the column of rows that were left out, for programs


def _split_of(meta: Json) -> str:
    """Say in words how a domain came by its splits."""
    settings, files = meta["settings"], len(meta.get("source_files", ()))
    drawn = [split for split in SPLITS if f"{split}_fraction" in settings]
    if not drawn:
        return "its own"
    by = settings.get("split_by", BY_DOCUMENT)
    if len(drawn) < len(SPLITS) - 1:
        return f"its own; {drawn[0]} {_PART_OF_TRAIN[by]}"
    return {
        BY_DOCUMENT: "by document",
        BY_FILE: f"by file, {files} files",
        BY_PLACE: "1 file: split within it",
    }[by]


def _near_of(meta: Json) -> dict[str, object]:
    """Sum up the near-duplicates of a domain; None where nothing was compared or dropped."""
    dropped = meta["splits"]["train"].get("near_duplicates_dropped")
    splits = meta.get(NEAR, {}).get("splits")
    if splits is None:
        return {"near_held_out": None, "near_in": "", "near_dropped": dropped}
    near_in = sum((Counter(splits[split]["found_in"]) for split in SPLITS), Counter())
    return {
        "near_held_out": splits["valid"]["documents"] + splits["test"]["documents"],
        "near_in": in_words(near_in),
        "near_dropped": dropped,
    }


def _of_examples(splits: Json) -> dict[str, object]:
    """Sum up what became of examples; None for a domain of text."""
    keys = ("predicted", "truncated", "unanswered")
    if keys[0] not in splits["train"]:
        return dict.fromkeys(keys)
    return {key: sum(splits[split][key] for split in SPLITS) for key in keys}


def table(suite: Suite, unread: Mapping[str, str] = _ALL_READ) -> list[dict[str, object]]:
    """Make a table row for each domain: documents, tokens and bytes by split, and summaries.

    `unread` says what was not read of a domain, in words.
    """
    rows = []
    for name in suite.domains():
        splits = suite.metas[name]["splits"]
        row: dict[str, object] = {"domain": name, "novel": suite.novel(name)}
        for key in ("documents", "tokens", "bytes"):
            row |= {f"{split}_{key}": splits[split][key] for split in SPLITS}
        size = sum(splits[split]["bytes"] for split in SPLITS)
        tokens = sum(splits[s].get("predicted", splits[s]["tokens"]) for s in SPLITS)
        row["bytes_per_token"] = size / tokens
        row |= _of_examples(splits)
        row["duplicates_dropped"] = sum(splits[split]["duplicates_dropped"] for split in SPLITS)
        skipped = suite.metas[name].get(SKIPPED, {})
        row |= {"rows_skipped": skipped.get("rows"), _PLACES: skipped.get("places")}
        found_in = sum((Counter(splits[split].get("found_in", {})) for split in SPLITS), Counter())
        row["split"] = _split_of(suite.metas[name])
        row["unread"] = unread.get(name, "")
        row["found_in"] = in_words(found_in)
        row |= _near_of(suite.metas[name])
        rows.append(row)
    return rows


def readable(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Leave out the columns of a table that say nothing of any domain, and long lists."""
    said = [key for key in rows[0] if any(row[key] not in (None, "") for row in rows)]
    said = [key for key in said if key != _PLACES]
    return [{key: row[key] for key in said} for row in rows]
