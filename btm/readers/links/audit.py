"""The leakage audit: how far inverse relations alone answer a graph's questions (torch-free).

The inverse model of Dettmers et al. (arXiv 1707.01476, section 4.1) without its threshold: of each
pair of relations, P(r(s, o) | r'(o, s)) is estimated on train, and an entity is as likely as the
surest rule that gives it. Entities that no rule gives are tied last.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.errors import UserError
from btm.readers.links import ranks, triples
from btm.system.json_files import Json

_LEAKS = 0.5  # MRR of rules alone from which a benchmark says little of models


@dataclass(frozen=True)
class Rule:
    """Where `given`(o, s) holds, `relation`(s, o) does, too, with a confidence."""

    relation: str
    given: str
    confidence: float
    support: int  # triples of `given` in train


@dataclass(frozen=True)
class Audit:
    """The ranks of inverse rules alone on a split, and the rules."""

    entities: int
    triples: int
    explained: float  # share of the triples that some rule gives
    values: dict[str, float]
    rules: list[Rule]  # the surest first

    @property
    def verdict(self) -> str:
        """The verdict on the benchmark, in words."""
        if self.values["MRR"] >= _LEAKS:
            return "it leaks: a model's number says little here"
        return "a model that is much better has learnt more than inverses"

    def to_json(self) -> Json:
        """Write it as JSON."""
        return asdict(self) | {"verdict": self.verdict}


def audit(folder: Path, split: str) -> Audit:
    """Rank the triples of a split by inverse rules that are learnt on train."""
    graph = {name: [t for _, t in triples.triples(folder, name)] for name in SPLITS}
    if not graph["train"] or not graph[split]:
        raise UserError(f"{folder}: no triples in train.txt or {split}.txt")
    rules = _rules(graph["train"])
    confidence = {(rule.relation, rule.given): rule.confidence for rule in rules}
    entities = sorted({e for part in graph.values() for s, _, o in part for e in (s, o)})
    number = {name: n for n, name in enumerate(entities)}
    known, links = defaultdict(set), defaultdict(set)  # {(entity, relation, side): entities}
    for name, part in graph.items():
        for s, p, o in part:
            for asked, given, side in ((s, o, 0), (o, s, 1)):
                known[asked, p, side].add(number[given])
                if name == "train":
                    links[asked, side].add((p, number[given]))
    found: list[float] = []
    explained = 0
    for s, p, o in graph[split]:
        for asked, right, side in ((s, o, 0), (o, s, 1)):
            scores = np.zeros(len(entities))
            for given, other in links[asked, 1 - side]:
                scores[other] = max(scores[other], confidence.get((p, given), 0.0))
            explained += side == 0 and scores[number[right]] > 0
            found += ranks.realistic(
                scores[None], [number[right]], [known[asked, p, side]]
            ).tolist()
    values = {name: float(each.mean()) for name, each in ranks.metrics(np.array(found)).items()}
    count = len(graph[split])
    return Audit(len(entities), count, explained / count, values, rules)


def _rules(train: list[triples.Triple]) -> list[Rule]:
    """Estimate all inverse rules that hold at least once in train, the surest first."""
    relations: dict[tuple[str, str], set[str]] = defaultdict(set)
    for s, p, o in train:
        relations[s, o].add(p)
    support = Counter(p for _, p, _ in dict.fromkeys(train))
    both = Counter(_pairs(relations))
    found = [Rule(p, given, n / support[given], support[given]) for (p, given), n in both.items()]
    return sorted(found, key=lambda rule: (-rule.confidence, -rule.support, rule.relation))


def _pairs(relations: dict[tuple[str, str], set[str]]) -> Iterator[tuple[str, str]]:
    """Yield (relation, given) for each pair of entities that `relation` joins one way and `given`
    the other way.
    """
    for (s, o), forth in relations.items():
        for given in relations.get((o, s), ()):
            yield from ((p, given) for p in forth)
