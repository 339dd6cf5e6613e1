"""Natural language inference out of WordNet's hypernyms: a gloss, and whether a kind follows.

Of a set X in the tree of a domain of things, "It is a kind of X." follows from the gloss of what is
below X (entailment), contradicts that of what stands beside it (a sibling of X or of what is above
it, contradiction) and is open after that of what is above it (neutral). A hypothesis is asked as
often with each label in each split, so it tells nothing alone. Premises are all of sets that have
others below them, so that neither their depth nor their wording says the label at once.
"""

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suites.documents import SPLITS
from suites.wordnet import HYPERNYM, Synset, by_domain

LABELS = ("entailment", "neutral", "contradiction")
# Kinds of things exclude each other; persons, acts or attributes need not (a mother may teach).
DOMAINS = [
    "noun_animal",
    "noun_artifact",
    "noun_body",
    "noun_food",
    "noun_object",
    "noun_plant",
    "noun_shape",
    "noun_substance",
]
_EACH, _UP = 5, 3  # questions a hypothesis and label, and levels up and down


def inference(
    known: Mapping[str, Synset], split_of: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return rows (id, domain, premise, hypothesis, label) by split, that of the premise's gloss."""
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    rng = random.Random(0)
    used: Counter[tuple[str, str]] = Counter()
    for name in DOMAINS:
        tree = _Tree({synset.key: synset for synset in by_domain(known)[name]})
        for key in tree.middle():
            found = tree.premises(key)
            for split in SPLITS:
                premises = {
                    label: [premise for premise in keys if split_of[premise] == split]
                    for label, keys in found.items()
                }
                asked = min(_EACH, *map(len, premises.values()))
                for label in LABELS:
                    for premise in _least_used(premises[label], asked, label, used, rng):
                        rows[split].append(_row(tree.known[premise], tree.known[key], label))
    for split in SPLITS:
        rng.shuffle(rows[split])
    return rows


def _least_used(
    premises: Sequence[str],
    count: int,
    label: str,
    used: Counter[tuple[str, str]],
    rng: random.Random,
) -> list[str]:
    """Choose the premises that have this label least often, measured by their other labels.

    So a premise says little about its label, too.
    """

    def surplus(premise: str) -> float:
        return used[premise, label] - sum(used[premise, other] for other in LABELS) / len(LABELS)

    chosen = sorted(rng.sample(premises, len(premises)), key=surplus)[:count]
    used.update((premise, label) for premise in chosen)
    return chosen


def _row(premise: Synset, hypothesis: Synset, label: str) -> dict[str, Any]:
    return {
        "id": f"{premise.key}-{hypothesis.key}",
        "domain": premise.domain,
        "premise": f"{premise.words[0]}: {premise.definition}.",
        "hypothesis": f"It is a kind of {hypothesis.words[0]}.",
        "label": label,
    }


class _Tree:
    """The hypernyms of one domain: `inner` are the sets with others below them."""

    def __init__(self, known: Mapping[str, Synset]) -> None:
        self.known = known
        self._up = {
            key: [other for other in synset.others(HYPERNYM) if other in known]
            for key, synset in known.items()
        }
        self._down: dict[str, list[str]] = defaultdict(list)
        for key, above in self._up.items():
            for other in above:
                self._down[other].append(key)
        self.inner = {key for key, below in self._down.items() if below}
        self._ancestors: dict[str, set[str]] = {}
        self._descendants: dict[str, set[str]] = {}

    def middle(self) -> list[str]:
        """List the sets that have others above and below."""
        return sorted(key for key in self.inner if self._up[key])

    def ancestors(self, key: str) -> set[str]:
        if key not in self._ancestors:
            self._ancestors[key] = {key}.union(*map(self.ancestors, self._up[key]))
        return self._ancestors[key]

    def premises(self, key: str) -> dict[str, list[str]]:
        """Find sets from which "a kind of `key`" follows, is open or is excluded, by label."""
        above, below = _near(key, self._up), _near(key, self._down)
        beside = {
            sibling
            for lower in [key, *above]
            for parent in self._up[lower]
            for sibling in self._down[parent]
        }
        apart = {s for s in beside & self.inner if not self._related(s, key)}
        own = set(self.known[key].words)
        found = dict(zip(LABELS, (set(below), set(above), apart), strict=True))
        return {
            label: sorted(k for k in keys & self.inner if not own & set(self.known[k].words))
            for label, keys in found.items()
        }

    def _related(self, one: str, other: str) -> bool:
        """Say whether one set is above the other, or both are above a third."""
        if one in self.ancestors(other) or other in self.ancestors(one):
            return True
        return not self._below(one).isdisjoint(self._below(other))

    def _below(self, key: str) -> set[str]:
        if key not in self._descendants:
            self._descendants[key] = set(_near(key, self._down))
        return self._descendants[key]


def _near(key: str, steps: Mapping[str, Sequence[str]]) -> list[str]:
    """List what is at most 3 steps away."""
    found: dict[str, None] = {}
    level = [key]
    for _ in range(_UP):
        level = [other for each in level for other in steps.get(each, ())]
        found.update(dict.fromkeys(level))
    return list(found)


def guessed(
    train: Sequence[Mapping[str, str]], test: Sequence[Mapping[str, str]], field: str
) -> float:
    """Accuracy of naive Bayes on the words and pairs of words of one field alone (add-one); 0 of
    no rows.
    """
    counts: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
    for row in train:
        counts[row["label"]].update(_features(row[field]))
    seen = {feature for count in counts.values() for feature in count}
    logs = {
        label: {f: np.log(count[f] + 1) - np.log(sum(count.values()) + len(seen)) for f in seen}
        for label, count in counts.items()
    }

    def best(text: str) -> str:
        features = [feature for feature in _features(text) if feature in seen]
        return max(LABELS, key=lambda label: sum(logs[label][feature] for feature in features))

    return sum(best(row[field]) == row["label"] for row in test) / max(1, len(test))


def _features(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
