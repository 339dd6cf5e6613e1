"""Adapters: what peft loads of ours, and what comes in of what peft saved."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from folders import ROOT

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.config.training import ModelConfig
from btm.errors import UserError
from btm.forest import Forest, adapter
from btm.interop import formats, peft_files
from btm.models import adapted as models_adapted
from btm.models import causal_lm, configs, low_rank, weights
from btm.system import sums

# peft asks a model of transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
LORA = ("branch=copy", "trainer.adapter=lora", "trainer.lora_rank=2", "trainer.lr=0.02")
TOKENS = torch.arange(4, 24)[None]


@pytest.fixture(scope="module")
def adapted(grown, workspace, tmp_path_factory):
    """Words of a forest whose experts one and two are adapters of its seed, of ranks 2 and 3."""
    root = tmp_path_factory.mktemp("adapted") / "forest"
    shutil.copytree(grown[0].forest_root, root)
    words = [*workspace, f"forest={root}", *LORA, "trainer.steps=6", "merge.force=true"]
    for name, domain, more in (
        ("one", "bible", ["trainer.lora_targets=[q_proj,up_proj]"]),
        ("two", "speeches", ["trainer.lora_rank=3", "trainer.lora_targets=[q_proj,o_proj]"]),
    ):
        config = compose([*words, *more])
        steps.branch(config, name, domain)
        steps.train(config, name)
        steps.merge(config, name)
    return words


def peft():
    """The library, which takes a second to import: not before a test needs it."""
    return pytest.importorskip("peft")


def export(words, target, **names):
    config = replace(compose(words), format="lora", to=str(target), **names)
    return formats.export_model(config)[0]


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def by_peft(forest, folder):
    """The logits of the seed with the adapter that plain peft loads."""
    return logits(peft().PeftModel.from_pretrained(forest["seed"].load(), folder).eval())


def there(forest, tmp_path, words, *more):
    """A forest of the same seed without adapters, and words to import into it."""
    other = shutil.copytree(forest.root, tmp_path / "other")
    for name in ("one", "two"):
        shutil.rmtree(other / "elms" / name)
    return compose([*words, f"forest={other}", "format=lora", *more])


def test_peft_loads_an_expert_with_equal_logits_and_it_comes_back(adapted, tmp_path):
    forest = Forest(compose(adapted).forest_root)
    target = export(adapted, tmp_path / "out", expert="one")
    whole = logits(forest["one"].load())
    assert (whole - logits(forest["seed"].load())).abs().max() > 0.01
    torch.testing.assert_close(by_peft(forest, target), whole, rtol=0, atol=1e-5)
    config = there(forest, tmp_path, adapted, f"from={target}", "name=came", "domain=bible")
    came = formats.import_model(config)
    ours = forest["one"]
    for file in ("model.safetensors", adapter.FILE):
        assert (came.path / file).read_bytes() == (ours.path / file).read_bytes(), file
    assert came.card.adapter == ours.card.adapter and came.card.tokens == ours.card.tokens
    assert list(came.card.parents) == ["seed"]
    assert formats.import_model(config).card == came.card
    assert export(adapted, target, expert="one") == target  # the same files
    with pytest.raises(UserError, match="holds something else"):
        export(adapted, target, expert="two")
    with pytest.raises(UserError, match="'bible' was not trained by an adapter"):
        export(adapted, tmp_path / "dense", expert="bible")


def average(words, name, *more):
    steps.average(compose([*words, f"average.name={name}", *more]))


@pytest.mark.parametrize(
    "how",
    [
        ["weights={one: 3, two: 1}"],
        ["weights={one: 1, two: 1, seed: 2}"],
        ["average.method=task_arithmetic", "weights={one: 1.0, two: -0.5}"],
    ],
    ids=["linear", "with the base", "negated"],
)
def test_an_average_is_of_products_and_not_of_factors(how, adapted, tmp_path):
    root = shutil.copytree(compose(adapted).forest_root, tmp_path / "forest")
    forest, words = Forest(root), [*adapted, f"forest={root}"]
    average(words, "both", *how)
    made = forest.paths.average("both").path
    target = export([*words, "average.name=both"], tmp_path / "out")
    config = json.loads((target / peft_files.CONFIG).read_text())
    assert max([config["r"], *config["rank_pattern"].values()]) == 5
    whole = logits(causal_lm.load_model(made))
    torch.testing.assert_close(by_peft(forest, target), whole, rtol=0, atol=1e-5)
    # As the weights of the factors' averages would not be.
    one, two = (adapter.read(forest[name].path / adapter.FILE).tensors for name in ("one", "two"))
    shares = {"one": 0.75, "two": 0.25}
    name = next(name for name in one if name in two)
    pair = (one[name], shares["one"]), (two[name], shares["two"])
    exact = sum(share * change.product() for change, share in pair)
    b = np.concatenate([one[name].b, np.zeros((len(one[name].b), 1), np.float32)], axis=1)
    a = np.concatenate([one[name].a, np.zeros((1, one[name].a.shape[1]), np.float32)])
    mixed = replace(
        two[name],
        a=shares["one"] * a + shares["two"] * two[name].a,
        b=shares["one"] * b + shares["two"] * two[name].b,
        scale=1.0,
    )
    stacked = low_rank.average([(0.75, one), (0.25, two)])[name].product()
    size = np.abs(exact).max()
    assert np.abs(stacked - exact).max() < 1e-6 * size
    assert np.abs(mixed.product() - exact).max() > 0.1 * size


def test_an_average_that_is_no_sum_of_products_goes_whole(adapted, tmp_path):
    root = shutil.copytree(compose(adapted).forest_root, tmp_path / "forest")
    words = [*adapted, f"forest={root}"]
    for name, how, said in (
        ("ties", ["average.method=ties", "weights={one: 1, two: 1}"], "no weighted sum"),
        ("mixed", ["weights={one: 1, bible: 1}"], "parent 'bible', which has no adapter"),
    ):
        average(words, name, *how)
        with pytest.raises(UserError, match=said):
            export([*words, f"average.name={name}"], tmp_path / name)
        assert not (tmp_path / name).exists()


def saved_by_peft(base, target, **settings):
    """An adapter that peft made of a base, its factors drawn, and the logits it gives."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]} | settings
        model = peft().get_peft_model(causal_lm.load_model(base), peft().LoraConfig(**settings))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(target)
    return logits(model.eval())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"down_proj": 4}, "alpha_pattern": {"0.self_attn.q_proj": 9}},
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_what_peft_saved_becomes_an_expert(settings, adapted, tmp_path):
    forest = Forest(compose(adapted).forest_root)
    wanted = saved_by_peft(forest["seed"].path, tmp_path / "saved", **settings)
    words = [f"from={tmp_path / 'saved'}", "name=came", "domain=novels", "parent=seed"]
    config = there(forest, tmp_path, adapted, *words)
    came = formats.import_model(config)
    torch.testing.assert_close(logits(came.load()), wanted, rtol=0, atol=1e-5)
    assert came.card.parents["seed"].sha256 == forest["seed"].card.sha256
    assert came.card.adapter["rank"] == 3 and came.card.adapter["targets"] == [
        "down_proj",
        "q_proj",
    ]
    assert formats.import_model(config).card == came.card
    again = formats.export_model(replace(config, to=str(tmp_path / "again"), expert="came"))[0]
    torch.testing.assert_close(by_peft(forest, again), wanted, rtol=0, atol=1e-5)


