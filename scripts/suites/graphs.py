"""Graphs for link prediction: WordNet's, after WN18 and WN18RR, and three that pykeen's wheel ships.

WN18 (Bordes et al., arXiv 1301.3485) has 18 relations of WordNet 3.0; WN18RR (Dettmers et al., arXiv
1707.01476) drops 7 of these, each the inverse of another. Both were cut from the whole by steps that
nobody wrote down in full, so these are graphs like them, not the same triples.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from suites.documents import SPLITS
from suites.packages import PYPI, Package
from suites.wordnet import Synset

Triple = tuple[str, str, str]
Graph = dict[str, list[Triple]]  # triples by split

WN18RR = [
    "_hypernym",
    "_instance_hypernym",
    "_member_meronym",
    "_has_part",
    "_derivationally_related_form",
    "_similar_to",
    "_verb_group",
    "_also_see",
    "_synset_domain_topic_of",
    "_member_of_domain_usage",
    "_member_of_domain_region",
]
DROPPED = [
    "_hyponym",
    "_instance_hyponym",
    "_member_holonym",
    "_part_of",
    "_member_of_domain_topic",
    "_synset_domain_usage_of",
    "_synset_domain_region_of",
]
PYKEEN = Package(PYPI, "pykeen", "1.11.1", r"pykeen/datasets/(umls|nations|kinships)/\w+\.txt$")
_DEGREE = 5  # triples that an entity must be in
_HELD_OUT = 3_000  # triples of valid, and of test


def wordnet_graphs(known: Mapping[str, Synset], split_of: Mapping[str, str]) -> dict[str, Graph]:
    """Build `wn18`, `wn18rr` (its triples without the 7 inverse relations) and `wn18rr_unseen`.

    In the last, a training triple is of sets whose gloss the forest trains on; one of test has a set
    of the forest's test text (of valid likewise), so that no model has seen this set, nor its text.
    """
    triples = sorted(
        {
            (key, relation, other)
            for key, synset in known.items()
            for relation, other in synset.related
            if relation in WN18RR or relation in DROPPED
        }
    )
    degree = Counter(entity for head, _, tail in triples for entity in (head, tail))
    triples = [t for t in triples if min(degree[t[0]], degree[t[2]]) >= _DEGREE]
    whole = _split(triples, random.Random(0))
    kept = {split: [t for t in whole[split] if t[1] in WN18RR] for split in SPLITS}
    unseen = _unseen([t for split in SPLITS for t in kept[split]], split_of)
    return {"wn18": whole, "wn18rr": _known(kept), "wn18rr_unseen": _known(unseen, entities=False)}


def _split(triples: Sequence[Triple], rng: random.Random) -> Graph:
    """Deal triples to splits so that each entity and relation of a held-out one is trained on."""
    left = Counter(part for head, rel, tail in triples for part in {head, tail, rel})
    mixed = list(triples)
    rng.shuffle(mixed)
    held_out: list[Triple] = []
    train: list[Triple] = []
    for triple in mixed:
        parts = set(triple)
        if len(held_out) < 2 * _HELD_OUT and all(left[part] > 1 for part in parts):
            held_out.append(triple)
            left.subtract(parts)
        else:
            train.append(triple)
    return {"train": train, "valid": held_out[::2], "test": held_out[1::2]}


def _known(graph: Graph, entities: bool = True) -> Graph:
    """Drop the held-out triples whose relation, or an entity, no training triple has."""
    trained = {part for head, rel, tail in graph["train"] for part in (head, rel, tail)}
    kept = {
        split: [
            t for t in graph[split] if t[1] in trained and (not entities or {t[0], t[2]} <= trained)
        ]
        for split in ("valid", "test")
    }
    return {"train": graph["train"], **kept}


def _unseen(triples: Iterable[Triple], split_of: Mapping[str, str]) -> Graph:
    """Deal triples by the splits of their sets' glosses, with at most 3,000 for valid and for test.

    The other entity of a held-out triple is one that is trained on, or held out likewise.
    """
    graph: Graph = {split: [] for split in SPLITS}
    for triple in triples:
        of = {split_of[triple[0]], split_of[triple[2]]} - {"train"}
        if len(of) < 2:
            graph[of.pop() if of else "train"].append(triple)
    trained = {entity for head, _, tail in graph["train"] for entity in (head, tail)}
    rng = random.Random(0)
    for split in ("valid", "test"):
        near = [
            t for t in graph[split]
            if all(split_of[e] != "train" or e in trained for e in (t[0], t[2]))
        ]  # fmt: skip
        graph[split] = sorted(rng.sample(near, min(_HELD_OUT, len(near))))
    return graph


def shipped_graphs(files: Iterable[tuple[str, bytes]]) -> dict[str, Graph]:
    """Read the graphs of pykeen's wheel: `datasets/NAME/{train,valid,test}.txt`, tab separated."""
    graphs: dict[str, Graph] = {}
    for path, data in files:
        name, _, file = path.split("datasets/")[1].partition("/")
        if (split := file.removesuffix(".txt")) in SPLITS:
            rows = [line.split("\t") for line in data.decode().splitlines() if line]
            graphs.setdefault(name, {})[split] = [(s, p, o) for s, p, o in rows]
    return graphs


def read_graph(folder: Path) -> Graph:
    """Read the triples of a folder, which stand by split in files as `table` makes them.

    Raises:
        OSError: a file is not there
    """
    graph: Graph = {}
    for split in SPLITS:
        lines = (folder / f"{split}.txt").read_text("utf-8").splitlines()
        graph[split] = [(s, p, o) for s, p, o in (line.split("\t") for line in lines)]
    return graph


def table(triples: Iterable[Triple]) -> str:
    """Write triples as tab separated lines: subject, relation, object."""
    return "".join("\t".join(triple) + "\n" for triple in triples)


def entity_table(known: Mapping[str, Synset], graphs: Iterable[Graph]) -> str:
    """Write a line for each entity of WordNet's graphs: its key, words, domain and gloss."""
    used = {e for graph in graphs for split in SPLITS for t in graph[split] for e in (t[0], t[2])}
    lines = (
        (key, ", ".join(known[key].words), known[key].domain, known[key].gloss)
        for key in sorted(used)
    )
    return "".join("\t".join(line) + "\n" for line in lines)
