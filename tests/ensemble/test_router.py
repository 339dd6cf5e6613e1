"""The router along a text, on a forest whose experts were trained on clusters that nobody
labelled.
"""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.config.ensemble import EnsembleConfig
from btm.data.discover.router import CHARS, HOME, Router, words
from btm.data.pieces import token_bytes
from btm.ensemble import generate, posterior
from btm.ensemble import router as context
from btm.ensemble.router import Reading, Route
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text
from btm.errors import UserError
from btm.forest import Forest
from btm.steps import domain_weights, score_cache
from btm.steps.evaluate import evaluation_stands
from btm.steps.report import samples

pytestmark = [pytest.mark.slow, pytest.mark.traced]

TRICKY = (
    "Ærøskøbing's 3,141 naïve Straße\u00a0日本語 テキスト! e\u0301tude _x_ don't 😀smile a bc\n\n"
    "def f(x1): İstanbul ΟΔΟΣ."
)


@pytest.fixture
def route(clustered):
    return route_of(clustered)


def route_of(clustered, *overrides):
    config = compose([*clustered[0], *overrides])
    forest = Forest(config.forest_root)
    return domain_weights.route(config, forest, forest.experts(), {steps.open_suite(config).eos})


def weights(route, ids, window=0):
    begins = np.arange(len(ids)) % (window or len(ids)) == 0
    return np.exp(np.concatenate(list(route(ids, begins)), axis=1))


def encoder(clustered):
    from btm.data.encode import Encoder

    return Encoder.open(steps.open_suite(clustered[1]).tokenizer)


def test_the_ensemble_beats_the_plain_average(clustered):
    overrides, _, routed = clustered
    plain = steps.eval_forest(compose([*overrides, "ensemble=simple", "eval.name=simple"]))

    def nats(result):
        return [entry["ensemble"]["nats_per_token"] for entry in result["shards"].values()]

    assert len(nats(routed)) == 4
    assert np.mean(nats(routed)) < np.mean(nats(plain)) - 0.02
    for shard, entry in routed["shards"].items():
        assert (
            max(entry["mean_posterior"], key=entry["mean_posterior"].get) == shard.partition("/")[0]
        )


@pytest.mark.parametrize("method", ["posterior", "argmax", "token"])
def test_parameters_are_weighed_by_the_posterior_whatever_weighs_the_ensemble(clustered, method):
    overrides, config, _ = clustered
    forest, suite = Forest(config.forest_root), steps.open_suite(config)
    found = [
        domain_weights.domain_weights(
            compose(words), forest, suite, "cluster02", forest.experts(), method
        )
        for words in (overrides, [*overrides, "ensemble=cached"])
    ]
    assert found[0] == found[1]
    assert max(found[0][0], key=found[0][0].get) == "cluster02"


@pytest.mark.parametrize(
    "overrides", [[], ["ensemble.carry=window"], ["ensemble.top_k=2"], ["ensemble.temperature=0.5"]]
)
def test_eval_is_the_equation_on_the_text_before_each_token(clustered, overrides):
    config = compose([*clustered[0], *overrides])
    forest, suite = Forest(config.forest_root), steps.open_suite(config)
    shard = suite.shard("cluster01", "test")
    tokens, _ = shard.head(config.score.max_tokens)
    ids, members = shard.tokens[:tokens].tolist(), forest.experts()
    router = Router.load(context.find_router(config)[0])
    router.temperature = config.ensemble.temperature or router.temperature
    pieces = token_bytes(suite.tokenizer)
    scores = score_cache.stack(score_cache.scores_of(config, forest), shard, members)
    route = route_of(clustered, *overrides)
    mixed = rule_of(config.ensemble).mix(scores, np.zeros(4), tokens, Text.of(shard, tokens), route)
    begin = 0
    for t in range(min(tokens, 1500)):
        if (t and ids[t - 1] == suite.eos) or (
            config.ensemble.carry == "window" and t % config.window == 0
        ):
            begin = t
        if t % 29:
            continue
        text = b"".join(pieces[i] for i in ids[begin:t]).decode(errors="ignore")
        known = text if len(text) >= CHARS else text[: len(text) - len(_open(text))]
        similarity_K = router.similarity(router.features([known])).astype(np.float64)[0]
        log_w = posterior.top_k(similarity_K / router.temperature, config.ensemble.top_k)
        if not set(words(known)) & set(router.terms):
            log_w = np.full(4, -np.log(4))
        wanted = np.logaddexp.reduce(log_w + scores.reshape(4, -1)[:, t])
        assert mixed.logp[t] == pytest.approx(wanted, abs=1e-3)
    if not overrides:
        told = clustered[2]["shards"]["cluster01/test"]["ensemble"]["nats_per_token"]
        assert told == pytest.approx(mixed.nats / tokens, abs=1e-9)


