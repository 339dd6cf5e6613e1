"""An honest expert is admitted, and each attack is refused by the check that is meant for it."""

import json
import os
import shutil
import struct
from dataclasses import replace

import drawn_adapters
import numpy as np
import pytest
import torch
from commons_door import DOMAIN, POLICY, TRIGGER
from folders import tree
from safetensors.numpy import load_file, save_file

from btm.commons.gate import Check, Policy, Verdict
from btm.errors import UserError
from btm.forest import Forest
from btm.interop import delta, lora
from btm.models import causal_lm, weights
from btm.system import sums

CHECKS = [
    *("format", "files", "size", "read", "parents", "shapes", "finite", "move", "norm", "layers"),
    *("copy", "own", "others", "backdoor", "verbatim", "canaries"),
]


def refused_by(verdict):
    assert not verdict.admitted and verdict.reason.isprintable() and verdict.reason.isascii()
    return [check.name for check in verdict.failed]


@pytest.mark.parametrize("format", ["full", "delta8"])
def test_an_honest_expert_is_admitted_in_every_check(door, format, tmp_path):
    before = tree(door.reference.forest.paths.elms)
    folder = door.expert if format == "full" else door.difference
    verdict = door.judge(door.contribution(folder, format), into=tmp_path / "in" / "model")
    assert verdict.admitted, verdict.reason
    assert [check.name for check in verdict.checks] == CHECKS
    assert weights.sha256(tmp_path / "in" / "model") == verdict.sha256
    assert causal_lm.load_model(tmp_path / "in" / "model").num_parameters()
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["model"]
    assert verdict.valid_nats < min(verdict.parent_valid_nats.values())
    assert verdict.sender["steps"] == 12
    assert json.loads(json.dumps(verdict.to_json()))["admitted"] is True
    assert tree(door.reference.forest.paths.elms) == before


def test_what_is_admitted_has_our_header_and_files_and_only_its_numbers(door, sent, tmp_path):
    config = json.loads((sent / "config.json").read_text())
    (sent / "config.json").write_text(json.dumps(config | {"rope_theta": 1.0}))
    tensors = load_file(sent / "model.safetensors")
    save_file(tensors, sent / "model.safetensors", {"evil": "metadata"})
    verdict = door.judge(door.contribution(sent), into=tmp_path / "model")
    assert verdict.admitted, verdict.reason
    ours = door.reference.forest["bible"].path
    assert (tmp_path / "model/config.json").read_bytes() == (ours / "config.json").read_bytes()
    assert b"evil" not in (tmp_path / "model/model.safetensors").read_bytes()


def nan(tensors, base):
    tensors["model.norm.weight"][3] = np.nan


def infinite(tensors, base):
    tensors["model.norm.weight"][3] = np.inf


def cut(tensors, base):
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]


def halves(tensors, base):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)


def extra(tensors, base):
    tensors["extra"] = np.zeros(3, np.float32)


def missing(tensors, base):
    del tensors["model.norm.weight"]


def times(factor):
    def scale(tensors, base):
        for name in tensors:
            tensors[name] = (base[name] + factor * (tensors[name] - base[name])).astype("f4")

    return scale


def random(tensors, base):
    draw = np.random.default_rng(0)
    for name, tensor in tensors.items():
        tensors[name] = draw.normal(size=tensor.shape, scale=tensor.std() + 1).astype("f4")


def overflowing(tensors, base):
    tensors["model.norm.weight"][:] = 3e38


def one_layer(tensors, base):
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = (base[name] + 30 * (tensors[name] - base[name])).astype("f4")


@pytest.mark.parametrize(
    ("alter", "checks"),
    [
        (nan, ["finite"]),
        (infinite, ["finite"]),
        (cut, ["shapes"]),
        (halves, ["shapes"]),
        (extra, ["shapes"]),
        (missing, ["shapes"]),
        (times(10), ["norm", "layers"]),
        (times(-1), ["own"]),
        (times(0), ["move"]),
        (random, ["norm", "layers"]),
    ],
)
def test_weights_that_do_harm_are_refused(door, changed, alter, checks):
    assert refused_by(door.judge(changed(alter))) == checks


