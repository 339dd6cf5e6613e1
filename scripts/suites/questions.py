"""Questions about glosses: extractive ones in SQuAD's format, and choices among four glosses.

A support is five entries of one domain and split, "word: definition." Questions ask for the word of
which a piece of the definition is quoted, for the word that is a kind of something, and for what a
word means; some about a set that the support lacks have no answer (SQuAD 2.0, arXiv 1806.03822).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from suites.documents import SPLITS, mark
from suites.wordnet import HYPERNYM, Synset, by_domain

ENTRIES, CHOICES = 5, 4
_SUPPORTS = {"train": 400, "valid": 40, "test": 60}  # of a domain, at most
_QUESTIONS = {"train": 200, "valid": 40, "test": 60}  # with choices, of a domain, at most
_SHORTEST, _LONGEST = 4, 25  # words of a definition that is asked about
_UNANSWERABLE = 0.2  # of the supports

Sets = Mapping[str, Mapping[str, Sequence[Synset]]]  # by domain and split


def usable(known: Mapping[str, Synset], split_of: Mapping[str, str]) -> Sets:
    """Sort by domain and split the sets to ask about: definitions of 4 to 25 words, each once.

    Of held-out sets, those whose definition is that of a set trained on are left out.
    """
    seen: set[bytes] = set()
    found: dict[str, dict[str, list[Synset]]] = {}
    for split in SPLITS:
        for name, domain in by_domain(known).items():
            kept = found.setdefault(name, {}).setdefault(split, [])
            for synset in domain:
                plain = "." not in synset.definition and ":" not in synset.words[0]
                if split_of[synset.key] != split or not plain:
                    continue
                long = _SHORTEST <= len(synset.definition.split()) <= _LONGEST
                if long and (known_by := mark(synset.definition)) not in seen:
                    seen.add(known_by)
                    kept.append(synset)
    return found


def extractive(sets: Sets, known: Mapping[str, Synset], split: str) -> dict[str, Any]:
    """Make the questions of a split, in the format of SQuAD 2.0: an article a domain."""
    rng = random.Random(f"extractive {split}")
    articles = []
    for name, domain in sets.items():
        mixed = rng.sample(domain[split], len(domain[split]))
        paragraphs: list[dict[str, Any]] = []
        for at in range(0, len(mixed) - ENTRIES + 1, ENTRIES):
            if len(paragraphs) < _SUPPORTS[split]:
                other = mixed[at - 1]
                paragraphs.append(_paragraph(mixed[at : at + ENTRIES], other, known, rng))
        if paragraphs:
            articles.append({"title": name, "paragraphs": paragraphs})
    return {"version": "2.0", "data": articles}


def _paragraph(
    entries: Sequence[Synset], other: Synset, known: Mapping[str, Synset], rng: random.Random
) -> dict[str, Any]:
    context, starts = "", {}
    for entry in entries:
        starts[entry.key] = len(context)
        context += f"{entry.words[0]}: {entry.definition}. "
    asked = []
    word = rng.choice(entries)
    asked.append(_question("word", word, _piece(word, rng), word.words[0], starts[word.key]))
    if kind := _kind(entries, known, rng):
        entry, question = kind
        asked.append(_question("kind", entry, question, entry.words[0], starts[entry.key]))
    meant = rng.choice(entries)
    start = starts[meant.key] + len(meant.words[0]) + 2
    question = f"What does {meant.words[0]} mean?"
    asked.append(_question("meaning", meant, question, meant.definition, start))
    if rng.random() < _UNANSWERABLE and other not in entries:
        asked.append(_question("none", other, _piece(other, rng), "", 0))
    return {"context": context.rstrip(), "qas": asked}


def _question(kind: str, about: Synset, question: str, answer: str, start: int) -> dict[str, Any]:
    return {
        "id": f"{kind}-{about.key}",
        "question": question,
        "answers": [{"text": answer, "answer_start": start}] if answer else [],
        "is_impossible": not answer,
    }


def _piece(entry: Synset, rng: random.Random) -> str:
    """Ask by half of the definition's words that stand beside each other."""
    words = entry.definition.split()
    count = max(3, len(words) // 2)
    at = rng.randrange(len(words) - count + 1)
    return f"Which is {' '.join(words[at : at + count]).strip(';,')}?"


def _kind(
    entries: Sequence[Synset], known: Mapping[str, Synset], rng: random.Random
) -> tuple[Synset, str] | None:
    """Ask for the one entry that is a kind of something; None if there is none."""
    above = {entry.key: _ancestors(entry, known) for entry in entries}
    for entry in rng.sample(entries, len(entries)):
        parents = [key for key in entry.others(HYPERNYM) if key in known]
        for parent in parents:
            others = (above[each.key] | {each.key} for each in entries if each != entry)
            if not any(parent in each for each in others):
                return entry, f"Which is a kind of {known[parent].words[0]}?"
    return None


def _ancestors(entry: Synset, known: Mapping[str, Synset]) -> set[str]:
    found: set[str] = set()
    level = [entry.key]
    while level:
        level = [up for key in level for up in known[key].others(HYPERNYM) if up not in found]
        found.update(level)
    return found


def choices(sets: Sets, split: str) -> Iterator[dict[str, Any]]:
    """Yield questions for the definition of a word, among four of its domain and split."""
    rng = random.Random(f"choices {split}")
    for name, domain in sets.items():
        entries = domain[split]
        if len(entries) < CHOICES:
            continue
        for entry in rng.sample(entries, min(_QUESTIONS[split], len(entries))):
            others = [each for each in rng.sample(entries, CHOICES) if each != entry]
            offered = [entry, *others[: CHOICES - 1]]
            rng.shuffle(offered)
            yield {
                "id": entry.key,
                "domain": name,
                "support": "",
                "question": f"{', '.join(entry.words)}:",
                "choices": [each.definition for each in offered],
                "answer": offered.index(entry),
            }