def _open(text):
    """The word at the end of a text, which may go on."""
    end = len(text)
    while end and (text[end - 1].isalnum() or text[end - 1] == "_"):
        end -= 1
    return text[end:]


@pytest.mark.parametrize("window", [0, 16])
def test_what_stands_at_t_or_later_changes_no_weight_up_to_t(clustered, route, window):
    suite = steps.open_suite(clustered[1])
    ids = suite.shard("cluster00", "test").tokens[:400].astype(np.int64)
    ids[150] = suite.eos
    before = weights(route, ids, window)
    rng = np.random.default_rng(0)
    moved = 0
    for t in [0, 1, 2, *range(7, 400, 13), 149, 150, 151, 399]:
        changed = ids.copy()
        changed[t:] = rng.integers(1, suite.vocab_size, 400 - t)
        after = weights(route, changed, window)
        # A product of matrices of another size may round otherwise; a weight that looked ahead
        # moves by far more.
        np.testing.assert_allclose(after[:, : t + 1], before[:, : t + 1], rtol=1e-9)
        np.testing.assert_allclose(
            weights(route, ids[: t + 1], window), before[:, : t + 1], rtol=1e-9
        )
        moved += not np.allclose(after, before, rtol=1e-3)
    assert moved > 10  # of what comes later, some does change


def test_a_text_read_online_has_the_weights_of_eval(clustered):
    for overrides in ([], ["ensemble.top_k=2"]):
        route = route_of(clustered, *overrides)
        suite = steps.open_suite(clustered[1])
        ids = np.concatenate(
            [suite.shard(f"cluster0{k}", "test").tokens[-300:] for k in range(4)]
        ).astype(int)
        ids = np.concatenate([ids, encoder(clustered).encode([TRICKY * 3]).ids])
        whole = weights(route, ids)
        online = route.begin()
        for t, token in enumerate(ids.tolist()):
            np.testing.assert_allclose(
                np.exp(online.log_weights), whole[:, t], rtol=1e-9, atol=1e-12
            )
            online.update(np.zeros(4), token)
        np.testing.assert_allclose(whole.sum(axis=0), 1)
        if overrides:
            assert set((whole > 0).sum(axis=0).tolist()) == {2, 4}  # 4 before a known word


def test_generation_weighs_as_eval_does(clustered):
    config = clustered[1]
    forest, suite = Forest(config.forest_root), steps.open_suite(config)
    members, shard = forest.experts(), suite.shard("cluster02", "test")
    window = config.window
    ids = shard.tokens[:window].tolist()
    route = domain_weights.route(config, forest, members, {suite.eos})
    mixed = generate.Ensemble.load(forest, top_k=1, ensemble=config.ensemble, route=route)
    assert mixed.names == [
        elm.name for elm in members
    ]  # a top-k is chosen for each context, so all are here
    logp = np.concatenate([mixed.read(ids[:20]), mixed.read(ids[20:])])
    scores = score_cache.stack(score_cache.scores_of(config, forest), shard, members)[:, :1]
    rule = rule_of(config.ensemble)
    prior = rule.fit_prior(scores, window)
    wanted = rule.mix(scores, prior, window, Text.of(shard, window), route)
    np.testing.assert_allclose(logp, wanted.logp, atol=1e-4)
    with pytest.raises(ValueError, match="needs a route"):
        generate.Ensemble.load(forest, ensemble=config.ensemble)
    with pytest.raises(ValueError, match="needs a route"):
        rule.mix(scores, prior, window, Text.of(shard, window))


