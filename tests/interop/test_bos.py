"""Models whose tokenizer puts a BOS before each text read what their authors' code gives them."""

import json
import shutil

import numpy as np
import pytest
import torch
from interop.models import make_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.data.tokenizer import (
    begins_with_bos,
    copy_tokenizer,
    read_origin,
    tokenizer_sha256,
    train_tokenizer,
)
from btm.ensemble.generate import Ensemble
from btm.errors import UserError
from btm.forest import Forest
from btm.interop.formats import import_model
from btm.models import causal_lm
from btm.report import quiet
from btm.steps import score_cache
from btm.train import trainee

BOS = "<s>"
WINDOW = 64


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """One vocabulary twice: as it is, and with a post-processor that puts <s> before a text."""
    root = tmp_path_factory.mktemp("tokenizers")
    text = ["in the beginning was the word, and the word was with god"] * 8
    train_tokenizer(text, root / "plain", 400, "fairseq")
    shutil.copytree(root / "plain", root / "bos")
    file = root / "bos" / "tokenizer.json"
    content = json.loads(file.read_text())
    first = {"SpecialToken": {"id": BOS, "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}},
    }
    file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def model(tokenizers, tmp_path_factory):
    """A random llama with that tokenizer."""
    target = tmp_path_factory.mktemp("model") / "llama"
    return make_folder(target, tokenizers / "bos", bos_token_id=0, eos_token_id=2)


@pytest.fixture(scope="module")
def words(texts, model, tmp_path_factory):
    """Overrides of a forest whose seed is that model, on text prepared with its tokenizer."""
    root = tmp_path_factory.mktemp("forest")
    made = ["experiment=smoke", f"data.root={texts}", f"data.out={root / 'data'}"]
    made += [f"data.tokenizer={model}", f"seed.from={model}", f"forest={root / 'forest'}"]
    made += ["score.max_tokens=8000", f"score.window={WINDOW}", "trainer.steps=2"]
    made += ["trainer.batch_size=2", f"trainer.seq_len={WINDOW}"]
    steps.prepare(compose(made))
    steps.seed(compose(made))
    return made


def test_each_document_is_what_its_tokenizer_gives_and_an_eos(words, model):
    suite = steps.open_suite(compose(words))
    theirs = AutoTokenizer.from_pretrained(model)
    assert (suite.bos, suite.eos) == (theirs.bos_token_id, theirs.eos_token_id) == (0, 2)
    shard = suite.shard("bible", "valid")
    ends = np.cumsum(shard.documents[:, 0])
    assert (shard.tokens[ends - 1] == suite.eos).all()
    assert (shard.tokens[ends - shard.documents[:, 0]] == suite.bos).all()
    for start, end in zip([0, *ends[:4]], ends[:4], strict=False):
        ids = shard.tokens[start:end].tolist()
        text = theirs.decode(ids[1:-1])
        assert [*theirs(text).input_ids, suite.eos] == ids
    assert len(shard.documents) == shard.n_documents and ends[-1] == shard.n_tokens


def test_scores_are_those_of_transformers_on_the_tokenizers_own_ids(words, model):
    config = compose(words)
    suite, forest = steps.open_suite(config), Forest(config.forest_root)
    shard = suite.shard("bible", "valid")
    tokens, _ = shard.head(config.score.max_tokens)
    seed = forest["seed"]
    score_cache.score_missing(config, forest, seed.path, seed.card.sha256, [shard], quiet)
    found = score_cache.read(score_cache.scores_of(config, forest), shard, seed.card.sha256)

    theirs = AutoTokenizer.from_pretrained(model)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ends = np.cumsum(shard.documents[:, 0])
    stream = [theirs.eos_token_id]
    for start, end in zip([0, *ends], ends, strict=False):
        text = theirs.decode(shard.tokens[start + 1 : end - 1].tolist())
        stream += [*theirs(text).input_ids, theirs.eos_token_id]
        if len(stream) > tokens:
            break
    ids = torch.tensor(stream)
    wanted = []
    for begin in range(0, tokens, WINDOW):
        part = ids[begin : min(begin + WINDOW, tokens) + 1].clone()
        part[0] = theirs.bos_token_id  # each window begins as a text of its model does
        with torch.no_grad():
            logp = net(part[None, :-1]).logits[0].log_softmax(-1)
        wanted.append(logp.gather(1, part[1:, None])[:, 0])
    wanted = torch.cat(wanted).masked_fill(ids[1 : tokens + 1] == theirs.bos_token_id, 0.0)
    np.testing.assert_allclose(found.reshape(-1)[:tokens], wanted, atol=2e-5)
    assert (wanted == 0).sum() > 1  # the BOS of each document is given, not predicted

    scored = score_cache.scores_of(config, forest).windows(shard)
    nats = trainee.validate(causal_lm.load_model(seed.path, dtype=torch.float32), scored)
    predicted = tokens - int((wanted == 0).sum())
    assert nats == pytest.approx(-float(wanted.double().sum()) / predicted, abs=1e-5)


def test_a_prompt_is_read_after_bos_alone(words, model):
    config = compose(words)
    forest = Forest(config.forest_root)
    mixed = Ensemble.load(forest, {"seed": 1.0})
    theirs = AutoTokenizer.from_pretrained(model)
    prompt = "in the beginning"
    mixed.read(theirs(prompt, add_special_tokens=False).input_ids)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        ids = torch.tensor([theirs(prompt).input_ids])
        wanted = net(ids).logits[0, -1].log_softmax(-1)
    np.testing.assert_allclose(mixed.next_logp(), wanted, atol=2e-5)


def test_the_two_conventions_do_not_mix_in_one_forest(words, model, tokenizers, tmp_path, texts):
    config = compose(words)
    plain = make_folder(tmp_path / "plain", tokenizers / "plain", bos_token_id=0, eos_token_id=2)
    with pytest.raises(UserError, match="no BOS before texts, which begin with one"):
        import_model(compose([*words, f"from={plain}", "name=plain"]))
    (twin := tmp_path / "twin").mkdir()
    make_folder(twin / "model", tokenizers / "bos", seed=1, bos_token_id=0, eos_token_id=2)
    elm = import_model(compose([*words, f"from={twin / 'model'}", "name=twin"]))
    assert begins_with_bos(elm.path) and begins_with_bos(Forest(config.forest_root).tokenizer)
    other = [*words, f"data.out={tmp_path / 'data'}", f"data.tokenizer={plain}"]
    with pytest.raises(UserError, match="no BOS before texts, which begin with one"):
        steps.prepare(compose(other))


def test_an_expert_of_it_trains_and_is_sealed(words):
    config = compose([*words, "trainer.valid_tokens=256", "merge.force=true"])
    steps.branch(config, "bible", "bible")
    steps.train(config, "bible")
    elm = steps.merge(config, "bible")
    assert elm.card.tokenizer_sha256 == Forest(config.forest_root).identity["tokenizer_sha256"]


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_what_is_recorded_is_what_the_class_that_loads_does(begins, settings, tmp_path):
    """The words in a folder mean what transformers makes of them, and that changes by version."""
    ids = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "\u2581", "a", "b"])}
    made = LlamaTokenizer(vocab=ids, merges=[], add_bos_token=begins)
    made.save_pretrained(tmp_path / "made")
    file = tmp_path / "made" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    found = AutoTokenizer.from_pretrained(tmp_path / "made")("a").input_ids
    assert settings or (found[0] == ids["<s>"]) == begins
    copy_tokenizer(tmp_path / "made", tmp_path / "copy")
    assert begins_with_bos(tmp_path / "copy") == (found[0] == ids["<s>"])
    assert read_origin(tmp_path / "copy").get("bos") == (ids["<s>"] if found[0] == 1 else None)


