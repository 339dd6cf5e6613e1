"""The memory that `btm serve` forecasts is that of the models and the caches, once they are there."""

from dataclasses import replace

import pytest
import torch

from btm.cli.main import main
from btm.config.load import LoadConfig
from btm.forest import Forest
from btm.models import inference
from btm.serve.catalog import Catalog
from btm.serve.memory import memory_of


def found(config, load=None, **limits):
    load = load or LoadConfig()
    catalog = Catalog(replace(config, load=load))
    return memory_of(catalog, load, replace(config.serve, **limits))


@pytest.mark.parametrize("load", [LoadConfig(), LoadConfig(dtype="bf16")])
def test_weights_and_caches_are_those_of_the_loaded_model(grown, load):
    size = found(grown[0], load).sizes["bible"]
    model = inference.load(Forest(grown[0].forest_root)["bible"].path, "cpu", load)
    held = {p.data_ptr(): p for p in model.parameters()}  # the embeddings are the head
    assert size.weights == sum(p.numel() * p.element_size() for p in held.values())
    with torch.inference_mode():
        cache = model(torch.zeros(1, 10, dtype=torch.long), use_cache=True).past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    assert 10 * size.token == sum(t.numel() * t.element_size() for pair in layers for t in pair)


def test_int8_is_told_within_a_tenth(grown):
    pytest.importorskip("bitsandbytes")
    from btm.models import int8

    load = LoadConfig("int8")
    model = inference.load(Forest(grown[0].forest_root)["bible"].path, "cpu", load)
    stored = int8.storage(model)
    real = stored.linears + stored.layers_rest + stored.rest
    assert found(grown[0], load).sizes["bible"].weights == pytest.approx(real, rel=0.1)


def test_the_most_is_all_weights_and_the_largest_ensemble_full_of_texts(grown):
    memory = found(grown[0], running=3, context=100)
    weights = sum(size.weights for size in memory.sizes.values())
    token = sum(memory.sizes[name].token for name in ("bible", "code_python", "speeches"))
    assert memory.most == weights + 3 * 2 * 100 * token
    assert "3 texts of 100 tokens" in memory.lines[-1]
    assert f"each of {len(memory.sizes)} (bible, " in memory.lines[0]


def test_a_dry_run_says_it(grown, capsys):
    assert main(["serve", f"forest={grown[0].forest_root}", "--dry-run"]) == 0
    assert "KV cache of 1,000 tokens of a text: 1.0 MB each of" in capsys.readouterr().out