def test_words_are_those_of_the_text_wherever_tokens_cut_it(clustered):
    pieces = token_bytes(steps.open_suite(clustered[1]).tokenizer)
    whole = encoder(clustered)
    parts = {piece[0]: i for i, piece in enumerate(pieces) if len(piece) == 1}
    for text in (
        TRICKY,
        "one two\n" * 3,
        "日本" * 40,
        "x" * 30,
        "word " * 1200,
        "y" * (CHARS + 7),
        "",
    ):
        in_bytes = [parts[byte] for byte in text.encode()]
        for ids in (whole.encode([text]).ids.tolist()[:-1], in_bytes):
            assert b"".join(pieces[i] for i in ids) == text.encode()
            reading = Reading(pieces)
            found = [word for i in ids for word in reading.read(i)]
            known = text if len(text) >= CHARS else text[: len(text) - len(_open(text))]
            assert found == words(known)
            assert reading.is_over == (len(text) >= CHARS)
    broken = Reading(pieces)
    assert (
        broken.read(parts[0xE6]) == broken.read(10**6) == []
    )  # half a character; an id that no token has
    assert [w for i in map(parts.get, b"ab cd ") for w in broken.read(i)] == ["ab", "cd"]


def test_sentencepiece_is_read_too(tmp_path):
    model = {"type": "Unigram", "vocab": [["<s>", 0], ["<0xE6>", 0], ["\u2581the", 0], ["m", 0]]}
    added = [
        {"id": 0, "content": "<s>", "special": True},
        {"id": 5, "content": "new", "special": False},
    ]
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"model": model, "added_tokens": added, "decoder": decoder}))
    assert token_bytes(tmp_path) == [b"", b"\xe6", b" the", b"m", b"", b"new"]
    file.write_text(json.dumps({"model": model, "decoder": {"type": "WordPiece"}}))
    with pytest.raises(UserError, match="wanted byte-level BPE or SentencePiece, found WordPiece"):
        token_bytes(tmp_path)
    file.write_text("[]")
    with pytest.raises(UserError, match=r"not the tokenizer\.json"):
        token_bytes(tmp_path)


def test_a_member_of_no_cluster_and_a_missing_router_are_refused(clustered, tmp_path):
    overrides, config, _ = clustered
    with pytest.raises(
        UserError, match=r"'seed' was trained on cluster00, cluster01.* wanted one of the clusters"
    ):
        steps.eval_forest(compose([*overrides, "ensemble.experts=[cluster01,seed]"]))
    with pytest.raises(UserError, match="no router in"):
        steps.eval_forest(compose([*overrides, f"ensemble.router={tmp_path}"]))
    three = Router.load(context.find_router(config)[0])
    three.centres = three.centres[:3]
    three.save(tmp_path)
    with pytest.raises(
        UserError, match=r"'cluster03' was trained on cluster03; .* cluster00 … cluster02"
    ):
        steps.eval_forest(compose([*overrides, f"ensemble.router={tmp_path}"]))
    with pytest.raises(UserError, match="'cluster03' is no cluster of the router"):
        steps.run(
            compose([*overrides, f"ensemble.router={tmp_path}", f"forest={tmp_path / 'forest'}"])
        )
    chosen = compose(
        [*overrides, f"ensemble.router={tmp_path}", "ensemble.experts=[cluster02,cluster00]"]
    )
    forest = Forest(chosen.forest_root)
    assert domain_weights.route(
        chosen, forest, forest.experts(chosen.ensemble.experts), 0
    ).rows == [2, 0]
    with pytest.raises(UserError, match="which router"):
        context.find_router(compose(["ensemble=router"]))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda facts, tensors: facts.update(temperature=0), "temperature is 0"),
        (lambda facts, tensors: facts.update(temperature="warm"), "temperature is 'warm'"),
        (lambda facts, tensors: tensors["centres"].fill(np.nan), "a NaN"),
        (lambda facts, tensors: tensors.update(centres=tensors["centres"][:0]), "no clusters"),
    ],
)
def test_a_router_that_cannot_weigh_is_refused(found, tmp_path, damage, said):
    shutil.copytree(found[0] / HOME, tmp_path / "router")
    file, facts = tmp_path / "router/router.safetensors", tmp_path / "router/router.json"
    tensors, values = load_file(file), json.loads(facts.read_text())
    damage(values, tensors)
    save_file(tensors, file)
    facts.write_text(json.dumps(values))
    with pytest.raises(UserError, match=said):
        Router.load(tmp_path / "router")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("ensemble.fit=forest", "nothing to fit"),
        ("ensemble.prior=em", "by the words of the text alone"),
        ("ensemble.alpha=0.1", "leave it null"),
        ("ensemble.temperature=0", "wanted more than 0"),
        ("ensemble.router=", "wanted a path"),
    ],
)
def test_settings_that_a_router_has_no_use_for(more, said):
    with pytest.raises(UserError, match=said):
        compose(["ensemble=router", more])
    with pytest.raises(UserError, match="give ensemble=router"):
        compose(["ensemble=cached", "ensemble.temperature=1"])
    assert not rule_of(EnsembleConfig(rule="router", prior="cached")).is_fitted


