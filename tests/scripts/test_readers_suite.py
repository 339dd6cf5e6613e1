"""The suite `readers` out of packages: a small database in WordNet's format, a wheel, a fixture."""

import json
import random
import subprocess
import zipfile

import pytest

import build_corpora
from btm.errors import UserError
from btm.readers.choices import questions as asked
from btm.readers.links import triples
from btm.readers.spans import squad
from suites import readers
from suites.glosses import database
from suites.graphs import DROPPED, wordnet_graphs
from suites.inference import LABELS, guessed
from suites.wordnet import LEXICOGRAPHERS, blocks, by_domain, deal, split_of, synsets

WORDS = [
    "stone",
    "river",
    "horse",
    "table",
    "winter",
    "garden",
    "market",
    "letter",
    "silver",
    "music",
    "shadow",
    "forest",
]
# One entry as the database has it, with a verb's frames after its pointers.
RUN = (
    "01926311 38 v 01 run(a) 0 002 @ 01835496 v 0000 + 07472929 n 0101 02 + 02 00 + 01 00 | move "
    "fast; \"Don't run--you'll be out of breath\"  "
)


def lines(number, domain, count=36):
    """A tree of sets, each of them related to three others besides what is above it."""
    rng = random.Random(domain)
    kind = domain[0] if domain != "adv_all" else "r"
    first = (number + 1) * 1000
    for i in range(count):
        gloss = " ".join(["a", rng.choice(WORDS), "of", *rng.sample(WORDS, 5), str(first + i)])
        near = [("+", (i + step) % count) for step in (1, 2, 3)]
        near += [("@", (i - 1) // 2)] if i else []
        pointers = " ".join(f"{symbol} {first + to:08} {kind} 0000" for symbol, to in near)
        entry = f"{first + i:08} {number:02} {kind} 01 {domain}_{i} 0 {len(near):03} {pointers}"
        yield f"{entry} | {gloss}  "


def files():
    return ["\n".join(lines(n, name)).encode() for n, name in enumerate(LEXICOGRAPHERS)]


@pytest.fixture(scope="module")
def work(tmp_path_factory, package):
    """The three packages, where downloads would leave them."""
    root = tmp_path_factory.mktemp("readers")
    tree = root / "deb" / "usr/share"
    (tree / "wordnet").mkdir(parents=True)
    (tree / "wordnet/data.noun").write_bytes(b"  1 This software\n" + b"\n".join(files()))
    (tree / "doc/wordnet-base").mkdir(parents=True)
    copyright = "Format: x\n\nFiles: *\nCopyright: some\nLicense: WordNet3.0\n text\n"
    (tree / "doc/wordnet-base/copyright").write_text(copyright)
    control = root / "deb/DEBIAN"
    control.mkdir()
    fields = ("Package: wordnet-base", "Version: 3.0", "Architecture: all", "Maintainer: A <a@b>")
    (control / "control").write_text("\n".join([*fields, "Description: words", ""]))
    (root / "work/debs").mkdir(parents=True)
    target = root / "work/debs/wordnet-base_3.0_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root / "deb"), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    (root / "work/pypi").mkdir()
    with zipfile.ZipFile(root / "work/pypi/pykeen-1.11.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pykeen-1.11.1.dist-info/METADATA", "License: MIT\n")
        for name in ("umls", "nations", "kinships"):
            for split in ("train", "valid", "test"):
                wheel.writestr(f"pykeen/datasets/{name}/{split}.txt", f"a\tr\t{split}\n")
    rows = json.dumps([{"text": f"It is {w}!", "class": i % 2} for i, w in enumerate(WORDS)] + [{}])
    made = package(root, "sentiment", {"test/fixtures/imdb.json": rows, "package.json": "{}"})
    (root / "work/npm").mkdir()
    made.rename(root / "work/npm/sentiment-5.0.2.tgz")
    return root / "work"


def test_an_entry_of_the_database_is_read_as_wndb_says():
    (run,) = synsets([f"  1 licence\n{RUN}\n".encode()]).values()
    assert (run.key, run.domain, run.words) == ("01926311v", "verb_motion", ("run",))
    assert run.definition == "move fast" and run.examples == ("Don't run--you'll be out of breath",)
    assert run.related == (
        ("_hypernym", "01835496v"),
        ("_derivationally_related_form", "07472929n"),
    )


def test_related_sets_go_to_one_split_and_each_split_has_some():
    known = synsets(files())
    domain = by_domain(known)["noun_animal"]
    whole = blocks(domain)
    assert sorted(s.key for block in whole for s in block) == sorted(s.key for s in domain)
    counts = {}
    for split, block in deal(domain):
        counts[split] = counts.get(split, 0) + len(block)
    assert min(counts.values()) >= 2 and counts["train"] > 20
    assert deal(domain) == deal(domain)


@pytest.mark.slow
@pytest.mark.traced
def test_the_suite_is_built_checked_and_read_by_the_readers(work, tmp_path, capsys):
    out, told = tmp_path / "readers", []
    manifest = readers.build(out, work, build_corpora.publish, told.append)
    assert readers.build(out, work, build_corpora.publish, told.append) == manifest
    assert told[-1] == f"{out} is up to date"
    assert len(manifest["packages"]) == 3 and manifest["packages"]["wordnet-base"]["stated"]
    found = readers.check(out)
    assert any("unseen entity" in line for line in found)
    for split in ("train", "valid", "test"):
        for example in squad.read(out / "qa", split):
            for answer in example.answers:
                begin, end = answer.span
                assert example.setting.support[0][begin:end] == answer.text
        assert asked.choices(out / "choice", split)
        assert triples.read(out / "graphs/wn18rr_unseen", split)
    rows = asked.inference(out / "nli", "train")
    assert rows and {row.answers[0].text for row in rows} == set(LABELS)
    (out / "qa/test.json").write_text("{}")
    with pytest.raises(UserError, match=r"qa/test.json is not what was built"):
        readers.check(out)


@pytest.mark.slow
def test_no_triple_of_test_is_of_text_that_is_trained_on(work):
    known = database(work, lambda line: None)
    splits = split_of(by_domain(known))
    graph = wordnet_graphs(known, splits)["wn18rr_unseen"]
    for split in ("train", "valid", "test"):
        for head, relation, tail in graph[split]:
            assert {splits[head], splits[tail]} <= {"train", split}
            assert (split == "train") or split in {splits[head], splits[tail]}
            assert relation not in DROPPED


def test_naive_bayes_guesses_what_a_field_tells():
    rows = [{"a": f"{label} x", "b": "the same", "label": label} for label in LABELS] * 4
    assert guessed(rows, rows, "a") == 1 and guessed(rows, rows, "b") == 1 / 3


def test_a_part_of_the_suite_is_refused(tmp_path):
    import sys

    command = ["--suite", "readers", "--domains", "noun_animal", "--out", str(tmp_path / "x")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["build_corpora", *command])
        with pytest.raises(UserError, match="need the suite as a whole"):
            build_corpora.main()
    assert not (tmp_path / "x").exists()