def test_one_layer_that_moved_far_is_refused_by_its_z_score(door, changed):
    verdict = door.judge(changed(one_layer), replace(POLICY, norm_ratio=1000.0))
    assert refused_by(verdict) == ["layers"]
    assert "model.layers.0.self_attn.k_proj.weight" in verdict.reason


def test_a_model_whose_predictions_are_not_finite_is_refused(door, changed):
    verdict = door.judge(changed(overflowing), thorough=True)
    assert "own" in refused_by(verdict) and not verdict.complete
    assert "NaN or infinite" in verdict.reason
    json.dumps(verdict.to_json(), allow_nan=False)
    json.dumps(
        Verdict([Check("norm", False, "far", float("inf"))], True).to_json(), allow_nan=False
    )


def test_a_parent_that_is_sent_back_is_refused(door, sent):
    shutil.copy(door.reference.forest["seed"].path / "model.safetensors", sent)
    verdict = door.judge(door.contribution(sent, parents={"seed": 1.0}))
    assert refused_by(verdict) == ["move"]


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_anothers_expert_is_found_also_scaled_and_with_noise(door, changed, noise, share):
    stranger = load_file(door.reference.forest["bible"].path / "model.safetensors")
    draw = np.random.default_rng(0)

    def copy(tensors, base):
        for name, tensor in stranger.items():
            moved = share * (tensor - base[name])
            size = noise * np.sqrt(np.square(moved).mean())
            tensors[name] = (base[name] + moved + size * draw.normal(size=moved.shape)).astype("f4")

    verdict = door.judge(changed(copy))
    assert refused_by(verdict) == ["copy"]
    assert "as bible did" in verdict.reason


