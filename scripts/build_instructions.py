#!/usr/bin/env python3
"""Build prompted data of the embedded demo suite's text: rows to train on, tasks to measure with.

Of each task there are four templates, of which the last is never trained on, and one task is not
trained on at all. Nothing is invented but the templates: passages, words and glosses stand in the
demo's documents, and those of valid and test rows in its valid and test splits. Two runs write the
same bytes. --readers adds inference (trained on) and the sentiment of reviews (held out) of the
suite `readers`.

    OUT/instruct/{train,valid,test}.jsonl    {"prompt", "completion"}: data.format=prompted
    OUT/tasks/<task>_<template>.{jsonl,yaml} questions of test text with their choices, for btm bench

Example:
    python scripts/build_instructions.py --out corpora/instructions
    python scripts/build_instructions.py --out corpora/instructions --readers corpora/readers

The first table of docs/instructions.md, after `experiment=demo`, with W for forest=experts/demo data=folder
data.root=corpora/instructions/instruct data.domain=instruct data.name=instructions data.format=prompted:

    btm prepare W
    btm branch W expert=a domain=instruct branch=copy trainer.steps=600
    btm train W expert=a trainer.steps=600             # B: trainer.steps=400 trainer.lr=1e-3
    btm merge W expert=a
    btm average forest=experts/demo data.name=demo weights="{seed: 0.8, b: 0.2}" average.name=b2
    btm bench forest=experts/demo data.name=demo tasks=[corpora/instructions/tasks/kind_0.yaml,…] bench.limit=120
"""

import argparse
import json
import random
import re
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import btm.data
from btm.data.documents import read
from btm.errors import UserError
from btm.system.durable import publish_folder, sweep

DEMO = Path(btm.data.__file__).parent / "demo"
SPLITS = ("train", "valid", "test")
PASSAGE = 160  # characters, so that an example has room in 128 tokens
HELD_OUT = 3  # the number of the template that is not trained on
_GLOSS = re.compile(
    r"^(?P<words>[^(\n]{3,40}) \((?P<part>noun|verb|adjective|adverb)\): (.{15,160})$"
)
KINDS = {
    "bible": "scripture",
    "speeches": "speech",
    "code_python": "program",
    "python_docs": "manual",
    "metamath": "proof",
    "spanish": "Spanish",
    "pronunciation": "sounds",
    "wordnet": "dictionary",
}
LANGUAGES = {"code_go": "Go", "code_lisp": "Lisp", "code_python": "Python", "code_tcl": "Tcl"}
Texts = Mapping[str, list[str]]  # documents by domain, of one split

ROWS = ("nli", "sentiment")  # what is taken of the suite readers
RELATIONS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}


@dataclass(frozen=True)
class Question:
    """What the templates of a task are filled with; `choices` are all answers there are."""

    fields: dict[str, str]
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Source:
    """What questions are asked about, of one split."""

    texts: Texts  # of the demo
    rows: Mapping[str, list[dict[str, Any]]]  # of the suite readers, by task; none without it


@dataclass(frozen=True)
class Task:
    """A task: where its questions come from, and four ways to ask one."""

    name: str
    ask: Callable[[Source, random.Random], Iterator[Question]]
    templates: tuple[str, str, str, str]
    trained: bool = True


def passage(text: str, rng: random.Random) -> str:
    """Some lines or words from a random place of a document."""
    begin = rng.randrange(max(1, len(text) - PASSAGE))
    begin = text.find(" ", begin) + 1 if begin else 0
    return text[begin : begin + PASSAGE].rpartition(" ")[0].strip()


def passages(texts: Texts, rng: random.Random, each: int) -> Iterator[tuple[str, str]]:
    """Yield (domain, passage), the domains in turns."""
    count = each * min(map(len, texts.values()))
    for number in range(count):
        for domain, documents in texts.items():
            if found := passage(documents[number % len(documents)], rng):
                yield domain, found


