"""Clusters of the embedded suite's documents, without their labels."""

import json
import shutil

import numpy as np
import pytest

from btm.cli import main
from btm.config.data import DataConfig, DiscoverConfig
from btm.data.discover import corpus
from btm.data.discover.assign import balanced_assignment
from btm.data.discover.cluster import balanced_kmeans
from btm.data.discover.router import Router, words
from btm.data.domains import find
from btm.errors import UserError


def labelled(unlabelled):
    """Every training document with the domain that discovery was not told."""
    return {
        text: source.domain
        for source in find(unlabelled)
        for split, text in source.documents("text")
        if split == "train"
    }


def test_clusters_are_balanced_and_are_the_domains(unlabelled, found):
    target, rows = found
    for split in ("train", "valid", "test"):
        sizes = [row[split] for row in rows]
        assert max(sizes) - min(sizes) <= 1 + 0.01 * min(sizes)
    label = labelled(unlabelled)
    pure = total = 0
    for source in find(target):
        names = [label[text] for split, text in source.documents("text") if split == "train"]
        total += len(names)
        pure += max(map(names.count, names))
    assert total == len(label)
    assert pure / total > 0.8


def test_blocks_of_a_stream_stay_balanced(unlabelled, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "BLOCK", 50)
    rows = corpus.discover(
        DataConfig(root=str(unlabelled)),
        DiscoverConfig(k=4, sample=300),
        tmp_path / "found",
        lambda text: None,
    )
    sizes = [row["train"] for row in rows]
    assert max(sizes) - min(sizes) <= 0.01 * sum(sizes) / 4 + 1


def test_a_document_of_two_sources_is_in_one_cluster(unlabelled, tmp_path):
    root = shutil.copytree(unlabelled, tmp_path / "texts")
    tests = (root / "bible" / "test.jsonl").read_text()
    with (root / "speeches" / "train.jsonl").open("a") as file:
        file.write(tests)
    corpus.discover(
        DataConfig(root=str(root)),
        DiscoverConfig(k=4, sample=300),
        tmp_path / "found",
        lambda text: None,
    )
    found = [pair for source in find(tmp_path / "found") for pair in source.documents("text")]
    held_out = {json.loads(line)["text"] for line in tests.splitlines()}
    assert [split for split, text in found if text in held_out] == ["test"] * len(held_out)


def test_the_router_survives_the_disk_and_knows_the_clusters(found):
    target, _ = found
    router = Router.load(target / ".router")
    right = []
    for k, source in enumerate(find(target)):
        held_out = [text for split, text in source.documents("text") if split == "test"][:40]
        similarity_DK = router.similarity(router.features(held_out))
        right.append((similarity_DK.argmax(axis=1) == k).mean())
    assert np.mean(right) > 0.8
    assert np.isfinite(router.similarity(router.features(["", "zzzz qqqq"]))).all()


def test_features_are_those_of_counted_words(found):
    """The way without counts against TF-IDF by the book, on text with numbers, accents and words
    nobody knows.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    router = Router.load(found[0] / ".router")
    texts = [text for source in find(found[0]) for _, text in source.documents("text")][:200]
    texts += [
        "7 2 a b",
        "In 1984 and 12,000 x_y \x1cgod",
        "caf\u00e9 \u2019the God\u2019 said 42\u00b2",
        "",
        "\u0130 god" * 900,
    ]
    texts += [
        "god " * 1249 + "man woman",
        "god " * 1249 + "\u00e9 man woman",
    ]  # cut in the middle of a word
    counts_DV = CountVectorizer(analyzer=words, vocabulary=router.terms).transform(texts)
    tfidf_DV = normalize(counts_DV.multiply(router.idf).tocsr())
    wanted_DF = normalize(np.asarray(tfidf_DV @ router.components.T, np.float64))
    features_DF = router.features(iter(texts))
    np.testing.assert_allclose(features_DF, wanted_DF, atol=2e-5)
    assert set(np.flatnonzero(np.linalg.norm(features_DF, axis=1) < 0.5)) <= {200, 203}
    chosen = [
        balanced_assignment(router.similarity(f))
        for f in (features_DF, wanted_DF.astype(np.float32))
    ]
    np.testing.assert_array_equal(*chosen)
    assert router.features([]).shape == (0, wanted_DF.shape[1])


def test_a_broken_router_is_refused(found, tmp_path):
    shutil.copytree(found[0] / ".router", tmp_path / "router")
    (tmp_path / "router/router.json").write_text(json.dumps({"terms": ["a"], "temperature": 0.1}))
    with pytest.raises(UserError, match="do not fit"):
        Router.load(tmp_path / "router")
    (tmp_path / "router/router.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="no router there"):
        Router.load(tmp_path / "router")


def test_the_same_seed_gives_the_same_clusters():
    features = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    first, second = (balanced_kmeans(features, 5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])
    with pytest.raises(ValueError, match="cannot make"):
        balanced_kmeans(features[:3], 5, seed=0)


@pytest.mark.slow
def test_command_line_to_prepared_data(unlabelled, tmp_path, capsys):
    words = [
        f"data.root={unlabelled}",
        f"discover.out={tmp_path / 'found'}",
        "discover.k=3",
        "discover.sample=300",
    ]
    assert main.main(["discover", "data=folder", *words, "--json"]) == 0
    assert [row["domain"] for row in json.loads(capsys.readouterr().out)] == [
        "cluster00",
        "cluster01",
        "cluster02",
    ]
    assert main.main(["discover", "data=folder", *words]) == 2
    assert "stands there already" in capsys.readouterr().err
    prepare = [
        "prepare",
        "data=folder",
        f"data.root={tmp_path / 'found'}",
        f"data.out={tmp_path / 'data'}",
    ]
    assert main.main([*prepare, "data.name=found", "data.vocab_size=400"]) == 0
    assert (tmp_path / "data/found/cluster02/train.bin").is_file()
