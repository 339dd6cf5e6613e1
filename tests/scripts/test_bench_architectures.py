"""docs/interop.md says of each architecture what the script found."""

import re

from folders import ROOT

from bench import architectures

ROWS = architectures.read(ROOT / "docs/results/interop/architectures.csv")
GGUF = {  # how the answer of llama.cpp's converter begins: its row of the page
    "yes": "converts",
    "FileNotFoundError: File not found: tokenizer.model": "needs a `tokenizer.model`",
    "ValueError: Error: Missing tokenizer.model": "needs a `tokenizer.model`",
    "this script knows no such model": "does not know the model",
}


def test_the_page_says_what_was_found():
    page = (ROOT / "docs/interop.md").read_text()
    assert f"tries {len(ROWS)} small models" in page
    said = {}
    for row in ROWS:
        answer = next((GGUF[start] for start in GGUF if row.gguf.startswith(start)), "fails")
        said.setdefault(answer, []).append(row.architecture)
    for answer, names in said.items():
        (line,) = re.findall(rf"^\| {re.escape(answer)} \| (.*) \|$", page, re.MULTILINE)
        assert re.findall(r"`(\w+)`", line) == names


def test_all_architectures_were_tried_and_learned():
    assert [row.architecture for row in ROWS] == list(architectures.SIZES)
    for row in ROWS:
        assert [row.cycle, row.average, row.export, row.imported, row.generate] == ["yes"] * 5
        assert float(row.nats_of_expert) < float(row.nats_of_seed)
