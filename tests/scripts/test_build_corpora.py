"""The builder as a command, on packages of real text that need no network."""

import json
import os
import subprocess
import sys

import pytest
from folders import ROOT

import build_corpora
import build_demo_suite
from btm.cli import main
from btm.config.checks import check_name
from btm.config.data import DataConfig
from btm.data.prepare import prepare
from btm.data.shards import Suite
from btm.errors import UserError
from suites.audit import audit
from suites.documents import SPLITS, Document, mark
from suites.domains import DOMAINS, SUITES, Domain
from suites.extract import plain
from suites.glosses import WORDNET
from suites.languages import EDITIONS, LANGUAGES
from suites.packages import DEBIAN, NPM, Source, fetch
from suites.reading import read, split
from suites.wordnet import LEXICOGRAPHERS


def quiet(line):
    pass


def domain(name, package):
    return Domain(
        name, f"Title of {name}", "CC0-1.0", (Source(NPM, package, "1.0.0", r"\.txt$", plain),)
    )


@pytest.fixture
def reads(tmp_path, real, package):
    """A training and a novel domain; the second repeats documents of the first, and a page of it in
    its own.
    """
    work = tmp_path / "work"
    speeches = {f"{i}.txt": text for i, text in enumerate(real["speeches"])}
    own = {f"{i}.txt": text for i, text in enumerate(real["novels"])}
    package(work, "speeches", speeches)
    package(
        work,
        "novels",
        own | {f"again{i}.txt": text for i, text in enumerate(real["speeches"][:20])},
    )
    return [read(domain(name, name), work, 10**6, quiet) for name in ("speeches", "novels")]


def documents(folder):
    return {
        split: [
            json.loads(line)["text"]
            for line in (folder / f"{split}.jsonl").read_text().splitlines()
        ]
        for split in SPLITS
    }


def test_the_suites_are_what_the_docs_say():
    assert [(len(s.training), len(s.novel)) for s in SUITES.values()] == [
        *((8, 8), (64, 8), (8, 4), (42 + 13, 4), (45, 0)),
    ]
    for suite in SUITES.values():
        names = [*suite.training, *suite.novel]
        assert len(set(names)) == len(names)
        assert set(names) <= set(DOMAINS) | set(LANGUAGES) | set(LEXICOGRAPHERS)
    assert set(DOMAINS) | set(LANGUAGES) | set(LEXICOGRAPHERS) == {
        name for suite in SUITES.values() for name in (*suite.training, *suite.novel)
    }
    for tag in (*LANGUAGES, *LEXICOGRAPHERS):
        check_name(tag, "domain")
    for name, each in DOMAINS.items():
        check_name(name, "domain")
        assert each.title and each.licence and each.sources
    assert all(
        DOMAINS[name].stands_for for name in (*SUITES["btm16"].training, *SUITES["btm16"].novel)
    )


def sources(name):
    if name in LEXICOGRAPHERS:
        return [WORDNET]
    return DOMAINS[name].sources if name in DOMAINS else EDITIONS


def test_the_suite_that_is_far_apart_reads_no_package_of_another():
    packages = {
        name: {
            source.package for each in (*suite.training, *suite.novel) for source in sources(each)
        }
        for name, suite in SUITES.items()
    }
    packages["demo"] = {
        source.package
        for each in (*build_demo_suite.TRAINING, *build_demo_suite.NOVEL)
        for source in each.sources
    }
    own = packages.pop("far8")
    assert own
    assert not {name: own & others for name, others in packages.items() if own & others}


def test_no_document_stands_twice_and_a_suite_can_be_prepared(reads, tmp_path):
    out = tmp_path / "suite"
    content = build_corpora.publish("btm16", reads, out)
    marks = [
        mark(t)
        for name in content["domains"]
        for texts in documents(out / name).values()
        for t in texts
    ]
    assert len(set(marks)) == len(marks)
    assert content["domains"]["novels"]["dropped"]["duplicates"] > 10
    assert {
        row["domain"]: (row["twice"], row["in_two_splits"], row["near"]) for row in audit(out)
    } == {
        "speeches": (0, 0, 0),
        "novels": (0, 0, 0),
    }
    suite = prepare(DataConfig(name="s", root=str(out), out=str(tmp_path / "data"), vocab_size=512))
    assert (suite.novel("speeches"), suite.novel("novels")) == (False, True)
    for name, about in content["domains"].items():
        assert suite.metas[name]["splits"]["train"]["duplicates_dropped"] == 0
        assert suite.metas[name]["splits"]["test"]["documents"] == about["documents"]["test"]


