"""An expert that is its parents and an adapter: training, resume, the weights as the exact sum."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from folders import ROOT

from btm import steps
from btm.cli.compose import compose
from btm.config.training import ModelConfig
from btm.data.batches import Batches
from btm.errors import UserError
from btm.forest import Forest, adapter
from btm.models import causal_lm, configs, weights
from btm.train import checkpoint, loop, schedule
from btm.train.lora import trainee as lora
from btm.train.training import Training

pytest.importorskip("peft")
LORA = ("branch=copy", "trainer.adapter=lora", "trainer.lora_rank=3", "trainer.lr=0.02")


def branch_of(config, name):
    return steps.branch(config, name, "bible").path


def run(config, folder, n=6, pulse=lambda step: False, **changes):
    trainer = replace(config.trainer, **changes)
    shard = steps.open_suite(config).shard("bible", "train")
    batches = Batches([shard], trainer.seq_len, trainer.batch_size, trainer.seed)
    plan = schedule.Schedule.of(trainer, horizon=n)
    return lora.train(Training(folder, batches, trainer, plan, n, pulse=pulse))


def content(folder):
    """The bytes of all that a training leaves."""
    last = checkpoint.latest(folder)
    files = [folder / "model.safetensors", folder / adapter.FILE]
    files += [last / checkpoint.PARAMETERS, last / checkpoint.MOMENTS]
    return [file.read_bytes() for file in files]


def test_an_expert_is_its_parent_and_the_exact_sum(copy):
    config = copy(*LORA, "trainer.lora_targets=[q_proj,down_proj]", "merge.force=true")
    begun = branch_of(config, "new")
    before = {name: np.array(t.raw()) for name, t in weights.tensors(begun).items()}
    steps.train(config, "new")
    elm = steps.merge(config, "new")
    made = adapter.read(elm.path / adapter.FILE)
    assert made.sha256 == elm.card.sha256 == weights.sha256(elm.path)
    changed = 0
    for name, tensor in weights.tensors(elm.path).items():
        if name not in made.tensors:
            assert np.array_equal(tensor.raw(), before[name]), name
            continue
        change = made.tensors[name]
        assert name.endswith(("q_proj.weight", "down_proj.weight"))
        exact = before[name].astype(np.float64) + 16 / 3 * np.ravel(
            change.b.astype(np.float64) @ change.a.astype(np.float64)
        )
        now = tensor.raw().astype(np.float64)
        assert (np.abs(now - exact) <= np.spacing(np.abs(tensor.raw()))).all(), name
        changed += int((tensor.raw() != before[name]).any())
    assert changed == len(made.tensors) > 0
    said = elm.card.adapter
    assert said["kind"] == "lora" and (said["rank"], said["alpha"]) == (3, 16.0)
    assert said["targets"] == ["down_proj", "q_proj"]
    assert said["parents"] == {"seed": Forest(config.forest_root)["seed"].card.sha256}
    assert said["parameters"] == made.parameters
    assert said["bytes"] == (elm.path / adapter.FILE).stat().st_size
    assert elm.card.settings["trainer.lora_rank"] == 3
    assert (
        "lora of rank 3, alpha 16, on down\\_proj, q\\_proj" in (elm.path / "README.md").read_text()
    )
    with pytest.raises(UserError, match=r"trainer.lora_rank was 3, now 4"):
        steps.grow_expert(
            replace(config, trainer=replace(config.trainer, lora_rank=4)), "new", ["seed"]
        )


def test_a_resumed_training_is_the_unbroken_one_bit_for_bit(copy):
    config = copy(*LORA)
    broken, whole = branch_of(config, "broken"), branch_of(config, "whole")
    said = run(config, whole).adapter
    for stop in (1, 4):
        with pytest.raises(loop.TrainingStoppedError):
            run(config, broken, pulse=lambda done, stop=stop: done == stop)
    result = run(config, broken)
    assert result.exact and content(broken) == content(whole)
    # A kill between the weights and trained.json, and one while they are moved.
    kept = content(whole)
    assert run(config, whole).adapter == said == result.adapter and content(whole) == kept
    (whole / lora._MADE).mkdir()
    (whole / adapter.FILE).rename(whole / lora._MADE / adapter.FILE)
    assert run(config, whole).adapter == said and content(whole) == kept
    shutil.rmtree(checkpoint.latest(whole))
    with pytest.raises(UserError, match="'whole' was trained, but its last checkpoint is gone"):
        run(config, whole)


def test_checkpoints_hold_the_factors_alone(copy):
    config = copy(*LORA)
    made = branch_of(config, "new")
    before = (made / "model.safetensors").read_bytes()
    with pytest.raises(loop.TrainingStoppedError):
        run(config, made, pulse=lambda done: done == 4)
    found = checkpoint.latest(made)
    names = {tensor.name for tensor in weights.header(found / checkpoint.PARAMETERS)[0]}
    assert names and all(name.endswith(("/A", "/B")) for name in names)
    assert (made / "model.safetensors").read_bytes() == before
    with pytest.raises(UserError, match=r"other settings \(lora_rank was 3, now 2\)"):
        run(config, made, lora_rank=2)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_prj"], r"'q_prj' matches no layer \(did you mean 'q_proj'\?\); have: down_proj, "),
        (["input_layernorm"], r"layernorm' is a LlamaRMSNorm, .* wanted of down_proj, "),
        (["embed_tokens"], "embed_tokens' is a Embedding"),
        (["lm_head"], "'lm_head' shares its matrix with the embedding"),
    ],
    ids=str,
)
def test_targets_that_cannot_be_adapted_are_refused(copy, targets, said):
    config = copy(*LORA)
    made = branch_of(config, "new")
    with pytest.raises(UserError, match=said):
        run(config, made, lora_targets=targets)
    assert {file.name for file in made.glob("*.safetensors")} == {"model.safetensors"}


def test_what_peft_cannot_adapt_is_refused(forest):
    model, trainer = forest["seed"].load(), compose(LORA[1:]).trainer
    with pytest.raises(
        UserError, match="peft cannot adapt LlamaForCausalLM: Target module"
    ) as error:
        lora.inject(model, ["model.norm"], trainer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.lora_rank=0"], "trainer.lora_rank=0: wanted 1 or more"),
        (["trainer.lora_alpha=0"], "trainer.lora_alpha=0.0: wanted a positive number"),
        (["trainer.lora_targets=['.*']"], "wanted the end of a layer's name"),
        (["trainer.average_last=2"], "trainer.average_last=2: does not go with trainer.adapter"),
        (["trainer.delta_density=0.1"], "does not go with trainer.adapter=lora"),
        (["trainer.carry=continue"], "trainer.carry='?continue'?: does not go with"),
        (["cluster.gpus_per_expert=2"], "does not go with trainer.adapter=lora"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        compose([*LORA, *words])


def test_a_root_has_no_adapter(copy):
    config = copy(*LORA)
    forest = Forest(config.forest_root)
    forest.root_branch("second", ["bible"], forest["seed"].load())
    with pytest.raises(UserError, match=r"trainer.adapter=lora: 'second' has no parents"):
        steps.train(config, "second")


@pytest.mark.parametrize("model", ["pico", "gpt2", "gpt_neox", "opt", "bloom"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_architecture_is_its_parent_and_its_adapter(model, dtype, tmp_path):
    file = ROOT / "conf" / "model" / f"{model}.yaml"
    config = configs.make_config(ModelConfig(**yaml.safe_load(file.read_text())), 320, 0)
    made = tmp_path / "made"
    causal_lm.new_model(config, 0).to(getattr(torch, dtype)).save_pretrained(made)
    parents = {"seed": {"weight": 1.0, "raw": 1.0, "sha256": weights.sha256(made)}}
    (made / "branch.json").write_text(json.dumps({"parents": parents}))
    start = shutil.copytree(made, tmp_path / "start")
    loaded = causal_lm.load_trainable(made, "cpu")
    trainee = lora.LoraTrainee(loaded, None, made, compose(LORA[1:]).trainer, 8)
    with torch.no_grad():
        for factor in trainee.trained.parameters():
            factor.normal_(std=0.1)
            factor.copy_(factor.half())  # what the file holds
    tokens = torch.arange(12)[None]
    wanted = loaded.eval()(input_ids=tokens).logits
    plain = causal_lm.load_model(start, dtype=torch.float32)(input_ids=tokens).logits
    assert (wanted - plain).abs().max() > 1e-2
    trainee.write(made, dtype)
    assert causal_lm.stored_dtype(made) == dtype
    found = causal_lm.load_model(made, dtype=torch.float32)(input_ids=tokens).logits
    rounding = 1e-5 if dtype == "float32" else 0.2
    torch.testing.assert_close(found, wanted, rtol=0, atol=rounding * wanted.abs().max().item())
    adapter.apply(adapter.read(made / adapter.FILE), start)
    assert (start / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
