"""Folders as other people lay them out: through the command, what it says and what it writes."""

import json
import os
import re
import shlex

import numpy as np
import pytest

from btm.cli import main
from btm.config.choices import SPLITS
from btm.config.data import DataConfig, check_data
from btm.data.domain_names import propose
from btm.data.domains import find
from btm.data.shards import Suite
from btm.data.split_names import split_of
from btm.data.splits import hash_bytes
from btm.data.suite_file import About
from btm.errors import UserError

HERE = "one two three"


def texts(tag, n=30):
    """Documents that stand nowhere else."""
    return [
        f"{tag} {i}: heard in the court of {tag}, on page {i * 7} of {tag} {i}." for i in range(n)
    ]


def write_parquet(path, documents):
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": documents}), path)


def digests(documents):
    return {hash_bytes(text.encode()) for text in documents}


@pytest.fixture
def btm(tmp_path, capsys):
    """A function that runs `btm prepare` of tmp_path/texts and returns the exit code and what is said."""

    def prepare(*words):
        own = {"data.root": tmp_path / "texts", "data.out": tmp_path / "out", "data.name": "mine"}
        own |= {"forest": tmp_path / "forest", "data.vocab_size": 300, "data.workers": 1}
        code = main.main(["prepare", "data=folder", *(f"{k}={v}" for k, v in own.items()), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return prepare


@pytest.fixture
def packed(tmp_path):
    """A function that reads the digests of the documents that a split on disk holds."""

    def read(domain, split):
        return set(np.fromfile(tmp_path / f"out/mine/{domain}/{split}.docs", "<u8").tolist())

    return read


@pytest.fixture
def place(tmp_path, jsonl):
    """A function that writes documents as JSON lines below tmp_path/texts."""
    return lambda name, documents=(HERE,): jsonl(tmp_path / "texts" / name, list(documents))


def test_the_hubs_shards_are_the_splits_that_they_are_named_after(tmp_path, btm, packed, place):
    train, valid, test = texts("train", 60), texts("validation"), texts("test")
    law = tmp_path / "texts/law"
    write_parquet(law / "data/train-00000-of-00002-a1b2c3d4e5f60718.parquet", train[:30])
    write_parquet(law / "data/train-00001-of-00002-0123456789abcdef.parquet", train[30:])
    write_parquet(law / "data/validation-00000-of-00001.parquet", valid)
    write_parquet(law / "data/test-00000-of-00001.parquet", test)
    (law / "README.md").write_text("# A dataset card")
    place("c4/c4-train.00000-of-00001.jsonl.gz", texts("c4"))
    place("c4/c4-validation.00000-of-00001.jsonl.gz", texts("c4v"))
    place("c4/c4-test.00000-of-00001.jsonl.gz", texts("c4t"))
    code, _, err = btm()
    assert code == 0 and "about the text 1 (law/README.md)" in err
    for domain, named in (
        ("law", (train, valid, test)),
        ("c4", (texts("c4"), texts("c4v"), texts("c4t"))),
    ):
        for split, documents in zip(SPLITS, named, strict=True):
            assert packed(domain, split) == digests(documents)
    meta = json.loads((tmp_path / "out/mine/law/meta.json").read_text())
    assert meta["source_files"][0]["file"].startswith("data/train-00000")


def test_a_folder_of_licences_is_a_domain_and_a_page_of_its_name_is_not(
    tmp_path, btm, packed, place
):
    for name in ("licences", "authors"):
        place(f"{name}/part.jsonl", texts(name))
    (tmp_path / "texts/LICENSE").write_text("Apache")
    code, _, err = btm()
    assert code == 0 and "about the text 1 (LICENSE)" in err
    for name in ("licences", "authors"):
        assert set().union(*(packed(name, split) for split in SPLITS)) == digests(texts(name))


@pytest.mark.parametrize(("held_out", "drawn"), [("test", "valid"), ("dev", "test")])
def test_a_split_that_no_file_names_is_drawn_from_train_alone(held_out, drawn, btm, packed, place):
    named = texts("named")
    place("law/train.jsonl", [*texts("train", 60), *named[:5]])
    place(f"law/{held_out}.jsonl", named)
    code, out, _ = btm("--json")
    assert code == 0
    assert json.loads(out)[0]["split"] == f"its own; {drawn} from train, by document"
    kept = "valid" if held_out == "dev" else held_out
    assert packed("law", kept) == digests(named)
    assert packed("law", drawn) and packed("law", drawn) < digests(texts("train", 60))
    assert packed("law", "train") == digests(texts("train", 60)) - packed("law", drawn)
    before = packed("law", drawn)
    place("law/train.jsonl", [*reversed(texts("train", 60)), *named[:5]])
    assert btm()[0] == 0 and packed("law", drawn) == before, "drawn by the text, not its order"


def test_a_text_file_named_train_is_split_within(btm, packed, place, tmp_path, verses):
    place("law/test.jsonl", verses[:4])
    (tmp_path / "texts/law/train.TXT").write_text("\n\n".join(verses[4:]))
    code, out, _ = btm("--json")
    assert code == 0
    assert json.loads(out)[0]["split"] == "its own; valid from train, within its file"
    assert packed("law", "test") == digests(text.strip() for text in verses[:4])


LAYOUTS = {
    "wikitext": {"train": ["wiki.train.jsonl"], "valid": ["wiki.valid.jsonl"], "test": ["wiki.test.jsonl"]},
    "folders": {"train": ["train/a.jsonl", "train/b.jsonl"], "valid": ["val/a.jsonl"], "test": ["TEST/a.jsonl"]},
    "librispeech": {"train": ["train-clean-100/a.jsonl", "train-other/b.jsonl"], "valid": ["dev-clean/a.jsonl"], "test": ["test-clean/a.jsonl"]},
    "camel": {"train": ["trainingSet.jsonl"], "valid": ["lawVal.jsonl"], "test": ["testing_2.jsonl"]},
    "deep": {"train": ["en/v1/train-0.jsonl", "en/v1/train-1.jsonl"], "valid": ["en/v1/dev.jsonl"], "test": ["en/v1/test.jsonl"]},
    "train alone": {"train": ["train.0-of-2.jsonl", "train.1-of-2.jsonl"]},
    "a pool": {"": ["a.jsonl", "contest.jsonl", "latest.jsonl", "sub/deeper/b.jsonl", "training-manual.jsonl"]},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_as_their_names_say(layout, place, tmp_path):
    for files in LAYOUTS[layout].values():
        for file in files:
            place(f"law/{file}")
    (source,) = find(tmp_path / "texts")
    found = {
        split: [path.relative_to(tmp_path / "texts/law").as_posix() for path in paths]
        for split, paths in source.files.items()
    }
    assert found == LAYOUTS[layout]


def test_names_of_splits():
    assert [
        split_of(name) for name in ("train2", "DevSet", "x.val.y", "validation_1", "a-test")
    ] == [*("train", "valid", "valid", "valid", "test")]
    assert not any(
        map(split_of, ("latest", "train-test-split", "testimony", "training-day", "evaluate"))
    )


UNCLEAR = {
    "neither": (["law/train.a", "law/test.a", "law/x.a"], "x.a: is neither train, valid nor test"),
    "the odd one": (["law/a.a", "law/b.a", "law/c_test.a"], "c_test.a: is of the test split by its name"),
    "eval": (["law/train.a", "law/eval.a"], "eval.a: is neither train"),
    "both": (["law/test/train.a", "law/train/b.a"], "is named both test and train"),
    "two words": (["law/train.a", "law/dev.a", "law/val.a"], "val.a: dev.a is the valid split already"),
    "two formats": (["law/train.a", "law/train.b"], "is the train split already"),
    "no train": (["law/valid.a", "law/test.a"], "no train split beside"),
    "unread test": (["law/train.a", "law/test.zip"], r"test.zip: is of the test split .* not read \(.zip\)"),
    "side by side": (["law_train.a", "law_test.a"], r"are splits of one domain .* \(law/\)"),
    "a test beside": (["law.a", "law-test-2.a"], "are splits of one domain"),
    "shards at the top": (["train-00000-of-00001.a", "x.a"], "is one domain, as it has train-00000"),
    "folders at the top": (["train/x.a", "test/x.a"], "is one domain, as it has test, train"),
    "a shard at the top": (["law-00000-of-00002.a"], r"a shard .* folder .*\(law/\).*names=\{law-00000-of-00002: law\}"),
    "folders of domains": (["x/law/train.a", "x/law/test.a", "x/med/train.a", "x/med/test.a"], "x: law, med each have splits .* data.root must be"),
    "a domain called test": (["law/x.a", "test/x.a"], r"data.names=\{test: NAME\}"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_says_nothing_clear_is_refused_in_a_line_and_nothing_is_written(
    case, btm, place, tmp_path
):
    files, message = UNCLEAR[case]
    for file in files:
        place(re.sub(r"\.b$", ".ndjson", re.sub(r"\.a$", ".jsonl", file)), texts(file))
    code, out, err = btm()
    assert code == 2 and not out
    assert re.search(message.replace(".a", ".jsonl"), err) and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_are_left_out_of_account_on_demand(btm, place, packed):
    place("law/a.jsonl", texts("a", 60))
    place("law/turing-test.jsonl", texts("t", 5))
    assert btm()[0] == 2
    code, out, _ = btm("data.splits=pool", "--json")
    assert code == 0 and json.loads(out)[0]["split"] == "by document"
    everything = set().union(*(packed("law", split) for split in SPLITS))
    assert everything == digests(texts("a", 60) + texts("t", 5))


def test_domains_that_are_called_as_splits_are_meant_where_their_names_are_given(
    btm, place, tmp_path
):
    place("web.jsonl", texts("w"))
    place("web_dev.jsonl", texts("d"))
    code, _, err = btm()
    assert code == 2
    assert btm(shlex.split(err)[-1])[0] == 0, "the words of the error"
    assert (tmp_path / "out/mine/web_dev/meta.json").exists()
    for split in SPLITS:
        place(f"test/{split}.jsonl", texts(split))
    assert btm("data.names={web_dev: web_dev}")[0] == 0, "a folder of splits is a domain, test too"


def test_what_is_not_read_is_named_counted_and_refused_on_demand(btm, place, tmp_path):
    place("law/a.jsonl", texts("a"))
    for number in range(12):
        place(f"law/{number:02}.docx")
    (tmp_path / "texts/law/stats.csv").write_text("n,share\n1,2\n")
    (tmp_path / "texts/law/meta.json").write_text('{"license": "MIT"}')
    place("med.pdf")
    place("law/sub/shards-00001-of-00004.jsonl", texts("b"))
    code, _, err = btm("data.unread=refuse")
    assert code == 2 and err.count("\n") == 1 and "law: 14 of 16 files are not read" in err
    assert not (tmp_path / "out").exists()
    code, out, err = btm()
    assert code == 0
    assert "law: one domain of the files in ., sub" in err
    assert "law: only 1 of the 4 shards shards-*-of-00004.jsonl are there" in err
    assert "1 files beside the domains are not read: .pdf 1 (med.pdf)" in err
    line = next(line for line in err.splitlines() if line.startswith("law: 14 of 16"))
    assert ".docx 12 (law/00.docx, " in line and "law/09.docx, …)" in line
    assert ".json without 'text' 1 (law/meta.json)" in line
    assert "tables without 'text' 1 (law/stats.csv)" in line
    assert "not read beside the domains: .pdf 1" in out
    code, out, _ = btm("--json")
    assert json.loads(out)[0]["unread"].startswith(".docx 12, ")
    assert ".docx 12" in btm("--dry-run")[1]


def test_pointers_of_git_lfs_are_no_text(btm, place, tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 1234567\n"
    place("law/train.jsonl", texts("a"))
    (tmp_path / "texts/law/test.txt").write_text(pointer)
    code, _, err = btm()
    assert code == 2 and "law/test.txt is a git-LFS pointer" in err and "git lfs pull" in err
    assert btm("data.ignore=[test.txt]")[0] == 0


def test_odd_names_stay_in_a_line_that_ends(btm, place):
    place("law/a.jsonl", texts("a"))
    place("law/line\nbreak.doc")
    place("law/No. 5, revised and enlarged")
    place("law/notes")
    for number in range(14):
        place(f"law/x.t{number}")
    code, _, err = btm()
    (line,) = (line for line in err.splitlines() if line.startswith("law: 17 of 18 files"))
    assert code == 0 and "line\\nbreak.doc" in line and " and 6 more kinds" in line
    assert "without ending 2 (law/No. 5, revised and enlarged, law/notes)" in line


def test_a_domain_of_which_nothing_can_be_read_is_refused_with_what_is_there(btm, place, tmp_path):
    place("law/a.jsonl", texts("a"))
    place("med/x.md", texts("m"))
    place("med/y.pdf")
    (tmp_path / "texts/empty").mkdir()
    code, _, err = btm("data.ignore=[empty]")
    assert code == 2 and "med: no document; there are .md 1 (x.md), .pdf 1 (y.pdf)" in err
    assert "data.ignore=[med]" in err and "data.text_endings=[.md]" in err
    assert btm("data.ignore=[med]")[0] == 2, "an empty folder is a domain that misses its text"
    assert btm("data.ignore=[med,empty]")[0] == 0
    code, _, err = btm("data.ignore=[emty,med,empty]")
    assert code == 2 and "nothing is called 'emty'" in err and "'empty'" in err
    code, _, err = btm("data.ignore=[med,empty]", "data.text_endings=[.JSON]")
    assert code == 2 and "such files are read already" in err
    (tmp_path / "texts/med/x.md").write_text("\n\n".join(text * 100 for text in texts("m")))
    code, _, err = btm("data.ignore=[empty]", "data.text_endings=[.md]")
    assert code == 0 and "med: 1 of 2 files are not read: .pdf 1 (med/y.pdf)" in err


def test_litter_hidden_folders_and_links_stop_nothing(btm, place, tmp_path, packed):
    root = tmp_path / "texts"
    place("law/a.jsonl", texts("a"))
    place("law/sub/b.jsonl", texts("b"))
    place("__MACOSX/law/._a.jsonl")
    place("law/.ipynb_checkpoints/a.jsonl")
    place("Thumbs.db")
    (root / "lost+found").mkdir(mode=0)
    (root / "gone").symlink_to("/mnt/nowhere")
    (root / "law/gone.jsonl").symlink_to("nowhere.jsonl")
    (root / "self").symlink_to(".")
    (root / "law/sub/up").symlink_to("../..")
    (root / "law/round").symlink_to("round")
    (root / "aside").symlink_to(tmp_path / "elsewhere")
    place("../elsewhere/c.jsonl", texts("c"))
    os.mkfifo(root / "law/pipe")
    code, _, err = btm()
    assert code == 0
    assert "law: 3 of 5 files are not read: dangling links 2 (law/gone.jsonl, law/round)" in err
    assert "special files 1 (law/pipe)" in err
    assert "1 files beside the domains are not read: dangling links 1 (gone)" in err
    assert "litter 3 (Thumbs.db, __MACOSX, lost+found)" in err
    assert "hidden 1 (law/.ipynb_checkpoints)" in err
    assert "links to a folder that is read already 2 (self, law/sub/up)" in err
    everything = set().union(*(packed("law", split) for split in SPLITS))
    assert everything == digests(texts("a") + texts("b"))
    assert packed("aside", "train") < digests(texts("c"))


def test_files_without_endings_are_read_on_demand(btm, tmp_path):
    for number, text in enumerate(texts("mail")):
        file = tmp_path / f"texts/mail/inbox/alt.{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    code, _, err = btm()
    assert code == 2 and "without ending 30" in err and "data.text_endings=[none]" in err
    code, out, _ = btm("data.text_endings=[none]", "--json")
    assert code == 0 and json.loads(out)[0]["split"] == "by file, 30 files"


def test_a_link_in_place_of_a_split_is_no_split_that_is_missing(btm, place, tmp_path):
    place("law/train/a.jsonl", texts("a"))
    place("law/valid/a.jsonl", texts("b"))
    (tmp_path / "texts/law/test").symlink_to("valid")
    code, _, err = btm()
    assert (
        code == 2 and "law/test: is of the test split by its name, and is not read (links to" in err
    )
    (tmp_path / "texts/law/test").unlink()
    (tmp_path / "texts/law/test").symlink_to(tmp_path / "kept")
    place("../kept/a.jsonl", texts("c"))
    assert btm()[0] == 0, "a link that leads elsewhere is followed"


def test_names_that_are_none_come_with_the_words_that_mend_them(btm, place, tmp_path):
    for name in ("Law.jsonl", "C++/a.jsonl", "-draft/a.jsonl", "pub_med.jsonl"):
        place(name, texts(name))
    code, _, err = btm()
    assert code == 2 and err.count("\n") == 1
    names, ignore = (
        shlex.split(err)[i].rstrip(",") for i in (_at(err, "names"), _at(err, "ignore"))
    )
    assert names == "data.names={-draft: draft, C++: c, Law: law}"
    assert ignore == "data.ignore=[-draft,C++,Law.jsonl]"
    assert btm(names)[0] == 0
    assert {each.name for each in (tmp_path / "out/mine").iterdir()} == {
        *("c", "draft", "law", "pub_med", "tokenizer")
    }
    code, _, err = btm(ignore)
    assert code == 0 and "law: its source is gone" in err
    code, _, err = btm("data.names={Lwa: law}", "data.ignore=[C*,-draft]")
    assert code == 2 and "no folder or file 'Lwa'" in err


def _at(line, key):
    return next(i for i, word in enumerate(shlex.split(line)) if word.startswith(f"data.{key}="))


def test_proposed_names_are_valid_and_differ():
    proposed = {
        "PubMed Central": "pubmed_central",
        "pubmed central": "pubmed_central_2",
        "日本": "domain",
        "한국": "domain_2",
        "Straße & Co.": "strasse_co",
        "x" * 80: "x" * 63,
        "..": "domain_3",
        "Été": "ete",
    }
    taken = []
    for name in proposed:
        taken.append(propose(name, taken))
    assert taken == list(proposed.values())


def test_suite_json_may_call_domains_as_their_folders_are_called(btm, place, tmp_path):
    place("PubMed/a.jsonl", texts("p"))
    place("law.jsonl", texts("l"))
    place("old.jsonl", texts("o"))
    novel = {"PubMed": {"novel": True}, "law": {}, "old.jsonl": {"novel": True}}
    (tmp_path / "texts/suite.json").write_text(json.dumps({"domains": novel}))
    code, out, _ = btm("data.names={PubMed: pubmed}", "data.ignore=[old.jsonl]", "--json")
    assert code == 0
    assert {row["domain"]: row["novel"] for row in json.loads(out)} == {
        "law": False,
        "pubmed": True,
    }
    (tmp_path / "texts/suite.json").write_text(json.dumps({"domains": novel | {"pubmed": {}}}))
    code, _, said = btm("data.names={PubMed: pubmed}", "data.ignore=[old.jsonl]")
    assert code == 2 and "lists a domain under two names" in said and "PubMed" in said


def test_suite_json_states_languages_and_sources_for_cards(btm, place, tmp_path):
    place("law.jsonl", texts("l"))
    place("zu.jsonl", texts("z"))
    said = tmp_path / "texts/suite.json"
    sources = [{"name": "Contracts", "license": "cc-by-4.0", "url": "https://example.org/"}]
    about = {"law": {"languages": ["en", "pt-BR"], "sources": sources}, "zu": {}}
    said.write_text(json.dumps({"domains": about}))
    assert btm()[0] == 0
    [suite] = {file.parents[1] for file in tmp_path.rglob("meta.json")}
    assert Suite.open(suite).about("law") == About(False, ["en", "pt-BR"], sources)
    assert Suite.open(suite).about("zu") == About()
    assert "changed" not in "".join(btm()[1:])
    about["zu"]["languages"] = ["zu"]
    said.write_text(json.dumps({"domains": about}))
    code, *told = btm()
    assert code == 0 and "zu: reading (changed: card)" in "".join(told)
    assert "law: reading" not in "".join(told)
    assert Suite.open(suite).about("zu") == About(languages=["zu"])
    for wrong, complaint in (
        ({"languages": "zu"}, "zu.languages=zu: wanted [en, …]"),
        ({"languages": ["no language"]}, "zu.languages='no language': no tag of BCP 47"),
        ({"sources": [{"title": "x"}]}, "zu.sources: no word 'title'"),
        ({"tongues": ["zu"]}, "no key 'tongues'"),
    ):
        said.write_text(json.dumps({"domains": about | {"zu": wrong}}))
        code, _, told = btm()
        assert code == 2 and complaint in told and "suite.json" in told


def test_keys_of_folders_are_checked():
    for words, message in {
        (("names", (("Law", "L w"),)),): "data.names.Law='L w' is no valid name",
        (("names", (("Law", "law"),)), ("domain", "law")): "has no effect beside data.domain",
        (("text_endings", ("md",)),): "wanted endings with a dot",
        (("unread", "skip"),): "choose one of report, refuse",
    }.items():
        values = {key: dict(v) if key == "names" else v for key, v in words}
        with pytest.raises(UserError, match=message):
            check_data(DataConfig(name="x", **values))


def test_splits_in_capitals_are_never_proposed_as_domains(tmp_path):
    for name in ("Train", "Validation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match="is one domain, as it has Train, Validation"):
        find(tmp_path)
