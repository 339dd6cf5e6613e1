"""A suite `readers` of made-up words, as small as its prompts allow."""

import json

from suites.prompts_of_words import NOUNS, VERBS


def write_rows(file, rows):
    """Write JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


RELATIONS = (
    *("_hypernym", "_has_part", "_synset_domain_topic_of", "_instance_hypernym", "_similar_to"),
    "_derivationally_related_form",
)


def write(root):
    """A suite `readers` of made-up words, of a few rows each."""
    entities, triples = [], []
    for split in ("train", "valid", "test"):
        labels = ("entailment", "neutral", "contradiction")
        pairs = [
            {"premise": f"{split} {n}.", "hypothesis": "It is.", "label": label}
            for n, label in enumerate(labels)
        ]
        write_rows(root / "nli" / f"{split}.jsonl", pairs)
        choices = ["negative", "positive"]
        reviews = [
            {"support": "x" * length, "choices": choices, "answer": 1} for length in (9, 161)
        ]
        write_rows(root / "sentiment" / f"{split}.jsonl", reviews)
        for category in (*NOUNS, *VERBS):
            words = [f"{category}{number}{split}".replace("_", "") for number in "abcdefgh"]
            text = "\n".join(f'{w}, {w}ly: what is {w}; "we saw a {w} there"' for w in words)
            write_rows(root / "text" / category / f"{split}.jsonl", [{"text": text}])
        for relation in RELATIONS:
            for n in range(6):
                head, tail = (f"{split}{relation}{n}{end}" for end in "ht")
                entities += [
                    f"{key}\tword {key}\tnoun_food\twhat it is; or not" for key in (head, tail)
                ]
                triples.append(f"{head}\t{relation}\t{tail}")
        file = root / "graphs/wn18rr" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*triples, "gone\t_hypernym\tgone"]))
        triples.clear()
        context = " ".join(f"{split}{n}: a thing of {n}." for n in range(5))
        asked = [
            {
                "id": f"{kind}-1",
                "question": "Which is a thing of 3?",
                "answers": [{"text": f"{split}3"}],
            }
            for kind in ("word", "kind", "meaning")
        ]
        titles = [{"title": "all", "paragraphs": [{"context": context, "qas": asked}]}]
        (root / "qa").mkdir(exist_ok=True)
        (root / "qa" / f"{split}.json").write_text(json.dumps({"data": titles}))
    (root / "graphs/entities.tsv").write_text("\n".join(entities))
    (root / "manifest.json").write_text("{}")
