"""Rows of the suite `readers` that prompts are made of: WordNet's entries and facts, pairs of
sentences, reviews, and questions about glosses.
"""

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from btm.system.json_files import Json
from suites import json_lines
from suites.documents import SPLITS
from suites.graphs import Triple, read_graph
from suites.prompts import PASSAGE

_FOLLOWED = {"_hypernym": "_hypernym", "_instance_hypernym": "_hypernym", "_has_part": "_has_part"}
_SYMMETRIC = ("_derivationally_related_form", "_similar_to")
_ENTRY = re.compile(r"(?P<words>[^:\n]{2,60}): (?P<gloss>[^\n]{10,200})")


def read_rows(root: Path, split: str) -> dict[str, list[Json]]:
    """Read a split of the suite `readers`: nli, sentiment, entries, facts and reading.

    Raises:
        OSError: a file is not there
    """
    found = {name: json_lines.read(root / name / f"{split}.jsonl") for name in ("nli", "sentiment")}
    found["entries"] = [
        {"category": name, **entry}
        for name in sorted(path.name for path in (root / "text").iterdir() if path.is_dir())
        for document in json_lines.read(root / "text" / name / f"{split}.jsonl")
        for entry in _entries(document["text"])
    ]
    named = {}
    for line in (root / "graphs/entities.tsv").read_text(encoding="utf-8").splitlines():
        key, words, category, gloss = line.split("\t")
        named[key] = {"word": words.split(",")[0], "category": category, "gloss": _brief(gloss)}
    triples = read_graph(root / "graphs/wn18rr")
    true = _true_tails(itertools.chain(*triples.values()))
    later = {
        (tail, relation, head)
        for name in SPLITS[SPLITS.index(split) + 1 :]
        for head, relation, tail in triples[name]
    }
    found["facts"] = [
        {
            "relation": relation,
            "head": named[head],
            "tail": named[tail],
            "true": [named[key]["word"] for key in true(relation, head) if key in named],
        }
        for head, relation, tail in triples[split]
        if head in named and tail in named and (head, relation, tail) not in later
    ]
    titles = json.loads((root / "qa" / f"{split}.json").read_text(encoding="utf-8"))["data"]
    found["reading"] = [
        {"context": paragraph["context"], "question": asked["question"], "answer": answer["text"]}
        for title in titles
        for paragraph in title["paragraphs"]
        for asked in paragraph["qas"]
        if asked["id"].startswith(("word-", "kind-"))
        for answer in asked["answers"][:1]
    ]
    return found


def _true_tails(triples: Iterable[Triple]) -> Callable[[str, str], set[str]]:
    """Return a function of (relation, head) that finds all tails which are true by the triples.

    A kind of a kind, and a part of a part, is one too.
    """
    near = defaultdict(set)
    for head, relation, tail in triples:
        near[relation, head].add(tail)
        if relation in _SYMMETRIC:
            near[relation, tail].add(head)

    def tails(relation: str, head: str) -> set[str]:
        found = new = near[relation, head]
        while new and (on := _FOLLOWED.get(relation)):
            new = {tail for each in new for tail in near.get((on, each), ())} - found
            found = found | new
        return found

    return tails


def _brief(gloss: str) -> str:
    return gloss.split(";")[0][:PASSAGE]


def _entries(text: str) -> Iterator[dict[str, object]]:
    for line in text.splitlines():
        if found := _ENTRY.fullmatch(line):
            words = [each.strip() for each in found["words"].split(",")]
            examples = re.findall(r'"([^"]{15,120})"', found["gloss"])
            yield {"words": words, "gloss": _brief(found["gloss"]), "examples": examples}
