import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from btm.config.choices import SPLITS
from btm.data import prepare as preparation
from btm.data.prepare import plan, prepare, training_domains
from btm.data.table import table
from btm.errors import UserError


def stamps(folder):
    """The time and the identity of every file: a file that was written again has others."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def texts(suite, domain):
    tokenizer = Tokenizer.from_file(str(suite.tokenizer / "tokenizer.json"))
    found = {}
    for split in SPLITS:
        shard = suite.shard(domain, split)
        pieces = np.split(np.asarray(shard.tokens), np.cumsum(shard.documents[:, 0])[:-1])
        found[split] = tokenizer.decode_batch([piece[:-1].tolist() for piece in pieces])
    return found


def test_text_survives_the_round_trip(config, verses, code):
    suite = prepare(config)
    assert suite.domains() == ["code", "verses"]
    packed = texts(suite, "code")
    assert packed == {"train": code[:30], "valid": code[30:35], "test": code[35:]}
    pooled = texts(suite, "verses")
    assert sorted(text for split in SPLITS for text in pooled[split]) == sorted(verses)
    assert suite.shard("code", "valid").n_bytes == sum(len(text.encode()) for text in code[30:35])


def test_meta_says_where_the_tokens_come_from(config):
    suite = prepare(config)
    meta = json.loads((suite.path / "code" / "meta.json").read_text())
    assert meta["tokenizer_sha256"] == suite.tokenizer_sha256 and meta["dtype"] == "uint16"
    assert [file["file"] for file in meta["source_files"]] == [
        f"{split}.jsonl.gz" for split in SPLITS
    ]
    assert set(meta["splits"]) == set(SPLITS) and meta["novel"] is False
    rows = table(suite)
    assert [row["domain"] for row in rows] == ["code", "verses"]
    assert rows[0]["train_documents"] == 30 and rows[0]["duplicates_dropped"] == 0
    assert 1 < rows[0]["bytes_per_token"] < 5


def test_a_second_run_touches_nothing(config):
    before = stamps(prepare(config).path)
    assert stamps(prepare(config).path) == before
    assert {each.what for each in plan(config)} == {"nothing: unchanged"}


def test_a_domain_whose_source_is_gone_is_named(config, root):
    prepare(config)
    gone = next(path for path in root.iterdir() if path.name.startswith("verses"))
    gone.rename(root.parent / gone.name)
    said = []
    assert "verses" in prepare(config, said.append).domains()
    assert said == [
        "verses: its source is gone; its shards stay in use until you delete "
        f"{config.out}/{config.name}/verses"
    ]


def test_a_new_domain_keeps_the_tokenizer_and_the_others(config, root, code, jsonl):
    before = stamps(prepare(config).path)
    jsonl(root / "more.jsonl.zst", [f"# Another.\n{text}" for text in code[:20]])
    assert [each.domain for each in plan(config) if not each.stands] == ["more"]
    suite = prepare(config)
    after = stamps(suite.path)
    assert suite.domains() == ["code", "more", "verses"]
    assert {name: after[name] for name in before} == before


def test_a_suite_of_before_digests_gets_them_without_being_packed_again(config):
    suite = prepare(config)
    before, kept = contents(suite.path), stamps(suite.path)
    for split in SPLITS:
        (suite.path / "code" / f"{split}.docs").unlink()
    assert [each.stands for each in plan(config)] == [True, True]
    assert "digests" in plan(config)[0].what
    prepare(config)
    after = stamps(suite.path)
    assert contents(suite.path) == before
    assert {name for name in kept if kept[name] != after[name]} == {
        f"code/{split}.docs" for split in SPLITS
    }


@pytest.mark.parametrize("change", ["file", "fraction", "novel", "damage"])
def test_a_change_packs_that_domain_alone(config, root, verses, jsonl, change):
    before = stamps(prepare(config).path)
    if change == "file":
        jsonl(root / "verses.jsonl", verses[1:])
    elif change == "fraction":
        config = replace(config, test_fraction=0.3)
    elif change == "novel":
        (root / "suite.json").write_text(
            json.dumps({"domains": {"verses": {"novel": True}, "code": {}}})
        )
    else:
        (Path(config.out) / "mine" / "verses" / "meta.json").unlink()
    suite = prepare(config)
    after = stamps(suite.path)
    assert {name for name in before if after[name] != before[name]} == {
        n for n in before if n.startswith("verses")
    }
    assert (
        suite.training_domains()
        == training_domains(config)
        == (["code"] if change == "novel" else suite.domains())
    )


def test_bytes_do_not_depend_on_the_number_of_processes(config, monkeypatch):
    monkeypatch.setattr(preparation, "_WORTH_A_PROCESS", 0)
    one = contents(prepare(config).path)
    two = contents(prepare(replace(config, workers=2, out=f"{config.out}-2")).path)
    assert one == two


def test_a_plan_writes_nothing(config):
    found = plan(config)
    assert [each.domain for each in found] == ["code", "verses"]
    assert all(e.what.startswith("pack") and e.what.endswith("(new)") for e in found)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("law.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', r"law.jsonl:2: no UTF-8"),
        ("law.jsonl", b'{"text": "x"}\nlaw\n', r"law.jsonl:2: no JSON"),
        ("law.jsonl", b'{"body": "x"}\n', r"law.jsonl:1: no field 'text'; has body"),
        ("law.jsonl.gz", b"law", r"law.jsonl.gz:1: cannot be read"),
        ("law.txt", b"", r"law.txt: the file is empty"),
        ("law.txt", b"one document", r"law: 1 distinct documents are too few"),
        ("code/more.txt", b"x", r"more.txt: is neither train"),
        ("tokenizer.txt", b"x", r"no domain can be called 'tokenizer'"),
        ("suite.json", b"[]", r"suite.json: wanted"),
        ("suite.json", b"{oops", r"suite.json: wanted"),
        ("suite.json", b'{"domains": ["code"]}', r"suite.json: wanted"),
        ("suite.json", b'{"domain": {"code": {"novel": true}}}', r"no key 'domain'.*'domains'"),
        (
            "suite.json",
            b'{"domains": {"code": {"novle": true}}}',
            r"no key 'novle' in .*suite.json, of the domain 'code' .*did you mean 'novel'",
        ),
        (
            "suite.json",
            b'{"domains": {"code": {"novel": "false"}}}',
            r"""suite.json: code.novel is "false"; wanted true or false""",
        ),
        ("suite.json", b'{"domains": {"cde": {}}}', r"no domain 'cde' .*did you mean 'code'"),
        (
            "suite.json",
            b'{"domains": {"code": {"novel": 1}, "verses": {"novel": 1}}}',
            "every domain .* is novel",
        ),
    ],
)
def test_broken_input_leaves_everything_as_it_was(config, root, name, data, message):
    (root / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        prepare(config)
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()


def test_broken_input_leaves_a_prepared_suite_as_it_was(config, root):
    before = stamps(prepare(config).path)
    (root / "verses.jsonl").write_text("no JSON\n")
    with pytest.raises(UserError, match=r"verses.jsonl:1: no JSON"):
        prepare(config)
    assert stamps(Path(config.out)) == {f"mine/{name}": stamp for name, stamp in before.items()}


def test_a_suite_keeps_its_tokenizer(config, tmp_path, suite):
    prepare(config)
    with pytest.raises(
        UserError, match=r"trained with data.vocab_size=400, not 500; .* use another data.name"
    ):
        prepare(replace(config, vocab_size=500))
    with pytest.raises(UserError, match=r"trained with data.special_tokens=endoftext, not fairseq"):
        prepare(replace(config, special_tokens="fairseq"))
    with pytest.raises(UserError, match=r"has another tokenizer than data.tokenizer="):
        prepare(replace(config, tokenizer=str(suite.tokenizer)))
    with pytest.raises(UserError, match="no such folder"):
        prepare(replace(config, tokenizer=str(tmp_path / "none")))


def test_a_tokenizer_can_be_given(config, suite):
    given = replace(config, tokenizer=str(suite.tokenizer), vocab_size=999)
    made = prepare(given)
    assert (made.vocab_size, made.tokenizer_sha256) == (400, suite.tokenizer_sha256)
    before = stamps(made.path)
    assert stamps(prepare(given).path) == before
    assert stamps(prepare(replace(given, tokenizer=None)).path) == before


def test_an_interrupted_run_leaves_no_half_and_is_finished_by_the_next(config):
    class Stop(BaseException):
        pass

    def stop(line):
        if line.startswith("verses: packing"):
            raise Stop

    with pytest.raises(Stop):
        prepare(config, stop)
    folder = Path(config.out) / "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["code", "tokenizer"]
    before = stamps(folder)
    (folder / ".tmp-orphan").mkdir()
    after = stamps(prepare(config).path)
    # meta.json was written again, with the near-duplicates that are looked for once all is packed.
    assert after["code/meta.json"] != before.pop("code/meta.json")
    assert {name: after[name] for name in before} == before
    assert "verses/meta.json" in after


@pytest.mark.parametrize("damage", [("origin.json", b"{}"), ("tokenizer.json", None)])
def test_a_damaged_tokenizer_is_named(config, damage):
    file, content = damage
    suite = prepare(config)
    (suite.tokenizer / file).unlink()
    if content is not None:
        (suite.tokenizer / file).write_bytes(content)
    with pytest.raises(UserError, match="a damaged tokenizer; remove"):
        prepare(config)


def test_a_tokenizer_folder_that_was_lost_packs_everything_again(config):
    suite = prepare(config)
    before = contents(suite.path)
    import shutil

    shutil.rmtree(suite.tokenizer)
    assert contents(prepare(config).path) == before


def test_the_suite_that_ships_with_btm_is_found(tmp_path):
    from btm.config.data import DataConfig

    config = DataConfig(out=str(tmp_path / "out"))
    assert len(plan(config)) > len(training_domains(config)) > 1
