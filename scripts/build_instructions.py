#!/usr/bin/env python3
"""Build prompted data of the embedded demo suite's text: rows to train on, tasks to measure with.

Of each task there are four templates, of which the last is never trained on, and one task is not
trained on at all. Nothing is invented but the templates: passages, words and glosses stand in the
demo's documents, and those of valid and test rows in its valid and test splits. Two runs write the
same bytes. With --readers there are 40 tasks to train on, made of the suite `readers` too, two
that are held out (the programming language, and the sentiment of reviews), and passages that go
on without a question. Its sources split WordNet differently: a row to train on that shares eight
words in a row with a test question of any task, or a whole text of four or more, is left out.
With --language the text is that of the suite `roots`, and templates and answers are in that
language (one of en, es, fr, id, pt).

    OUT/instruct/{train,valid,test}.jsonl    {"prompt", "completion"}: data.format=prompted
    OUT/tasks/<task>_<template>.{jsonl,yaml} questions of test text with their choices, for btm bench

Example:
    python scripts/build_instructions.py --out corpora/instructions
    python scripts/build_instructions.py --out corpora/instructions --readers corpora/readers
    python scripts/build_instructions.py --out corpora/instructions-es --language es --roots corpora/roots

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
import itertools
import json
import random
import sys
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import btm.data
from btm.data.documents import read
from btm.errors import UserError
from btm.system.durable import publish_folder, sweep
from btm.system.json_files import Json
from suites import json_lines
from suites.documents import SPLITS
from suites.prompts import KINDS, LANGUAGES, TASKS, Question, Source, Task
from suites.prompts_by_language import ASKED, PROGRAMS, tasks_in
from suites.prompts_of_text import LANGUAGE, OF_TEXT, PROSE, going_on
from suites.prompts_of_words import OF_WORDS, SENTIMENT
from suites.prompts_rows import read_rows

DEMO = Path(btm.data.__file__).parent / "demo"
OF_DEMO = (
    "kind",
    "same",
    "word",
)  # the readers have parts of speech that the demo's test text lacks
DOZENS = (
    *(task for task in TASKS if task.name in OF_DEMO),
    *(*OF_WORDS, *OF_TEXT),
    *(LANGUAGE, SENTIMENT),
)
HELD_OUT = 3  # the number of the template that is not trained on
RUN = 8  # words in a row that a trained row shares with no test question


def source_of(split: str, asked: argparse.Namespace) -> Source:
    """Read the documents of a split, and the rows of the suite readers, if they are asked for.

    Raises:
        UserError: a suite is not there
    """
    if asked.language:
        found = {name: lines(asked.roots, "roots", name, split) for name in (*ASKED, *PROGRAMS)}
        return Source({name: [row["text"] for row in rows] for name, rows in found.items()}, {})
    names = sorted({*KINDS, *LANGUAGES, *PROSE, "jargon"})
    texts = {name: list(read(DEMO / name / f"{split}.jsonl.zst", "text")) for name in names}
    return Source(texts, of_readers(asked.readers, split) if asked.readers else {})


def of_readers(root: Path, split: str) -> dict[str, list[Json]]:
    """Read a split of the suite `readers`; `UserError` with how to build it."""
    try:
        return read_rows(root, split)
    except OSError as error:
        raise missing(error.filename, "readers", root) from None


def missing(path: object, suite: str, root: Path) -> UserError:
    build = f"python scripts/build_corpora.py --suite {suite} --out {root}"
    return UserError(f"no {path}; build it: {build}")


def lines(root: Path, suite: str, name: str, split: str) -> list[Json]:
    """Read the rows of <root>/<name>/<split>.jsonl; `UserError` with how to build the suite."""
    path = root / name / f"{split}.jsonl"
    if not path.is_file():
        raise missing(path, suite, root)
    return json_lines.read(path)


def questions(task: Task, split: str, source: Source) -> list[Question]:
    """Return all questions of a task about the text of a split, in random order."""
    rng = random.Random(f"{split}/{task.name}")
    asked = list(task.ask(source, rng))
    rng.shuffle(asked)
    return asked


def runs(question: Question) -> Iterator[str]:
    """Yield the texts of a question that no trained row may have: every `RUN` words in a row, and
    shorter texts of four words or more as a whole.
    """
    shown = {"options", "lines"}  # of the choices
    texts = [text for name, text in question.fields.items() if name not in shown]
    for text in (*texts, *question.choices):
        words = text.split()
        if len(words) >= 4:
            for begin in range(max(1, len(words) - RUN + 1)):
                yield " ".join(words[begin : begin + RUN])


def rows(
    split: str, source: Source, tasks: Iterable[Task], most: int, tested: Set[str]
) -> list[dict[str, str]]:
    """Ask up to `most` questions of each task that is trained on, the templates in turns.

    Questions that share `runs` with those that are tested are left out.
    """
    found = []
    for task in tasks:
        if not task.trained:
            continue
        asked = (
            question
            for question in questions(task, split, source)
            if not any(run in tested for run in runs(question))
        )
        for number, question in enumerate(itertools.islice(asked, most)):
            template = task.templates[number % HELD_OUT]
            answer = f" {question.choices[question.answer]}"
            found.append({"prompt": template.format(**question.fields), "completion": answer})
    if source.rows:
        found += list(itertools.islice(going_on(source, random.Random(split)), 2 * most))
    random.Random(split).shuffle(found)
    return found


def write_task(folder: Path, home: Path, task: Task, number: int, asked: list[Question]) -> None:
    """Write the questions of a task under one template for lm-eval."""
    name = f"{task.name}_{number}"
    lines = [
        {
            "context": task.templates[number].format(**question.fields),
            "choices": list(question.choices),
            "answer": question.answer,
        }
        for question in asked
    ]
    json_lines.write(folder / f"{name}.jsonl", lines)
    place = json.dumps(str((home / f"{name}.jsonl").resolve()))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {place}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{context}}"\n'
        "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n"
        "- {metric: acc, aggregation: mean, higher_is_better: true}\nmetadata: {version: 1.0}\n"
    )


def main(words: list[str]) -> None:
    """Build what the command asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("corpora/instructions"))
    parser.add_argument("--most", type=int, default=2000, help="rows of each task and split")
    parser.add_argument("--questions", type=int, default=400, help="of each task and template")
    parser.add_argument("--readers", type=Path, help="the suite readers: 40 tasks")
    parser.add_argument("--language", choices=ASKED, help="ask in it, about the suite roots")
    parser.add_argument("--roots", type=Path, default=Path("corpora/roots"))
    asked = parser.parse_args(words)
    if asked.language and asked.readers:
        parser.error("--readers is in English: it has no --language")
    try:
        write(asked)
    except UserError as error:
        parser.error(str(error))


def write(asked: argparse.Namespace) -> None:
    """Write all files, in one rename."""
    sources = {split: source_of(split, asked) for split in SPLITS}
    tasks = DOZENS if asked.readers else TASKS
    if asked.language:
        tasks = tasks_in(asked.language)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    sweep(asked.out.parent)
    test = {task: questions(task, "test", sources["test"])[: asked.questions] for task in tasks}
    tested = set()
    if asked.readers:  # elsewhere all tasks are of the same documents, which are split once
        tested = {run for task in tasks for question in test[task] for run in runs(question)}
    with publish_folder(asked.out, replace=True) as folder:
        for split in SPLITS:
            left_out = set() if split == "test" else tested
            found = rows(split, sources[split], tasks, asked.most, left_out)
            json_lines.write(folder / "instruct" / f"{split}.jsonl", found)
            print(f"{split}: {len(found):,} rows", file=sys.stderr)
        (folder / "tasks").mkdir()
        for task in tasks:
            for number in (0, HELD_OUT):  # a template that is trained on, and one that is not
                write_task(folder / "tasks", asked.out / "tasks", task, number, test[task])
            print(f"{task.name}: {len(test[task]):,} questions", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