def test_an_evaluation_is_of_the_router_that_weighed_it(clustered, tmp_path):
    overrides, config, result = clustered
    assert result["router_sha256"] == Router.load(context.find_router(config)[0]).sha256
    assert "router_sha256" not in steps.eval_forest(
        compose([*overrides, "ensemble=simple", "eval.name=simple"])
    )
    # Discovery writes another at the same place.
    place = tmp_path / "router"
    shutil.copytree(context.find_router(config)[0], place)
    config = compose([*overrides, f"ensemble.router={place}", "eval.name=moved"])
    first = steps.eval_forest(config)
    assert evaluation_stands(config)
    other = Router.load(place)
    other.centres = other.centres[::-1]
    other.save(place)
    assert not evaluation_stands(config)
    with pytest.raises(UserError, match="its router is another one"):
        samples.samples(config, first)
    again = steps.eval_forest(config)
    assert again["shards"] != first["shards"] and evaluation_stands(config)
    # One from before that was named is held to the rest alone.
    file = Forest(config.forest_root).paths.evaluation("moved")
    del again["router_sha256"]
    file.write_text(json.dumps(again))
    assert evaluation_stands(config)
    shutil.rmtree(place)
    assert not evaluation_stands(config)


def test_a_router_without_known_words_weighs_all_alike():
    centres = np.eye(3, 4, dtype=np.float32)
    router = Router(
        ["alpha", "beta"], np.ones(2, np.float32), np.eye(4, 2, dtype=np.float32), centres
    )
    route = Route(router, [2, 0, 1], [b"<eos>", b" alpha", b" beta", b" other"], {0}, top_k=1)
    found = weights(route, [3, 3, 1, 1, 2, 2, 2, 2, 0, 1])
    np.testing.assert_array_equal(found[:, :4], np.full((3, 4), 1 / 3))  # alpha has not ended yet
    np.testing.assert_array_equal(found[:, 4], [0, 1, 0])
    np.testing.assert_array_equal(found[:, 8], [0, 0, 1])
    np.testing.assert_array_equal(found[:, 9], np.full(3, 1 / 3))  # a new document


def test_the_command_line(clustered, capsys, tmp_path):
    overrides = clustered[0]
    assert (
        main.main(
            ["eval", *overrides, "eval.split=valid", "eval.name=cli", "ensemble.top_k=2", "--json"]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["ensemble"]["rule"] == "router"
    assert result["ledger"]["ensemble"]["experts_run"] == 4  # whatever top_k is
    assert result["shards"]["cluster00/valid"]["ensemble"]["perplexity"] > 1
    ask = [
        "generate",
        *overrides,
        "prompt=In the beginning God said unto them",
        "generate.tokens=3",
        "domain=cluster00",
    ]
    assert main.main([*ask, "ensemble.top_k=1", "--json"]) == 0
    experts = json.loads(capsys.readouterr().out)["experts"]
    assert sorted(experts.values())[:3] == [0, 0, 0]
    for verb in (ask, ["eval", *overrides]):
        assert main.main([*verb, "--dry-run"]) == 0
        assert "weighed by the router" in " ".join(capsys.readouterr().out.split())
    assert (
        main.main(["run", *overrides, f"ensemble.router={tmp_path}", f"forest={tmp_path / 'f'}"])
        == 2
    )
    assert "no router in" in capsys.readouterr().err
    assert main.main(["run", *overrides, "baseline=dense"]) == 2
    assert "no experts of clusters" in capsys.readouterr().err