def kind(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which kind of text a passage is (classification)."""
    names = list(KINDS)
    for domain, text in passages({name: source.texts[name] for name in names}, rng, 4):
        yield Question({"text": text}, tuple(KINDS.values()), names.index(domain))


def language(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask in which programming language a passage is written (classification)."""
    names = list(LANGUAGES)
    for domain, text in passages({name: source.texts[name] for name in names}, rng, 4):
        yield Question({"text": text}, tuple(LANGUAGES.values()), names.index(domain))


def same(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether two passages are of the same kind, half of them are (inference on pairs)."""
    found = list(passages({name: source.texts[name] for name in KINDS}, rng, 3))
    by_domain: dict[str, list[str]] = {name: [] for name in KINDS}
    for domain, text in found:
        by_domain[domain].append(text)
    for domain, text in found:
        alike = rng.random() < 0.5
        other = domain if alike else rng.choice([name for name in KINDS if name != domain])
        second = rng.choice(by_domain[other])
        if second != text:
            cut = PASSAGE // 2
            yield Question({"one": text[:cut], "two": second[:cut]}, ("yes", "no"), 1 - alike)


def glosses(texts: Texts) -> Iterator[tuple[str, str, str]]:
    """Yield (word, part of speech, gloss) of the dictionary."""
    for document in texts["wordnet"]:
        for line in document.splitlines():
            if found := _GLOSS.match(line):
                yield found["words"].split(",")[0], found["part"], found[3].split(";")[0]


def part(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask for the part of speech that a gloss describes, each equally often (QA)."""
    parts = ("noun", "verb", "adjective", "adverb")
    by_part: dict[str, list[str]] = {name: [] for name in parts}
    for _, name, gloss in glosses(source.texts):
        by_part[name].append(gloss)
    count = min(max(map(len, by_part.values())), 400)
    for name, found in by_part.items():
        rng.shuffle(found)
        for gloss in (found * count)[: min(count, 4 * len(found))]:
            yield Question({"gloss": gloss}, parts, parts.index(name))


def word(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask which of three words a gloss describes (QA with choices)."""
    found = list(glosses(source.texts))
    words = sorted({name for name, _, _ in found})
    for name, _, gloss in rng.sample(found, min(len(found), 1500)):
        place = bisect_left(words, name)
        choices = [name, *rng.sample(words[:place] + words[place + 1 :], 2)]
        rng.shuffle(choices)
        fields = {"gloss": gloss, "words": ", ".join(choices)}
        yield Question(fields, tuple(choices), choices.index(name))


def entails(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a thing is of a kind, by the gloss of its name (inference)."""
    labels = list(RELATIONS)
    for row in source.rows["nli"]:
        fields = {"premise": row["premise"], "hypothesis": row["hypothesis"]}
        yield Question(fields, tuple(RELATIONS.values()), labels.index(row["label"]))


def sentiment(source: Source, rng: random.Random) -> Iterator[Question]:
    """Ask whether a sentence of a review is positive (classification)."""
    for row in source.rows["sentiment"]:
        if len(row["support"]) <= PASSAGE:
            yield Question({"text": row["support"]}, tuple(row["choices"]), row["answer"])


TASKS = (
    Task(
        "kind",
        kind,
        (
            "{text}\n\nWhat kind of text is this?",
            "What kind of text is the following?\n{text}\nKind:",
            "Text: {text}\nThis text is of the kind",
            "Read this: {text}\nWhich kind is it? Answer:",
        ),
    ),
    Task(
        "same",
        same,
        (
            "First: {one}\nSecond: {two}\nAre both of the same kind?",
            "{one}\n---\n{two}\n---\nThe same kind of text, yes or no?",
            "Do these two belong together?\n{one}\nand\n{two}\nAnswer:",
            "A: {one}\nB: {two}\nIs B the kind of text that A is? Answer:",
        ),
    ),
    Task(
        "part",
        part,
        (
            "{gloss}\nWhat part of speech is meant?",
            "Part of speech of a word that means: {gloss}\nAnswer:",
            'Someone looks for a word that means "{gloss}". It is of the class',
            "Meaning: {gloss}\nNoun, verb, adjective or adverb? Answer:",
        ),
    ),
    Task(
        "word",
        word,
        (
            "{gloss}\nWhich word means this: {words}?",
            "Words: {words}\nMeaning: {gloss}\nThe word is",
            "Choose from {words}.\n{gloss}:",
            "One of {words} means: {gloss}\nAnswer:",
        ),
    ),
    Task(
        "language",
        language,
        (
            "{text}\n\nWhich programming language is this?",
            "Which language is the following program in?\n{text}\nLanguage:",
            "Program: {text}\nThis program is written in",
            "Read this: {text}\nWhich language is it? Answer:",
        ),
        trained=False,
    ),
)
OF_READERS = (
    Task(
        "nli",
        entails,
        (
            "{premise}\n{hypothesis}\nIs this so: yes, no or maybe?",
            "Given: {premise}\nClaim: {hypothesis}\nDoes the claim follow?",
            "{premise} Does it follow that: {hypothesis} Answer:",
            "Premise: {premise}\nHypothesis: {hypothesis}\nTrue, yes, no or maybe? Answer:",
        ),
    ),
    Task(
        "sentiment",
        sentiment,
        (
            "{text}\n\nIs this review positive or negative?",
            "What is the sentiment of the following review?\n{text}\nSentiment:",
            "Review: {text}\nThis review is",
            "Read this: {text}\nNegative or positive? Answer:",
        ),
        trained=False,
    ),
)


def source_of(split: str, readers: Path | None) -> Source:
    """Read the documents of a split of the demo, and the rows of the suite readers.

    Raises:
        UserError: the suite is not there
    """
    names = sorted({*KINDS, *LANGUAGES})
    texts = {name: list(read(DEMO / name / f"{split}.jsonl.zst", "text")) for name in names}
    rows = {} if readers is None else {name: lines(readers, name, split) for name in ROWS}
    return Source(texts, rows)


def lines(readers: Path, name: str, split: str) -> list[dict[str, Any]]:
    path = readers / name / f"{split}.jsonl"
    if not path.is_file():
        build = "python scripts/build_corpora.py --suite readers"
        raise UserError(f"no {path}; build it: {build} --out {readers}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(split: str, source: Source, tasks: Iterable[Task], most: int) -> list[dict[str, str]]:
    """Ask up to `most` questions of each task that is trained on, the templates in turns."""
    found = []
    for task in tasks:
        if not task.trained:
            continue
        rng = random.Random(f"{split}/{task.name}")
        asked = list(task.ask(source, rng))
        rng.shuffle(asked)
        for number, question in enumerate(asked[:most]):
            template = task.templates[number % HELD_OUT]
            answer = f" {question.choices[question.answer]}"
            found.append({"prompt": template.format(**question.fields), "completion": answer})
    random.Random(split).shuffle(found)
    return found


def write_task(folder: Path, home: Path, task: Task, number: int, source: Source, most: int) -> int:
    """Write the questions of a task under one template for lm-eval; return how many."""
    rng = random.Random(f"test/{task.name}")
    asked = list(task.ask(source, rng))
    rng.shuffle(asked)
    name = f"{task.name}_{number}"
    lines = [
        {
            "context": task.templates[number].format(**question.fields),
            "choices": list(question.choices),
            "answer": question.answer,
        }
        for question in asked[:most]
    ]
    write_lines(folder / f"{name}.jsonl", lines)
    place = json.dumps(str((home / f"{name}.jsonl").resolve()))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {place}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{context}}"\n'
        "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n"
        "- {metric: acc, aggregation: mean, higher_is_better: true}\nmetadata: {version: 1.0}\n"
    )
    return len(lines)


def write_lines(path: Path, found: list[Any]) -> None:
    """Write JSON lines."""
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(words: list[str]) -> None:
    """Build what the command asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("corpora/instructions"))
    parser.add_argument("--most", type=int, default=2000, help="rows of each task and split")
    parser.add_argument("--questions", type=int, default=400, help="of each task and template")
    parser.add_argument("--readers", type=Path, help="the suite readers: two tasks more")
    asked = parser.parse_args(words)
    try:
        write(asked)
    except UserError as error:
        parser.error(str(error))


def write(asked: argparse.Namespace) -> None:
    """Write all files, in one rename."""
    sources = {split: source_of(split, asked.readers) for split in SPLITS}
    tasks = TASKS if asked.readers is None else TASKS + OF_READERS
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    sweep(asked.out.parent)
    with publish_folder(asked.out, replace=True) as folder:
        for split in SPLITS:
            found = rows(split, sources[split], tasks, asked.most)
            write_lines(folder / "instruct" / f"{split}.jsonl", found)
            print(f"{split}: {len(found):,} rows", file=sys.stderr)
        (folder / "tasks").mkdir()
        for task in tasks:
            for number in (0, HELD_OUT):  # a template that is trained on, and one that is not
                count = write_task(
                    folder / "tasks",
                    asked.out / "tasks",
                    task,
                    number,
                    sources["test"],
                    asked.questions,
                )
            print(f"{task.name}: {count:,} questions", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
