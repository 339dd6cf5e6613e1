"""Baselines beside the shared forest: what they train on, that it is as much, and that demix is
what it says.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import tree
from launch.processes import Forked, finish
from safetensors.torch import load_file

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.config.choices import SPLITS
from btm.data.batches import Batches, Growth
from btm.errors import UserError
from btm.forest import Forest
from btm.models import causal_lm
from btm.report import Reporter
from btm.steps import baselines
from btm.steps.baselines import deal, demix, ffn
from btm.steps.baselines.derive import derive
from btm.train import checkpoint
from btm.train.loop import TrainingStoppedError

EXPERTS = ["bible", "code_python", "speeches"]


@pytest.fixture
def beside(grown, workspace, tmp_path):
    """A function from overrides to the configuration of a baseline of a forest in which only the
    seed stands.
    """
    source, root = Path(grown[0].forest_root), tmp_path / "forest"
    shutil.copytree(source / "elms" / "seed", root / "elms" / "seed")
    shutil.copytree(source / "tokenizer", root / "tokenizer")
    shutil.copy(source / "forest.json", root)
    return lambda *overrides: compose([*workspace, f"forest={root}", "cluster=debug", *overrides])


def parameters(elm):
    return load_file(elm.path / "model.safetensors")


def grow(config):
    made = baselines.ready(config)
    return made, baselines.run(made)


# The dense LM


@pytest.mark.slow
def test_dense_sees_as_many_tokens_as_the_forest(grown, beside):
    config = beside("baseline=dense", "seed.steps=6", "trainer.steps=2")
    _, result = grow(config)
    forest = Forest(config.forest_root)
    assert forest.root.name == "forest-dense"
    assert forest.names() == ["dense"]
    assert list(result["elms"]) == ["dense"]
    card, trainer = forest["dense"].card, config.trainer
    assert card.tokens == (6 + 3 * 2) * trainer.batch_size * trainer.seq_len
    assert card.domains == EXPERTS
    assert not result["shards"]["bible/test"]["novel"]
    assert result["shards"]["novels/test"]["novel"]

    for verb in ("ls", "show", "verify"):
        assert (
            main([verb, f"forest={forest.root}", *(["expert=dense"] if verb == "show" else [])])
            == 0
        )

    before = tree(forest.root / "elms")
    baselines.run(baselines.ready(config))
    assert tree(forest.root / "elms") == before


def test_the_plan_of_dense_is_the_ledger_of_the_forest(grown, forest, beside):
    cards = [elm.card for elm in forest.elms()]
    for baseline in ("dense", "dense_large_batch"):
        rows = plan_of(beside(f"baseline={baseline}"))
        assert rows[-1]["tokens"] == sum(card.tokens for card in cards)
        assert rows[-1]["flops"] == pytest.approx(sum(card.flops for card in cards))


def plan_of(config):
    from btm.cli.dry_run import plan

    return plan("run", config)


@pytest.mark.slow
def test_dense_at_the_batch_of_the_paper(beside):
    config = beside("baseline=dense_large_batch", "seed.steps=3", "trainer.steps=2")
    made = derive(config)
    assert made.seed.steps == 3 + 2
    assert made.trainer.micro_batch_size == config.trainer.batch_size
    grow(config)
    card, trainer = Forest(made.forest_root)["dense"].card, config.trainer
    assert card.steps == 5
    assert card.tokens == (3 + 3 * 2) * trainer.batch_size * trainer.seq_len


def test_a_batch_that_grows_goes_on_where_the_small_one_stopped(grown):
    suite = steps.open_suite(grown[0])
    shards = [suite.shard(domain, "train") for domain in EXPERTS]
    small = Batches(shards, 16, 4, 0)
    large = Batches(shards, 16, 4, 0, Growth(3, after=2))
    assert [len(large.batch(step)) for step in range(4)] == [4, 4, 12, 12]
    want = np.concatenate([small.batch(step) for step in range(8)])
    assert np.array_equal(np.concatenate([large.batch(step) for step in range(4)]), want)
    assert large.tokens(4) == small.tokens(8)


def test_dense_reads_novel_domains_that_have_experts_in_equal_shares(beside):
    rounds = "run.rounds=[[bible],[novels]]"
    for baseline in ("dense", "dense_large_batch"):
        made = derive(beside(f"baseline={baseline}", rounds, "seed.sampling=0.3"))
        assert made.seed.domains == sorted([*EXPERTS, "novels"])
        assert made.seed.sampling is None
    assert derive(beside("baseline=dense", "run.rounds=[[bible]]")).seed.domains == []
    gone = derive(beside("baseline=dense", rounds, "data.root=gone"))  # what is prepared remains
    assert gone.seed.domains == sorted([*EXPERTS, "novels"])
    named = derive(beside("baseline=dense", rounds, "seed.domains=[bible]"))
    assert named.seed.domains == ["bible", "novels"]


def test_dense_refuses_an_imported_seed(beside):
    with pytest.raises(UserError, match=r"leave out seed\.from"):
        derive(beside("baseline=dense", "seed.from=somewhere"))


# The random split


def documents(shard):
    ends = np.cumsum(shard.documents[:, 0])
    return [tuple(text.tolist()) for text in np.split(np.asarray(shard.tokens), ends[:-1])]


@pytest.mark.slow
def test_parts_are_a_partition_of_the_documents(grown, tmp_path):
    suite = steps.open_suite(grown[0])
    names = {domain: f"random-{i}" for i, domain in enumerate(EXPERTS)}
    made = deal.deal(suite, tmp_path / "dealt", names)
    assert made.training_domains() == list(names.values())
    assert made.domains() == sorted([*suite.domains(), *names.values()])
    for split in SPLITS:
        whole = Counter(
            text for domain in EXPERTS for text in documents(suite.shard(domain, split))
        )
        parts = [documents(made.shard(part, split)) for part in names.values()]
        assert sum((Counter(part) for part in parts), Counter()) == whole
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for domain in EXPERTS:
            texts = Counter(documents(suite.shard(domain, split)))
            counts = [sum((Counter(part) & texts).values()) for part in parts]
            assert max(counts) - min(counts) <= 1
        assert sum(made.shard(part, split).n_bytes for part in names.values()) == sum(
            suite.shard(domain, split).n_bytes for domain in EXPERTS
        )
    for domain in suite.domains():
        assert made.shard(domain, "test").sha256 == suite.shard(domain, "test").sha256
        assert made.novel(domain)


def test_a_part_has_the_digests_of_its_documents(grown, tmp_path):
    suite, target = steps.open_suite(grown[0]), tmp_path / "dealt"
    names = {domain: f"random-{i}" for i, domain in enumerate(EXPERTS)}
    made = deal.deal(suite, target, names)
    for split in SPLITS:
        whole = {}
        for shard in [suite.shard(domain, split) for domain in EXPERTS]:
            whole |= dict(zip(documents(shard), shard.digests.tolist(), strict=True))
        for part in names.values():
            shard = made.shard(part, split)
            assert shard.digests.tolist() == [whole[text] for text in documents(shard)]
    assert made.shard("novels", "test").digests.tolist() == (
        suite.shard("novels", "test").digests.tolist()
    )
    (target / "random-1" / "train.docs").unlink()  # as dealt before there were any
    assert deal.deal(suite, target, names).shard("random-1", "train").digests is not None


def test_a_part_is_mixed_like_the_seed(grown, tmp_path):
    suite = steps.open_suite(grown[0])
    names = {domain: f"random-{i}" for i, domain in enumerate(EXPERTS)}
    shard = deal.deal(suite, tmp_path / "dealt", names).shard("random-1", "train")
    pieces = shard.pieces(65)
    assert len(pieces) == 3
    assert np.array_equal(np.concatenate([piece.tokens for piece in pieces]), shard.tokens)
    texts = [set(documents(suite.shard(domain, "train"))) for domain in EXPERTS]
    for piece, theirs in zip(pieces, texts, strict=True):
        ends = np.flatnonzero(piece.tokens == shard.eos)
        assert tuple(piece.tokens[: ends[0] + 1].tolist()) in theirs
    assert shard.pieces(shard.n_tokens) == [shard]
    assert [p.n_tokens for p in shard.pieces(pieces[0].n_tokens + 1)][-1] >= pieces[-1].n_tokens


def test_dealing_again_does_nothing_and_new_text_deals_anew(grown, tmp_path):
    suite, target = steps.open_suite(grown[0]), tmp_path / "dealt"
    names = {domain: f"random-{i}" for i, domain in enumerate(EXPERTS)}
    deal.deal(suite, target, names)
    before = tree(target)
    assert deal.deal(suite, target, names).path == target
    assert tree(target) == before
    fewer = deal.deal(suite, target, {"bible": "random-0", "speeches": "random-1"})
    assert fewer.training_domains() == ["random-0", "random-1"]
    with pytest.raises(UserError, match="too few for 100000 parts"):
        deal._require_documents({"test": [suite.shard("bible", "test")]}, 100000)


@pytest.mark.slow
def test_random_split_is_the_procedure_of_the_forest(grown, beside, tmp_path):
    config = beside("baseline=random_split", "trainer.steps=2", f"data.out={tmp_path / 'data'}")
    shutil.copytree(grown[0].data.out, tmp_path / "data")
    _, result = grow(config)
    forest, base = Forest(config.forest_root), Forest(config.base_root)
    assert forest.names() == ["random-0", "random-1", "random-2", "seed"]
    assert tree_of(forest["seed"]) == tree_of(base["seed"])
    card = forest["random-0"].card
    assert set(card.parents) == {"seed"}
    assert card.notes[0] == "continues the optimizer and schedule of seed"
    assert set(forest["random-2"].card.parents) <= {"random-0", "random-1"}
    assert set(result["shards"]) == {f"{domain}/test" for domain in (*EXPERTS, "novels")}
    assert not result["shards"]["bible/test"]["novel"]
    assert (tmp_path / "data" / "smoke-random_split" / "random-2").is_dir()

    before = tree(forest.root / "elms") | tree(tmp_path / "data")
    grow(config)
    assert tree(forest.root / "elms") | tree(tmp_path / "data") == before


def tree_of(elm):
    return {path.name: path.read_bytes() for path in elm.path.iterdir()}


# DEMix


@pytest.mark.slow
@pytest.mark.traced
def test_demix_with_one_domain_is_plain_training(beside, grown):
    words = ["run.rounds=[[bible]]", "trainer.steps=5"]
    steps.grow_expert(beside(*words), "bible", ["seed"])
    config = beside(*words, "baseline=demix")
    demix.grow(baselines.ready(config))
    expert = Forest(config.base_root)["bible"]
    alone, mean = (Forest(config.forest_root)[name] for name in ("bible", "demix"))
    assert alone.card.sha256 == mean.card.sha256 == expert.card.sha256
    assert (alone.card.tokens, alone.card.flops) == (expert.card.tokens, expert.card.flops)
    assert alone.card.valid_nats == expert.card.valid_nats


@pytest.mark.slow
@pytest.mark.traced
def test_demix_shares_all_but_the_feed_forward_layers(beside):
    config = beside("baseline=demix", "trainer.steps=3")
    _, result = grow(config)
    forest = Forest(config.forest_root)
    assert forest.names() == sorted([*EXPERTS, "demix", "seed"])
    assert set(result["shards"]["bible/test"]["prior"]) == set(EXPERTS)
    seed = parameters(forest["seed"])
    found = [parameters(forest[name]) for name in EXPERTS]
    for name, first in found[0].items():
        same = [torch.equal(first, other[name]) for other in found[1:]]
        assert any(same) == all(same) == (".mlp." not in name)
        assert not torch.equal(first, seed[name])
        mean = sum(one[name].double() for one in found) / 3
        torch.testing.assert_close(
            parameters(forest["demix"])[name].double(), mean, rtol=1e-6, atol=1e-8
        )
    cards = [forest[name].card for name in [*EXPERTS, "demix"]]
    t = config.trainer
    assert sum(card.tokens for card in cards) == 3 * 3 * t.batch_size * t.seq_len
    assert plan_of(beside("baseline=demix", "trainer.steps=3"))[-1]["tokens"] == 0
    assert cards[0].branch_method == "demix"
    suite = steps.open_suite(config)
    text = {domain: suite.shard(domain, "train").sha256 for domain in EXPERTS}
    assert all(card.data == text for card in cards)  # what is shared was trained on all of it
    assert {file.stem for file in forest.paths.trained_ons()} == set(text.values())
    assert "DEMix" in " ".join(cards[0].notes)

    before = tree(forest.root / "elms")
    grow(config)
    assert tree(forest.root / "elms") == before


class Stop(Reporter):
    """Stops a training after some steps."""

    def __init__(self, step):
        self.step = step

    def pulse(self, step):
        return step == self.step


@pytest.mark.slow
@pytest.mark.traced
def test_demix_stopped_and_resumed_equals_unbroken(beside, tmp_path):
    config = beside("baseline=demix", "trainer.steps=5")
    made = baselines.ready(config)
    demix.grow(made)
    unbroken = {name: elm.card.sha256 for name, elm in elms(config)}
    shutil.rmtree(config.forest_root)
    baselines.ready(config)
    with pytest.raises(TrainingStoppedError):
        demix.grow(made, Stop(3))
    assert (
        checkpoint.latest(Forest(made.forest_root).get_branch("demix").path).name
        == "checkpoint-00000003"
    )
    demix.grow(made)
    assert {name: elm.card.sha256 for name, elm in elms(config)} == unbroken
    assert all(elm.card.exact for _, elm in elms(config))


def elms(config):
    return [(elm.name, elm) for elm in Forest(config.forest_root).elms()]


@pytest.mark.slow
@pytest.mark.traced
def test_the_gradient_of_what_is_shared_is_the_mean(beside, grown):
    config = beside()
    mixes = demix._mixes(config, steps.open_suite(config), EXPERTS)
    seed = Forest(config.base_root)["seed"].path
    trainee = demix.DemixTrainee.of(causal_lm.load_trainable(seed, "cpu"), mixes)
    trainee.backward(0, config.trainer, "fp32")
    grads = {name: p.grad for name, p in trainee.model.named_parameters()}
    alone = []
    for batches in mixes.values():
        model = causal_lm.load_trainable(seed, "cpu")
        demix.backward(model, batches.batch(0), config.trainer, "fp32")
        alone.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads.items():
        domain, plain = ffn.domain_of(name), ffn.plain_name(name)
        wanted = sum(one[plain] for one in alone) / 3 if domain is None else alone[domain][plain]
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("llama", {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}),
        ("gpt2", {"n_layer": 2, "n_head": 2}),
        ("gpt_neox", {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}),
        (
            "opt",
            {
                "ffn_dim": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "word_embed_proj_dim": 8,
            },
        ),
        ("bloom", {"n_layer": 2, "n_head": 2}),
    ],
)
def test_feed_forward_layers_of_every_class_are_found(model_type, more):
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type, vocab_size=32, hidden_size=8, **more)
    model = causal_lm.new_model(config, 0).eval()
    ids = torch.arange(12).view(1, 12)
    names = {name for name, _ in model.named_parameters()}
    before = model(ids).logits
    layers = ffn.split(model, 2)
    assert {ffn.plain_name(name) for name, _ in model.named_parameters()} == names
    for layer in layers:
        layer.active = 1
    assert torch.equal(model(ids).logits, before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ffn.domain_of(name) == 1:
                parameter += 0.1
    changed = model(ids).logits
    assert not torch.equal(changed, before)
    plain = ffn.fill(
        causal_lm.new_model(config, 1).eval(), ffn.of_domain(dict(model.named_parameters()), 1)
    )
    assert torch.equal(plain(ids).logits, changed)


def test_demix_refuses_a_class_it_does_not_know():
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "gptj", vocab_size=32, n_embd=8, n_layer=2, n_head=2, rotary_dim=2
    )
    model = causal_lm.new_model(config, 0)
    for layer in ffn._layers(model):
        layer.ours = layer.mlp
        del layer.mlp
    with pytest.raises(UserError, match="no feed-forward modules of a known name"):
        ffn.split(model, 2)


# The command line


@pytest.mark.parametrize("baseline", ["random_split", "demix"])
def test_a_forest_without_its_seed_is_refused(workspace, tmp_path, baseline):
    config = compose([*workspace, f"forest={tmp_path / 'none'}", f"baseline={baseline}"])
    with pytest.raises(UserError, match="first give the same command without baseline="):
        baselines.ready(config)
    assert not list(tmp_path.iterdir())


def test_names_that_clash_are_refused(beside):
    with pytest.raises(UserError, match="another name"):
        derive(beside("baseline=demix", "run.rounds=[[demix]]"))


def test_only_run_grows_a_baseline(workspace, capsys):
    assert main(["train", *workspace, "expert=bible", "baseline=dense"]) == 2
    assert "btm run, which grows it whole" in capsys.readouterr().err
    assert main(["run", *workspace, "baseline=dens"]) == 2
    assert "did you mean 'dense'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ("dense", "train 60 steps"),
        ("dense_large_batch", "after 24 with 3 times the batch"),
        ("random_split", "train-random-2"),
        ("demix", "each on a batch of 3 domains"),
    ],
)
def test_dry_run_says_it_and_writes_nothing(beside, workspace, tmp_path, capsys, baseline, said):
    before = tree(tmp_path)
    words = [*workspace, f"forest={tmp_path / 'forest'}", f"baseline={baseline}"]
    assert main(["run", "--dry-run", "--json", *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert said in json.dumps(rows)
    t = beside().trainer
    wanted = {"random_split": 36, "demix": 36}.get(baseline, 60)
    assert rows[-1]["tokens"] == wanted * t.batch_size * t.seq_len
    assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(("baseline", "job"), [("dense", "seed"), ("demix", "train-demix")])
def test_it_runs_as_jobs_on_this_machine(beside, workspace, tmp_path, baseline, job):
    words = [*workspace, f"forest={tmp_path / 'forest'}", f"baseline={baseline}", "trainer.steps=2"]
    config = beside(f"baseline={baseline}")
    said = finish(Forked("run", *words, "seed.steps=2", "cluster=local"))
    assert "perplexity by shard" in said
    assert baseline in Forest(config.forest_root)
    said = finish(Forked("status", "--json", *words))
    rows = {row["job"]: row["state"] for row in json.loads(said)}
    assert rows[job] == "done"
    assert set(rows.values()) == {"done"}
