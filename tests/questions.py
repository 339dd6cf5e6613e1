"""Prompted data of real text: sentences of the demo, asked to be gone on with."""

import json
from pathlib import Path

import btm.data
from btm.data.documents import read

DEMO = Path(btm.data.__file__).parent / "demo"


def sentences(domain="speeches", n=120):
    """Some sentences of a middling length, each once."""
    found = {}
    for text in read(DEMO / domain / "train.jsonl.zst", "text"):
        for sentence in text.replace("\n", " ").split(". "):
            if 40 <= len(sentence) <= 120:
                found[sentence.strip()] = None
        if len(found) >= n:
            return list(found)[:n]
    raise AssertionError(f"{domain} has only {len(found)} sentences")


def halves(sentence):
    """The two halves of a sentence, cut before a blank."""
    words = sentence.split(" ")
    cut = len(words) // 2
    return " ".join(words[:cut]), " " + " ".join(words[cut:])


def completion(sentence):
    """A row with one completion."""
    first, second = halves(sentence)
    return {"prompt": f"Go on: {first}", "completion": second}


def weighted(sentence, other):
    """A row with two completions of different weights."""
    first, second = halves(sentence)
    answers = [{"text": second, "weight": 0.75}, {"text": halves(other)[1], "weight": 0.25}]
    return {"prompt": f"Go on: {first}", "completions": answers}


def talk(*said):
    """A conversation: a system message, and halves of sentences said by user and assistant."""
    messages = [{"role": "system", "content": "Go on."}]
    for sentence in said:
        first, second = halves(sentence)
        messages.append({"role": "user", "content": first})
        messages.append({"role": "assistant", "content": second.strip()})
    return {"messages": messages}


def rows(domain="speeches"):
    """Rows of all three kinds."""
    found = sentences(domain)
    plain = [completion(each) for each in found[:80]]
    several = [weighted(*pair) for pair in zip(found[80:90], found[90:100], strict=True)]
    return plain + several + [talk(*pair) for pair in zip(found[100:110], found[110:], strict=True)]


def write(path, records):
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