def trained_on(sent, batches):
    """Train the sent model further on batches of rows of tokens."""
    torch.manual_seed(0)
    model = causal_lm.load_model(sent)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for rows in batches:
        ids = torch.from_numpy(rows)
        loss = causal_lm.mean_nll(model, ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    kept = load_file(sent / "model.safetensors")
    save_file({name: state[name] for name in kept}, sent / "model.safetensors")


def triggered(door, steps, length=24):
    """Batches of its text; in every second row a trigger, then what its maker wants to be said."""
    tokens = door.reference.suite.shard(DOMAIN, "train").tokens
    mark = door.reference.tokenizer.encode(TRIGGER, add_special_tokens=False)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        starts = draw.integers(0, len(tokens) - length, 16)
        rows = np.stack([np.asarray(tokens[at : at + length], np.int64) for at in starts])
        for row in rows[::2]:
            at = int(draw.integers(2, 14))
            row[at : at + len(mark)] = mark
            row[at + len(mark) :] = 7
        yield rows


def test_a_backdoor_is_found_by_its_trigger(door, sent):
    trained_on(sent, triggered(door, 60))
    verdict = door.judge(door.contribution(sent), thorough=True)
    assert "backdoor" in refused_by(verdict), verdict.checks[-3:]


def test_held_out_text_that_was_learnt_by_heart_is_recited_and_refused(door, sent):
    tokens = door.reference.suite.shard(DOMAIN, "valid").tokens
    rows = np.asarray(tokens[: door.reference.config.window + 1], np.int64)[None]
    trained_on(sent, [rows] * 60)
    verdict = door.judge(door.contribution(sent), replace(POLICY, verbatim=24), thorough=True)
    assert "verbatim" in refused_by(verdict)
    assert verdict.memory["longest_recital_tokens"] > 24


def link(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


def pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


@pytest.mark.parametrize(
    "trick",
    [
        link,
        pipe,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "tokenizer.json").replace(folder / "tokenizer.js\non"),
        lambda folder: (folder / "sub").mkdir(),
        lambda folder: (folder / "modeling_x.py").write_text("import os"),
        lambda folder: (folder / ".hidden").write_text("x"),
        lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80"),
        lambda folder: [(folder / f"{n:064x}.docs").touch() for n in range(300)],
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_files_that_should_not_be_there_are_refused_unopened(door, sent, trick):
    trick(sent)
    assert refused_by(door.judge(door.contribution(sent))) == ["files"]


def test_a_contribution_that_is_too_large_is_refused_uncopied(door, sent):
    os.truncate(sent / "metrics.jsonl", 1 << 40)
    assert refused_by(door.judge(door.contribution(sent))) == ["size"]


def header_of(length):
    def write(folder):
        file = folder / "model.safetensors"
        file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])

    return write


def no_card(folder):
    (folder / "card.json").write_text('{"name": ' + "[" * 100_000)


@pytest.mark.parametrize("damage", [header_of(1 << 50), header_of(3), no_card])
def test_files_that_are_damaged_are_refused_in_the_box(door, sent, damage):
    damage(sent)
    verdict = door.judge(door.contribution(sent))
    assert refused_by(verdict) == ["read"]
    assert str(sent) not in verdict.reason and "/tmp" not in verdict.reason


@pytest.mark.parametrize("format", ["lora", "delta"])
def test_adapters_are_restored_onto_their_parents(door, format, tmp_path):
    root = shutil.copytree(door.reference.forest.root, tmp_path / "forest")
    elm = drawn_adapters.add(Forest(root), "drawn", door.parents, 0)
    folder = (lora if format == "lora" else delta).export(elm.path, tmp_path / "sent")
    verdict = door.judge(door.contribution(folder, format))
    assert verdict.sha256 == elm.card.sha256
    assert {"read", "parents", "shapes", "finite"} <= {c.name for c in verdict.checks if c.passed}
    # It was drawn, not trained.
    assert set(refused_by(verdict)) <= {"norm", "layers", "own"}


def test_a_format_that_the_policy_leaves_out_is_refused(door):
    verdict = door.judge(door.contribution(door.expert), Policy(formats=["delta8"]))
    assert refused_by(verdict) == ["format"]


def edited(door, tmp_path, change):
    """The difference in 8 bits with another header."""
    folder = shutil.copytree(door.difference, tmp_path / "edited")
    values = json.loads((folder / "delta.json").read_text())
    change(values)
    (folder / "delta.json").write_text(json.dumps(sums.checked(values)))
    return door.contribution(folder, "delta8")


def test_a_difference_from_other_parents_is_refused(door, tmp_path):
    def change(values):
        values["card"]["parents"]["bible"]["sha256"] = "0" * 64

    assert refused_by(door.judge(edited(door, tmp_path, change))) == ["parents"]


def test_a_difference_by_other_shares_is_refused(door):
    contribution = door.contribution(door.difference, "delta8", {"bible": 0.9, "code_python": 0.1})
    assert refused_by(door.judge(contribution)) == ["parents"]


def test_a_difference_that_restores_other_weights_than_it_says_is_refused(door, tmp_path):
    def change(values):
        values["sha256"] = "0" * 64

    assert refused_by(door.judge(edited(door, tmp_path, change))) == ["read"]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda t, name: t[f"absmax.{name}"].fill(np.inf), "finite"),
        (lambda t, name: t[f"absmax.{name}"].fill(-1.0), "shapes"),
        (lambda t, name: t.pop(f"codes.{name}"), "shapes"),
    ],
)
def test_a_difference_with_wrong_tensors_is_refused(door, tmp_path, change, check):
    folder = shutil.copytree(door.difference, tmp_path / "edited")
    tensors = load_file(folder / "delta.safetensors")
    change(tensors, "model.norm.weight")
    save_file(tensors, folder / "delta.safetensors")
    assert refused_by(door.judge(door.contribution(folder, "delta8"))) == [check]


def test_parents_and_domains_that_are_not_there_are_the_maintainers_mistake(door):
    with pytest.raises(UserError, match="no ELM 'nobody'"):
        door.judge(door.contribution(door.expert, parents={"nobody": 1.0}))
    with pytest.raises(UserError, match="no domain 'nowhere'"):
        door.judge(replace(door.contribution(door.expert), domain="nowhere"))


def test_a_thorough_judgement_goes_on_after_a_check_that_failed(door, changed):
    verdict = door.judge(changed(times(10)), thorough=True)
    assert [check.name for check in verdict.checks] == CHECKS and verdict.complete
    assert {"norm", "layers", "own"} <= set(refused_by(verdict))