def test_transposed_layers_of_gpt2_come_in_and_go_out(tmp_path):
    text = (ROOT / "conf" / "model" / "gpt2.yaml").read_text()
    config = configs.make_config(ModelConfig(**yaml.safe_load(text)), 320, 0)
    causal_lm.new_model(config, 0).save_pretrained(tmp_path / "base")
    base, saved = tmp_path / "base", tmp_path / "saved"
    targets = ["attn.c_proj", "c_fc"]  # a square matrix, and one that is not
    settings = {"target_modules": targets, "fan_in_fan_out": True}
    wanted = saved_by_peft(base, saved, **settings)
    content = (saved / peft_files.CONFIG).read_bytes()
    found = peft_files.read(content, saved / peft_files.TENSORS, saved)
    tensors = peft_files.fitted(found.layers, base, "base")
    assert len(tensors) == 2 * config.n_layer and all(c.transposed for c in tensors.values())
    whole = shutil.copytree(base, tmp_path / "whole")
    adapter.add(tensors, whole, whole)
    torch.testing.assert_close(logits(causal_lm.load_model(whole)), wanted, rtol=0, atol=1e-5)
    (tmp_path / "out").mkdir()
    peft_files.write(tmp_path / "out", found.rank, found.alpha, tensors, {"base": {}})
    again = peft().PeftModel.from_pretrained(causal_lm.load_model(base), tmp_path / "out").eval()
    torch.testing.assert_close(logits(again), wanted, rtol=0, atol=1e-5)
    shared = models_adapted.sharing(causal_lm.load_model(base), tensors)
    torch.testing.assert_close(logits(shared), wanted, rtol=0, atol=1e-5)


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def tensors_of(file):
    from safetensors.torch import load_file

    return load_file(file)


BAD = {
    "another base": (lambda config, found: {n: t[:, :5] if "lora_A" in n else t for n, t in found.items()}, "an adapter of another base than seed: it changes"),
    "unknown layer": (lambda config, found: {n.replace("q_proj", "query"): t for n, t in found.items()}, "an adapter of another base than seed: no layer '.*query'"),
    "rank 0": (lambda config, found: change(config, r=0), "rank 0: wanted 1 or more"),
    "DoRA": (lambda config, found: change(config, use_dora=True), "its use_dora=True changes more than B A"),
    "IA3": (lambda config, found: change(config, peft_type="IA3"), "an adapter of kind 'IA3'; wanted LORA"),
    "PiSSA": (lambda config, found: change(config, init_lora_weights="pissa"), "its init_lora_weights='pissa' changes"),
    "one factor": (lambda config, found: dict(list(found.items())[1:]), "has one factor of two"),
    "more tensors": (lambda config, found: found | {"base_model.model.lm_head.weight": torch.ones(2)}, "is no factor of a linear layer"),
    "not finite": (lambda config, found: {n: t * torch.nan for n, t in found.items()}, "a number that is not finite"),
    "no JSON": (lambda config, found: config.write_text("{") and None, "not a valid adapter of peft"),
}  # fmt: skip