def test_held_out_text_that_is_trained_on_elsewhere_is_dropped(reads, tmp_path):
    """A test document with a new beginning and end around a page of another domain's training
    text.
    """
    speeches, novels = reads
    stolen = next(text for text in documents(speeches.folder)["train"] if len(text) > 2_000)
    first = documents(novels.folder)["test"][0]
    with (novels.folder / "test.jsonl").open("a") as handle:
        handle.write(json.dumps({"id": "x", "text": f"{first[:300]}\n{stolen}"}) + "\n")
    out = tmp_path / "suite"
    content = build_corpora.publish("btm16", reads, out)
    assert content["domains"]["novels"]["dropped"]["test_leaks"] == 1
    assert not any(stolen in text for text in documents(out / "novels")["test"])


def test_a_domain_of_few_large_groups_still_has_three_splits(real):
    groups = {
        str(i): [
            Document(f"{i}.{j}", text)
            for j, text in enumerate(real["novels"][10 * i : 10 * i + 10])
        ]
        for i in range(6)
    }
    assert all(split(groups, 10**6).values())


def test_the_audit_believes_nobody(reads, tmp_path):
    out = tmp_path / "suite"
    build_corpora.publish("btm16", reads, out)
    trained = documents(out / "speeches")["train"][0]
    with (out / "novels" / "test.jsonl").open("a") as handle:
        handle.write(json.dumps({"text": trained.upper()}) + "\n")
    rows = {row["domain"]: row for row in audit(out)}
    assert (
        rows["speeches"]["in_two_splits"],
        rows["novels"]["in_two_splits"],
        rows["novels"]["near"],
    ) == (
        1,
        1,
        1,
    )
    with pytest.raises(UserError, match="documents in two splits: speeches, novels"):
        build_corpora.check(out)


def test_what_was_read_is_not_read_again_and_a_suite_is_the_same_bytes(reads, tmp_path):
    lines = []
    again = [read(each.domain, tmp_path / "work", 10**6, lines.append) for each in reads]
    assert lines == ["speeches: read already", "novels: read already"]
    one, other = tmp_path / "one", tmp_path / "other"
    assert build_corpora.publish("btm16", reads, one) == build_corpora.publish(
        "btm16", again, other
    )
    for path in one.rglob("*.jsonl"):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()
    assert build_corpora.present("btm16", again, one) is not None
    shorter = [read(each.domain, tmp_path / "work", 10**5, quiet) for each in reads]
    assert build_corpora.present("btm16", shorter, one) is None


def test_nothing_that_is_not_ours_is_replaced(reads, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="no suite of this script"):
        build_corpora.present("btm16", reads, tmp_path / "mine")
    build_corpora.publish("btm16", reads, tmp_path / "suite")
    with pytest.raises(UserError, match="holds other domains"):
        build_corpora.present("btm16", reads[:1], tmp_path / "suite")


def test_a_missing_tool_and_a_missing_package_cost_a_line(tmp_path, monkeypatch):
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    for kind, tool in ((DEBIAN, "apt-get"), (NPM, "npm")):
        with pytest.raises(UserError, match=f"no {tool} on this machine.*apt install"):
            fetch(Source(kind, "hello", "1.0.0", r".", plain), tmp_path / "work", quiet)
    (empty / "npm").write_text("#!/bin/sh\necho npm error code E404 >&2\nexit 1\n")
    (empty / "npm").chmod(0o755)
    with pytest.raises(
        UserError, match=r"hello 1\.0\.0 \(npm\) is not to be had \(npm error code E404\)"
    ):
        fetch(Source(NPM, "hello", "1.0.0", r".", plain), tmp_path / "work", quiet)
    assert not list((tmp_path / "work" / "npm").iterdir())


def test_a_package_that_is_broken_is_named(tmp_path, package):
    path = package(tmp_path, "speeches", {"a.txt": "x"})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(
        UserError, match=r"speeches-1\.0\.0\.tgz: cannot be read .* delete it and run again"
    ):
        read(domain("speeches", "speeches"), tmp_path, 10**6, quiet)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--suite", "btm61"],
            "build_corpora: no suite 'btm61' (did you mean 'btm16'?); have: btm16, d64, far8, readers, roots\n",
        ),
        (["--domains", "bible"], "build_corpora: no domain 'bible' in btm16"),
        (["--domains", "speeches"], "build_corpora: --domains makes a part of a suite"),
    ],
)
def test_mistakes_cost_a_line(words, message, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if words == ["--domains", "bible"]:
        words = [*words, "--out", "x"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "build_corpora.py", *words],
        env=environment,
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("data", ["btm16", "d64", "far8", "roots"])
def test_a_suite_that_is_not_built_costs_a_line_with_the_remedy(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main.main(["prepare", f"data={data}"]) == 2
    assert capsys.readouterr().err == (
        f"btm: no folder corpora/{data}; "
        f"build it: python scripts/build_corpora.py --suite {data} --out corpora/{data}\n"
    )
    with pytest.raises(UserError, match=f"run: btm prepare data={data}$"):
        Suite.open(tmp_path / "data" / data)