def test_a_tokenizer_without_the_convention_is_what_it_was(tokenizers, tmp_path):
    copy_tokenizer(tokenizers / "plain", tmp_path / "copy")
    assert "bos" not in read_origin(tmp_path / "copy")
    assert tokenizer_sha256(tmp_path / "copy") == tokenizer_sha256(tokenizers / "plain")
    copy_tokenizer(tokenizers / "bos", tmp_path / "with")
    assert tokenizer_sha256(tmp_path / "with") != tokenizer_sha256(tmp_path / "copy")
    copy_tokenizer(tmp_path / "with", tmp_path / "again")
    assert tokenizer_sha256(tmp_path / "again") == tokenizer_sha256(tmp_path / "with")


@pytest.mark.parametrize(("made_with", "policy"), [("plain", "always"), ("bos", "never")])
def test_a_policy_that_overrules_the_tokenizer_holds_everywhere(
    made_with, policy, tokenizers, texts, tmp_path, capsys
):
    """Prepare, seed, eval, import, export: through the CLI, and with one word, in the first one."""
    model = make_folder(tmp_path / "llama", tokenizers / made_with, bos_token_id=0, eos_token_id=2)
    made = ["experiment=smoke", f"data.root={texts}", f"data.out={tmp_path / 'data'}"]
    made += [f"data.tokenizer={model}", f"seed.from={model}", "score.max_tokens=2000"]
    made += [f"score.window={WINDOW}", f"trainer.seq_len={WINDOW}", f"data.bos={policy}"]
    made += [f"forest={tmp_path / 'forest'}"]
    assert main.main(["prepare", *made]) == main.main(["seed", *made]) == 0
    forest, later = Forest(tmp_path / "forest"), [f"forest={tmp_path / 'forest'}"]
    begins = policy == "always"
    what = "the token 0" if begins else "no BOS"
    assert f"texts begin with {what} (data.bos={policy})" in forest["seed"].card.notes
    record = json.loads((tmp_path / "forest/suites/smoke.json").read_text())
    assert record["data"]["bos"] == policy

    assert main.main(["eval", *later, "eval.domains=[bible]"]) == 0
    (found,) = (tmp_path / "forest/evals").glob("*.json")
    entry = json.loads(found.read_text())["shards"]["bible/test"]
    shard = steps.open_suite(compose(made)).shard("bible", "test")
    ids = torch.from_numpy(shard.tokens[: shard.head(2000)[0]].astype("int64"))
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    nats, counted = 0.0, 0
    for start in range(0, len(ids), WINDOW):
        targets = ids[start : start + WINDOW]
        first = 0 if begins else ids[start - 1] if start else 2
        with torch.no_grad():
            logp = net(torch.cat([torch.tensor([first]), targets[:-1]])[None]).logits[0]
        chosen = logp.log_softmax(-1).gather(1, targets[:, None])[targets != 0].double()
        nats, counted = nats - float(chosen.sum()), counted + len(chosen)
    assert entry["experts"]["seed"]["perplexity"] == pytest.approx(np.exp(nats / counted), rel=1e-4)
    assert entry["tokens"] == counted
    assert (len(ids) > counted) == begins

    mixed = Ensemble.load(forest, {"seed": 1.0})
    with torch.no_grad():
        wanted = net(torch.tensor([[0 if begins else 2]])).logits[0, -1].log_softmax(-1)
    np.testing.assert_allclose(mixed.next_logp(), wanted, atol=2e-5)

    (tmp_path / "more").mkdir()
    twin = make_folder(tmp_path / "more/twin", tokenizers / made_with, seed=1, bos_token_id=0)
    assert main.main(["import", *later, f"from={twin}", "name=twin"]) == 0
    out = tmp_path / "out"
    assert main.main(["export", *later, "expert=twin", f"to={out}"]) == 0
    exported = AutoTokenizer.from_pretrained(out)
    plain = exported("in", add_special_tokens=False).input_ids
    assert exported("in").input_ids == ([0] if begins else []) + plain
    capsys.readouterr()
    other = {"always": "never", "never": "always"}[policy]
    for verb in ("eval", "prepare"):
        assert main.main([verb, *later, f"data.bos={other}"]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"data.bos={other}: texts of" in line
        assert f"begin with {'a' if begins else 'no'} BOS" in line


def test_where_positions_end_a_text_goes_on_from_bos(words):
    config = compose(words)
    mixed = Ensemble.load(Forest(config.forest_root), {"seed": 1.0})
    (reader,) = mixed._members.values()
    reader.limit = 16
    ids = list(range(20, 40))
    mixed.read(ids)
    net = reader.model
    assert reader.seen[0] == 0 and reader.seen[1:] == ids[-len(reader.seen) + 1 :]
    with torch.inference_mode():
        wanted = net(torch.tensor([reader.seen])).logits[0, -1].log_softmax(-1)
    np.testing.assert_allclose(mixed.next_logp(), wanted, atol=2e-5)


def test_the_card_of_what_is_trained_so_says_it(words):
    config = compose([*words, "trainer.valid_tokens=256"])
    steps.branch(config, "code", "code_python")
    trained = steps.train(config, "code")
    assert trained.result["settings"]["data.bos"] == "always"