def test_what_is_no_adapter_of_the_base_is_refused_in_one_line(adapted, tmp_path, capsys):
    from safetensors.torch import save_file

    forest = Forest(compose(adapted).forest_root)
    saved_by_peft(forest["seed"].path, tmp_path / "good")
    words = ["name=came", "domain=novels", "parent=seed"]
    config = there(forest, tmp_path, adapted, *words)
    before = sorted(path.name for path in (tmp_path / "other").rglob("*"))
    for case, (spoil, said) in BAD.items():
        bad = shutil.copytree(tmp_path / "good", tmp_path / case.replace(" ", "-"))
        found = spoil(bad / peft_files.CONFIG, tensors_of(bad / peft_files.TENSORS))
        if isinstance(found, dict):
            save_file({n: t.contiguous() for n, t in found.items()}, bad / peft_files.TENSORS)
        config.imports.source = str(bad)
        with pytest.raises(UserError, match=said) as error:
            formats.import_model(config)
        assert "\n" not in str(error.value), case
    for given, said in (
        ([], "an adapter of which base"),
        (["parent=sed"], r"no ELM 'sed' .*did you mean 'seed'"),
        ([f"from={tmp_path}", "parent=seed"], "no adapter_config.json; wanted"),
    ):
        line = [f"from={tmp_path / 'good'}", "name=came", "domain=novels", *given]
        forest_words = [f"forest={config.forest_root}", "format=lora"]
        assert main(["import", *forest_words, *line]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(said, error), error
    assert sorted(path.name for path in (tmp_path / "other").rglob("*")) == before


def test_an_adapter_of_another_seed_is_known_by_its_hash(adapted, tmp_path):
    forest = Forest(compose(adapted).forest_root)
    target = export(adapted, tmp_path / "out", expert="one")
    config = there(forest, tmp_path, adapted, f"from={target}", "name=came", "parent=bible")
    with pytest.raises(UserError, match="an adapter of another base than bible: of 'seed' with"):
        formats.import_model(config)
    shutil.rmtree(tmp_path / "other/elms/seed")
    config.parent = None
    with pytest.raises(UserError, match=r"an adapter of another base than any in .*: of 'seed'"):
        formats.import_model(config)


def test_an_adapter_travels_as_its_parents_and_itself(adapted, tmp_path, capsys):
    root = compose(adapted).forest_root
    forest, remote = Forest(root), tmp_path / "remote"
    words = [f"forest={root}", f"to=file://{remote}"]
    assert main(["push", *words, "expert=seed"]) == 0
    capsys.readouterr()
    assert main(["push", *words, "expert=one", "push.as=delta", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    whole = (forest["one"].path / "model.safetensors").stat().st_size
    assert row["way"] == "delta" and row["bytes"] < 0.2 * whole
    assert main(["push", *words, "expert=two"]) == 0  # whole
    new = tmp_path / "new"
    assert main(["pull", f"forest={new}", f"from=file://{remote}"]) == 0
    for name in ("one", "two"):
        for file in ("model.safetensors", adapter.FILE):
            assert (new / "elms" / name / file).read_bytes() == (
                forest[name].path / file
            ).read_bytes()
        assert Forest(new)[name].card.adapter == forest[name].card.adapter
    assert main(["verify", f"forest={new}", "--full"]) == 0


def test_a_damaged_adapter_makes_no_expert(adapted, tmp_path):
    root = compose(adapted).forest_root
    forest = Forest(root)
    config = replace(compose(adapted), format="delta", to=str(tmp_path / "d"), expert="one")
    target, _ = formats.export_model(config)
    into = replace(there(forest, tmp_path, adapted, f"from={target}"), format="delta")
    file = target / adapter.FILE
    made, whole = adapter.read(file), file.read_bytes()
    name, first = next(iter(made.tensors.items()))
    for spoiled, said in (
        (replace(first, scale=first.scale * 2), "it is damaged"),
        (replace(first, a=first.a[:, 1:]), "an adapter of another base than its parents"),
    ):
        adapter.write(file, replace(made, tensors=made.tensors | {name: spoiled}))
        sums.write(target)
        with pytest.raises(UserError, match=said):
            formats.import_model(into)
    file.write_bytes(whole[:-5])
    with pytest.raises(UserError, match="truncated"):
        formats.import_model(into)
    assert "one" not in Forest(into.forest_root)
    file.write_bytes(whole)
    sums.write(target)
    assert formats.import_model(into).card.sha256 == weights.sha256(forest["one"].path)
