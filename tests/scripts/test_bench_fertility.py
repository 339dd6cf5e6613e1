"""The fertility report on two languages of real text, one of which has a fortieth of the other's."""

import json

import pytest
from folders import ROOT

from bench import fertility
from btm.config.data import DataConfig
from btm.data.documents import read

DEMO = ROOT / "btm" / "data" / "demo"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    for name, source, count in (("en", "bible", 80), ("es", "spanish", 2), ("la", "novels", 2)):
        for split, some in (("train", count), ("valid", 2), ("test", 2)):
            folder = root / name
            folder.mkdir(exist_ok=True)
            texts = list(read(DEMO / source / f"{split}.jsonl.zst", "text"))[:some]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (folder / f"{split}.jsonl").write_text(lines)
    (root / "suite.json").write_text(json.dumps({"domains": {"la": {"novel": True}}}))
    config = DataConfig(root=str(root), name="bench", vocab_size=500)
    return fertility.measure(config, 0.3, 200_000, 20_000)


def test_a_small_language_has_fewer_tokens_where_it_is_sampled_more(rows):
    by_name = {row.domain: row for row in rows}
    small, large = by_name["es"], by_name["en"]
    assert small.train_bytes * 20 < large.train_bytes
    assert small.sampled.a_byte < small.raw.a_byte
    assert large.sampled.a_byte > large.raw.a_byte
    for row in rows:
        for each in (row.sampled, row.raw, row.bloom):
            # Both encode the same text, and no token stands for less than a byte.
            assert (each.n_bytes, each.words) == (row.raw.n_bytes, row.raw.words)
            assert each.words < each.tokens <= each.n_bytes


def test_the_table_marks_what_no_tokenizer_was_trained_on(rows):
    lines = list(fertility.table(rows, 0.3))
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| la*", "| es", "| en"]
    assert lines[2].split(" | ")[2] == "0"
    assert len(lines) == 7 and len({line.count("|") for line in lines}) == 1


def test_the_page_says_what_was_measured():
    page = (ROOT / "docs/languages.md").read_text().splitlines()
    measured = (ROOT / "docs/results/roots/fertility.md").read_text().splitlines()
    begin = page.index(measured[4])
    rows = [line for line in page[begin : page.index("", begin)] if line.startswith("| ")]
    assert len(rows) > 10 and set(rows) <= set(measured)
