"""Five tasks for lm-evaluation-harness, made of the text that a forest has: its test text, or
its valid text where weights are searched (btm/steps/bench/search.py).

    btm_rolling    passages, read from their first word on: perplexity (loglikelihood_rolling)
    btm_next       which of four passages of the same domain goes on here (multiple_choice)
    btm_next_word  the next word of a passage (loglikelihood)
    btm_line_end   the last word of a line and its end, written (generate_until)
    btm_order      two neighbouring sentences, in their order or exchanged (multiple_choice)

No word of them is invented: every passage stands in a test document that no model of the forest
was trained on. Their files lie in ``evals/tasks-<suite>/`` of the forest and depend on the text
alone, so the same text gives the same bytes. lm-eval's own command reads them too
(``--include_path``).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from btm.config.bench import OWN_TAG
from btm.data.shards import Shard, Suite
from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError
from btm.system import durable

Question = dict[str, Any]
Answered = Callable[[np.random.Generator, str, Sequence[str]], Question | None]

_DOCUMENTS = 16  # of each domain that are asked about, spread over its test split
_PASSAGES = 2  # of each that are read from their first word on
_PLACES = 2  # of each that a question is asked about
_LONGEST = 200_000  # tokens of a document that are looked at
_PASSAGE = 2_000  # characters that are read
_CONTEXT = 400  # characters before a question
_ANSWER = 80  # characters of a continuation to choose
_SENTENCE = re.compile(r"\S[^.!?\n]{20,200}(?:[.!?](?=\s)|(?=\n))")
_WORD = re.compile(r"(?<=\S) ([^\W\d_]+)(?=[\s.,;:!?])")
_END_OF_LINE = re.compile(r"(?<=\S) (\S{2,20})\n")


@dataclass(frozen=True)
class TextTask:
    """One of the five: how its questions are made, and what lm-eval is told of it."""

    name: str
    ask: Answered
    places: int  # questions of each document, at most
    settings: str  # YAML


def write(folder: Path, suite: Suite, shards: Sequence[Shard]) -> list[str]:
    """Write the five tasks of `shards` into `folder`, unless they stand there; return their
    names.

    `UserError` for text in which no question can be asked.
    """
    tokenizer = load_tokenizer(suite.tokenizer)
    texts = {shard.domain: list(_documents(shard, tokenizer)) for shard in shards}
    for task in TASKS:
        questions = list(_questions(task, texts))
        if not questions:
            raise UserError(
                f"{task.name}: nothing can be asked of the {shards[0].split} text of "
                f"{', '.join(texts)}: its documents are too short; name other tasks=[…]"
            )
        data = folder / f"{task.name}.jsonl"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions)
        _publish(data, lines)
        _publish(folder / f"{task.name}.yaml", _yaml(task, data, suite, shards))
    return [task.name for task in TASKS]


def _publish(file: Path, text: str) -> None:
    """Write a file, unless the same stands there: a task that is being read is left alone."""
    content = text.encode()
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with durable.publish_file(file) as out:
        out.write(content)


def _documents(shard: Shard, tokenizer: Any) -> Iterator[str]:
    """Decode some documents of a shard, spread over all of it."""
    ends_D = np.cumsum(shard.documents[:, 0], dtype=np.int64)
    wanted = np.unique(np.linspace(0, shard.n_documents - 1, _DOCUMENTS).astype(int))
    for number in wanted:
        start = int(ends_D[number - 1]) if number else 0
        ids = shard.tokens[start : min(int(ends_D[number]), start + _LONGEST)]
        yield tokenizer.decode(
            ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def _questions(task: TextTask, texts: Mapping[str, Sequence[str]]) -> Iterator[Question]:
    """Ask of each document of each domain; which places is a function of their names and number.

    The domains take turns, so that the first questions, as of bench.limit, are of all of them.
    """
    for number in range(max(map(len, texts.values()))):
        for domain, documents in texts.items():
            if number >= len(documents):
                continue
            others = [each for i, each in enumerate(documents) if i != number]
            name = int.from_bytes(f"{task.name}/{domain}".encode())
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([name, number])))
            for _ in range(task.places):
                if (question := task.ask(rng, documents[number], others)) is not None:
                    yield {"domain": domain, "document": number} | question


def _rolling(rng: np.random.Generator, text: str, others: Sequence[str]) -> Question | None:
    """Take a passage that begins and ends with a word."""
    start = _word_start(rng, text, _PASSAGE)
    passage = text[start : start + _PASSAGE].rpartition(" ")[0].strip()
    return {"text": passage} if len(passage) > _ANSWER else None


def _next(rng: np.random.Generator, text: str, others: Sequence[str]) -> Question | None:
    """Cut a text at a word; beside what follows stand pieces of three other documents."""
    if len(text) < _CONTEXT + 2 * _ANSWER or len(others) < 3:
        return None
    begin = _word_start(rng, text, _CONTEXT + 2 * _ANSWER)
    cut = text.find(" ", begin + _CONTEXT)
    if cut < 0:
        return None
    choices = [text[cut : cut + _ANSWER]]
    for each in rng.permutation(len(others))[:3]:
        start = _word_start(rng, others[each], _ANSWER)
        choices.append(" " + others[each][start : start + _ANSWER - 1])
    if len(choices[0].strip()) < _ANSWER // 2 or len({*choices}) < 4:
        return None
    order = rng.permutation(4)
    return {
        "context": text[begin:cut],
        "choices": [choices[i] for i in order],
        "answer": int(np.flatnonzero(order == 0)[0]),
    }


def _next_word(rng: np.random.Generator, text: str, others: Sequence[str]) -> Question | None:
    return _before(rng, text, _WORD)


def _line_end(rng: np.random.Generator, text: str, others: Sequence[str]) -> Question | None:
    return _before(rng, text, _END_OF_LINE)


def _before(rng: np.random.Generator, text: str, pattern: "re.Pattern[str]") -> Question | None:
    """Ask for the word that a `pattern` finds, after all that stands before it."""
    found = [match for match in pattern.finditer(text) if match.start() >= _CONTEXT // 4]
    if not found:
        return None
    match = found[int(rng.integers(len(found)))]
    begin = max(0, match.start() - _CONTEXT)
    if begin:
        begin = text.find(" ", begin) + 1  # not within a word
    if begin >= match.start():
        return None
    return {"context": text[begin : match.start()], "word": match.group(1)}


def _order(rng: np.random.Generator, text: str, others: Sequence[str]) -> Question | None:
    """Exchange two neighbouring sentences, or lines; what stands between them stays there."""
    triples = [
        (one.group(), text[one.end() : two.start()], two.group())
        for one, two in pairwise(_SENTENCE.finditer(text))
    ]
    fit = [(one, gap, two) for one, gap, two in triples if gap.isspace() and one != two]
    if not fit:
        return None
    one, gap, two = fit[int(rng.integers(len(fit)))]
    return {"right": one + gap + two, "exchanged": two + gap + one}


def _word_start(rng: np.random.Generator, text: str, room: int) -> int:
    """Choose where a word begins, with `room` characters after it if the text has so many."""
    last = max(0, len(text) - room)
    start = int(rng.integers(last + 1))
    return text.find(" ", start) + 1 if start else 0


def _yaml(task: TextTask, data: Path, suite: Suite, shards: Sequence[Shard]) -> str:
    """Describe a task to lm-eval; JSON texts are YAML."""
    text = ", ".join(f"{shard.domain}: {shard.sha256[:16]}" for shard in shards)
    return (
        f"# Made by btm of {shards[0].split} text of the suite {suite.name}.\n"
        f"task: {task.name}\n"
        f"tag: {OWN_TAG}\n"
        "dataset_path: json\n"
        "dataset_kwargs:\n"
        f"  data_files: {{test: {json.dumps(str(data.resolve()))}}}\n"
        "test_split: test\n"
        f"{task.settings}"
        f"metadata: {{version: 1.0, text: {{{text}}}}}\n"
    )


_ACCURACY = "- {metric: acc, aggregation: mean, higher_is_better: true}\n"

TASKS = (
    TextTask(
        "btm_rolling",
        _rolling,
        _PASSAGES,
        "output_type: loglikelihood_rolling\n"
        'doc_to_text: ""\n'
        'doc_to_target: "{{text}}"\n'
        "metric_list:\n"
        "- {metric: bits_per_byte, higher_is_better: false}\n"
        "- {metric: byte_perplexity, higher_is_better: false}\n"
        "- {metric: word_perplexity, higher_is_better: false}\n",
    ),
    TextTask(
        "btm_next",
        _next,
        _PLACES,
        "output_type: multiple_choice\n"
        'doc_to_text: "{{context}}"\n'
        "doc_to_choice: choices\n"
        "doc_to_target: answer\n"
        'target_delimiter: ""\n'
        f"metric_list:\n{_ACCURACY}",
    ),
    TextTask(
        "btm_next_word",
        _next_word,
        _PLACES,
        "output_type: loglikelihood\n"
        'doc_to_text: "{{context}}"\n'
        # lm-eval puts its delimiter before choices alone, not before this kind of target.
        "doc_to_target: \"{{' ' + word}}\"\n"
        f"metric_list:\n{_ACCURACY}"
        "- {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n",
    ),
    TextTask(
        "btm_line_end",
        _line_end,
        _PLACES,
        "output_type: generate_until\n"
        'doc_to_text: "{{context}}"\n'
        'doc_to_target: "{{word}}"\n'
        'generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 16}\n'
        "filter_list:\n"
        "- {name: none, filter: [{function: remove_whitespace}, {function: take_first}]}\n"
        "metric_list:\n"
        "- {metric: exact_match, aggregation: mean, higher_is_better: true}\n",
    ),
    TextTask(
        "btm_order",
        _order,
        _PLACES,
        "output_type: multiple_choice\n"
        'doc_to_text: ""\n'
        'doc_to_choice: "{{[right, exchanged]}}"\n'
        "doc_to_target: 0\n"
        'target_delimiter: ""\n'
        f"metric_list:\n{_ACCURACY}",
    ),
)
