"""The embedded suite as it lies in the package, against the script that builds it."""

import itertools
import json
import re

import pytest
from folders import DEMO

from btm.data.documents import read
from build_demo_suite import NOVEL, NOVEL_BUDGET, TRAIN_BUDGET, TRAINING, about_text, source_labels
from suites.documents import SPLITS, mark

LISTED = json.loads((DEMO / "suite.json").read_bytes())["domains"]


def texts(name, split):
    """The documents of a split."""
    return list(read(DEMO / name / f"{split}.jsonl.zst", "text"))


def words(name):
    """The distinct words of a domain's held-out texts."""
    return set(re.findall(r"[^\W\d_]+", " ".join(texts(name, "test"))))


def test_the_embedded_suite_is_what_the_script_says():
    assert list(LISTED) == [domain.name for domain in (*TRAINING, *NOVEL)]
    assert {path.name for path in DEMO.iterdir() if path.is_dir()} == set(LISTED)
    for domain in (*TRAINING, *NOVEL):
        about = LISTED[domain.name]
        assert (about["novel"], about["title"], about["source"], about["licence"]) == (
            domain in NOVEL,
            domain.title,
            source_labels(domain),
            domain.licence,
        )
        assert about.items() >= about_text(domain).card.items()
        for split, least in (NOVEL_BUDGET if domain in NOVEL else TRAIN_BUDGET).items():
            assert about["bytes"][split] >= 0.95 * least  # what repeats training text was dropped


def test_each_domain_is_attributed_and_its_licence_text_stands_there_if_it_must():
    text = (DEMO / "ATTRIBUTION.md").read_text("utf-8")
    for domain in (*TRAINING, *NOVEL):
        assert f"| {domain.name} | " in text
        assert domain.credit in text
        if domain.notice:
            assert re.search(rf"(?m)^## Licence of .*\b{domain.name}\b", text)
    assert len(re.findall(r"(?m)^\| \w+ \| (?:training|novel) \| ", text)) == len(LISTED)


@pytest.mark.slow
def test_no_document_stands_twice():
    found = [text for name in LISTED for split in SPLITS for text in texts(name, split)]
    assert len(found) == sum(sum(about["documents"].values()) for about in LISTED.values())
    assert len({mark(text) for text in found}) == len(found)


def test_domains_that_are_trained_on_differ_at_a_glance():
    """Two share few words; only the manuals of Python are near another, its source code."""
    found = {domain.name: words(domain.name) for domain in TRAINING if domain.name != "python_docs"}
    for one, other in itertools.combinations(found, 2):
        a, b = found[one], found[other]
        assert len(a & b) / min(len(a), len(b)) < 0.4, (one, other)
