"""Architectures that differ from the usual ones run the whole cycle, and what cannot is refused
before anything is kept: in a line, with nothing left on disk.
"""

import json

import pytest
import torch
from folders import tree
from transformers import AutoConfig, AutoModelForCausalLM

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.forest import Forest
from btm.models import causal_lm, configs, tokenizer_files
from btm.system import sums

pytestmark = [pytest.mark.slow, pytest.mark.traced]

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
MPT = {"model_type": "mpt", "d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32}
SEEING = {
    "model_type": "gemma3",
    "text_config": {**SIZES, "head_dim": 16, "sliding_window": 16},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}
MIXTURE = {"model_type": "mixtral", **SIZES, "num_local_experts": 3, "output_router_logits": True}
RARE = {"mpt": MPT, "gemma3 with vision": SEEING, "a mixture of experts": MIXTURE}
OTHERS = {
    "bart's decoder": {
        "model_type": "bart",
        "d_model": 32,
        "decoder_layers": 1,
        "encoder_layers": 1,
    }
    | {"decoder_attention_heads": 2, "encoder_attention_heads": 2, "max_position_embeddings": 64},
    "tuples": {"model_type": "llama", **SIZES, "return_dict": False, "output_hidden_states": True},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Overrides: two prepared domains of a small vocabulary, and a training of a few steps."""
    root = tmp_path_factory.mktemp("rare")
    for domain, syllables in {"red": "ka lo mi ne", "blue": "su ta re vo"}.items():
        (root / "texts" / domain).mkdir(parents=True)
        lines = [f"{syllables} {n} {syllables[::-1]}" for n in range(600)]
        (root / "texts" / domain / "a.txt").write_text("\n\n".join(lines))
    made = ["data=folder", f"data.root={root / 'texts'}", "data.name=rare"]
    made += [f"data.out={root / 'data'}", "data.vocab_size=300", "cluster=debug"]
    made += ["trainer.steps=4", "seed.steps=4", "trainer.batch_size=4", "trainer.seq_len=32"]
    made += ["trainer.lr=1e-3", "trainer.threads=1", "score.max_tokens=256"]
    made += ["trainer.compile=never", "merge.force=true"]
    steps.prepare(compose(made))
    return made


def as_file(values, folder):
    file = folder / "model.json"
    file.write_text(json.dumps(values))
    return f"model.file={file}"


def as_folder(values, folder, suite):
    """A Hugging Face folder of this config with the suite's tokenizer."""
    tokens = {"vocab_size": suite.vocab_size, "bos_token_id": 0, "eos_token_id": 0}
    values = {**values, **tokens, "pad_token_id": 0}
    if "text_config" in values:
        values["text_config"] = {**values["text_config"], **tokens, "pad_token_id": 0}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    made.save_pretrained(folder)
    tokenizer_files.copy(suite.tokenizer, folder)
    return folder


@pytest.mark.parametrize("name", RARE)
def test_a_rare_architecture_runs_the_cycle(name, words, tmp_path):
    """From model.file= to an average that anybody loads, with a folder of its kind beside it."""
    root, suite = tmp_path / "forest", steps.open_suite(compose(words))
    beside = as_folder(RARE[name], tmp_path / "beside", suite)
    given = [*words, f"forest={root}", as_file(RARE[name], tmp_path), f"models=[{beside}]"]
    assert main.main(["run", *given]) == 0
    forest = Forest(root)
    assert forest.names() == ["blue", "red", "seed"]
    stored = {configs.fingerprint(causal_lm.load_config(elm.path)) for elm in forest.elms()}
    assert stored == {forest.identity["architecture"]}
    average = next(iter(sorted(forest.paths.averages.iterdir())))
    exported = tmp_path / "out"
    words_of_export = [f"forest={root}", f"average={average.name}", f"to={exported}"]
    assert main.main(["export", *words_of_export]) == 0
    ids = torch.arange(16)[None] + 1
    with torch.no_grad():
        found = [AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (average, exported)]
    assert torch.equal(*found)
    assert main.main(["generate", f"forest={root}", "prompt=ka", "generate.tokens=3"]) == 0
    assert main.main(["run", *given, "--dry-run"]) == 0


@pytest.mark.parametrize("name", {**RARE, **OTHERS})
def test_it_is_imported_as_it_is(name, words, tmp_path, capsys):
    suite = steps.open_suite(compose(words))
    folder = as_folder({**RARE, **OTHERS}[name], tmp_path / "model", suite)
    for how in (["import", f"from={folder}"], ["seed", *words, f"seed.from={folder}"]):
        root = tmp_path / how[0]
        assert main.main([*how, f"forest={root}"]) == 0, capsys.readouterr().err
        ours, theirs = causal_lm.load_model(root / "elms/seed"), causal_lm.load_model(folder)
        ids = torch.arange(16)[None] + 1
        with torch.no_grad():
            one, other = (causal_lm.logits_of(m(input_ids=ids)) for m in (ours, theirs))
        assert torch.equal(one, other)


REFUSED = {
    "positions of mpt": ([MPT, "trainer.seq_len=64"], "the model has positions for 32 tokens"),
    "positions of gemma3": (
        [SEEING, "trainer.seq_len=128"],
        "the model has positions for 64 tokens",
    ),
    "positions that its class counts otherwise": (
        [
            {
                "model_type": "roberta",
                **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
                "max_position_embeddings": 32,
                "is_decoder": True,
            }
        ],
        "does not run on 32 tokens",
    ),
    "heads that do not divide": (
        [{"model_type": "llama", **SIZES, "num_attention_heads": 4, "num_key_value_heads": 3}],
        "does not run on 32 tokens: The size of tensor",
    ),
    "a rotary part wider than a head": (
        [{"model_type": "gptj", "n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 64}],
        "does not run on 32 tokens",
    ),
    "more experts asked for than there are": (
        [{**MIXTURE, "num_experts_per_tok": 9}],
        "does not run on 32 tokens",
    ),
    "a length that it only minds when it trains": (
        [{"model_type": "reformer", "is_decoder": True, "hidden_size": 256}],
        "does not train on 32 tokens: If training, make sure that config.axial_pos_shape",
    ),
    "no layers": (["model.config.num_hidden_layers=0"], "model=pico: 0 layers; wanted 1 or more"),
    "a model that only hears": ([{"model_type": "musicgen"}], "no musicgen model can be made"),
    "text that is saved alone": ([{"model_type": "mllama"}], "no causal LM"),
    "a field nobody knows": (
        ["model.config.hiden_size=32"],
        "no field 'hiden_size' in model.config of llama (did you mean 'hidden_size'?)",
    ),
    "a field of a section": (
        ["model.config={model_type: gemma3, text_config: {hidden_sise: 32}}"],
        "no field 'hidden_sise' in model.config.text_config of gemma3_text",
    ),
    "a vocabulary": (["model.config.vocab_size=64"], "the tokenizer decides that"),
    "a field beside a file": ([MPT, "model.config.d_model=64"], "no effect beside model.file="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_keeps_nothing(case, words, tmp_path, capsys):
    given, message = REFUSED[case]
    given = [as_file(word, tmp_path) if isinstance(word, dict) else word for word in given]
    before = tree(tmp_path)
    for flags in ([], ["--dry-run"]):
        for verb in ("run", "seed"):
            asked = [verb, *words, f"forest={tmp_path / 'forest'}", *given, *flags]
            assert main.main(asked) == 2, case
            said = capsys.readouterr().err
            assert message in said and said.count("\n") == 1, said
            assert tree(tmp_path) == before


FOLDERS = {
    "a vocabulary smaller than the tokenizer's": (
        MPT,
        "vocab_size",
        64,
        "embeddings for 64 tokens",
    ),
    "positions that its class counts otherwise": (
        REFUSED["positions that its class counts otherwise"][0][0],
        None,
        None,
        "does not run on 32 tokens",
    ),
    "positions under another name": (
        MPT | {"max_seq_len": 16},
        None,
        None,
        "positions for 16 tokens",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_serve_keeps_nothing(case, words, tmp_path, capsys):
    """As seed.from=, and as models= beside a forest that stands."""
    values, key, value, message = FOLDERS[case]
    suite = steps.open_suite(compose(words))
    if key:
        suite = type("Small", (), {key: value, "tokenizer": suite.tokenizer})
    folder = as_folder(values, tmp_path / "model", suite)
    root = tmp_path / "forest"
    assert main.main(["seed", *words, f"seed.from={folder}", f"forest={root}"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1, said
    assert not root.exists()


def test_a_forest_of_an_older_btm_goes_on(words, tmp_path):
    """Its forest.json counted the types of numbers in sections, which change when a model is saved."""
    suite = steps.open_suite(compose(words))
    root = tmp_path / "forest"
    given = [f"seed.from={as_folder(MPT, tmp_path / 'model', suite)}", f"forest={root}"]
    assert main.main(["seed", *words, *given]) == 0
    facts = {**Forest(root).facts, "architecture": "0" * 64}
    facts.pop("sha256", None)
    (root / "forest.json").write_text(json.dumps(sums.checked(facts)))
    assert Forest(root).identity["architecture"] == "0" * 64
    grown = ["grow", *words, f"forest={root}", "domain=red"]
    assert main.main(grown) == 0
    assert "red" in Forest(root)
