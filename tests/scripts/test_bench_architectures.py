"""The table of docs/interop.md is the one that the script made."""

from folders import ROOT

from bench import architectures

ROWS = architectures.read(ROOT / "docs/results/interop/architectures.csv")


def test_the_page_has_the_table():
    assert architectures.markdown(ROWS) in (ROOT / "docs/interop.md").read_text()


def test_all_architectures_were_tried_and_learned():
    assert [row.architecture for row in ROWS] == list(architectures.SIZES)
    for row in ROWS:
        assert [row.cycle, row.average, row.export, row.imported, row.generate] == ["yes"] * 5
        assert float(row.nats_of_expert) < float(row.nats_of_seed)
