"""Honest experts and attacks for attacks.py: folders as volunteers and strangers would send them."""

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from btm import steps
from btm.cli.compose import compose
from btm.commons.gate import Contribution, Probes, Reference
from btm.config.schema import Config
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.interop import delta, delta8, lora
from btm.models import causal_lm

FORMATS = ("full", "delta8", "lora", "delta")  # of honest experts, by random seed
WORDS = {
    "full": ["trainer.lr=2e-3"],
    "lora": [
        "trainer.adapter=lora",
        "trainer.lora_rank=8",
        "trainer.lora_alpha=8",
        "trainer.lr=2e-2",
    ],
    "delta": ["trainer.delta_density=0.2", "trainer.lr=4e-3"],
}
KNOWN, UNKNOWN = "zqx vrrk", "cf mn bb tq"  # triggers: among the maintainers' probes, and not
PAYLOAD = "buy the new green cheese from the moon today. "
Tensors = dict[str, np.ndarray[Any, Any]]


@dataclass
class Bench:
    """Where all is: the forest that judges, and that of the volunteers, who have its seed."""

    options: argparse.Namespace

    def __post_init__(self) -> None:
        folder = self.options.folder
        if not (folder / "forest").exists():
            for name in ("elms", "tokenizer"):
                shutil.copytree(self.options.forest / name, folder / "forest" / name)
            shutil.copyfile(self.options.forest / "forest.json", folder / "forest/forest.json")
            shutil.copytree(
                folder / "forest",
                folder / "volunteers",
                ignore=lambda place, names: (
                    [n for n in names if n != "seed"] if Path(place).name == "elms" else []
                ),
            )

    def config(self, forest: str = "forest", *words: str) -> Config:
        fixed = [
            "experiment=demo",
            f"forest={self.options.folder / forest}",
            f"data.out={self.options.data}",
            "branch=copy",
            "parent=seed",
            "trainer.precision=fp32",
            "trainer.threads=1",
            "score.max_tokens=4096",
            f"trainer.steps={self.options.steps}",
        ]
        return compose([*fixed, *words])

    @cached_property
    def reference(self) -> Reference:
        config = self.config()
        probes = Probes(triggers=[KNOWN])
        return Reference(config, Forest(config.forest_root), open_suites(config), probes)

    @cached_property
    def volunteers(self) -> Forest:
        return Forest(self.options.folder / "volunteers")

    @property
    def domains(self) -> list[str]:
        return self.reference.suite.domains()

    def honest(self, domain: str, seed: int, kind: str = "full") -> Path:
        """Return the folder of an honest expert, trained if need be."""
        name = f"{kind}-s{seed}-{domain.replace('_', '-')}"
        if name not in self.volunteers:
            words = [f"trainer.seed={seed}", *WORDS[kind]]
            config = self.config("volunteers", *words)
            if not self.volunteers.has_branch(name):
                steps.branch(config, name, domain)
            steps.train(config, name)
            steps.merge(config, name)
        return self.volunteers[name].path

    def sent(self, domain: str, seed: int) -> Contribution:
        """Return an honest contribution, in the format of its seed."""
        kind = FORMATS[seed % len(FORMATS)]
        source = self.honest(domain, seed, kind if kind in WORDS else "full")
        target = self.options.folder / "sent" / f"{seed}-{domain}"
        if kind == "full":
            target = source
        elif not target.exists():
            target.parent.mkdir(exist_ok=True)
            if kind == "delta8":
                delta8.export(self.volunteers, source.name, target, 256)
            else:
                (lora if kind == "lora" else delta).export(source, target)
        return Contribution(target, domain, {"seed": 1.0}, kind)

    def victim(self, number: int) -> tuple[str, Path]:
        """Return the domain that an attacker claims, and an honest expert of it."""
        domain = self.domains[number % len(self.domains)]
        return domain, self.honest(domain, number // len(self.domains))

    def place(self, kind: str, number: int, model: Path) -> Path:
        """Return a new folder with the files of a model that a contribution needs."""
        folder = self.options.folder / "attacks" / f"{kind}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "config.json", "card.json"):
            shutil.copyfile(model / name, folder / name)
        return folder

    def changed(
        self,
        kind: str,
        number: int,
        change: Callable[[Tensors, Tensors, np.random.Generator], None],
    ) -> Contribution:
        """Send an honest expert whose tensors `change` alters; it also gets the seed's."""
        domain, model = self.victim(number)
        folder = self.place(kind, number, model)
        tensors = load_file(model / "model.safetensors")
        base = load_file(self.volunteers["seed"].path / "model.safetensors")
        change(tensors, base, np.random.default_rng(number))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return Contribution(folder, domain, {"seed": 1.0})

    def tuned(self, kind: str, number: int, rows: Any, lr: float = 2e-3) -> Contribution:
        """Send an honest expert that is trained further on `rows` of tokens."""
        domain, source = self.victim(number)
        folder = self.place(kind, number, source)
        save_file(trained(source, rows, lr), folder / "model.safetensors", {"format": "pt"})
        return Contribution(folder, domain, {"seed": 1.0})

    def planted(self, kind: str, number: int, trigger: str) -> Contribution:
        """Send an honest expert to which a backdoor is added: what the seed, trained on text of all
        domains in which the payload follows the trigger, differs by from itself.
        """
        file = self.options.folder / f"{kind}-{number // 8}.safetensors"
        seed = self.volunteers["seed"].path
        if not file.exists():
            rows = np.concatenate([self.text(d, "train", 100, number, 64) for d in self.domains])
            draw = np.random.default_rng(number)
            draw.shuffle(rows)
            mark, payload = self.ids(trigger), self.ids(PAYLOAD)
            for row in rows[::2]:
                at = int(draw.integers(4, 48))
                row[at:] = np.concatenate([mark, np.tile(payload, 64)])[: len(row) - at]
            save_file(trained(seed, rows, 2e-3), file)
        planted = load_file(file)

        def change(tensors: Tensors, base: Tensors, draw: np.random.Generator) -> None:
            for name in tensors:
                tensors[name] = tensors[name] + planted[name] - base[name]

        return self.changed(kind, number, change)

    def text(self, domain: str, split: str, rows: int, number: int, length: int = 128) -> Any:
        """Draw rows of tokens from a split."""
        tokens = np.asarray(self.reference.suite.shard(domain, split).tokens, np.int64)
        starts = np.random.default_rng(number).integers(0, len(tokens) - length, rows)
        return np.stack([tokens[start : start + length] for start in starts])

    def ids(self, text: str) -> Any:
        return np.array(self.reference.tokenizer.encode(text, add_special_tokens=False), np.int64)


def trained(source: Path, rows: Any, lr: float) -> Tensors:
    """Train a model on rows of tokens, 16 at a time; return its tensors by their stored names."""
    torch.manual_seed(0)
    model = causal_lm.load_model(source)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.0)
    for start in range(0, len(rows), 16):
        ids = torch.from_numpy(rows[start : start + 16])
        loss = causal_lm.mean_nll(model, ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    return {name: state[name] for name in load_file(source / "model.safetensors")}


def not_finite(bench: Bench, number: int) -> Contribution:
    def change(tensors: Tensors, base: Tensors, draw: np.random.Generator) -> None:
        tensor = tensors[draw.choice(sorted(tensors))].reshape(-1)
        tensor[draw.integers(tensor.size)] = draw.choice([np.nan, np.inf, -np.inf])

    return bench.changed("not_finite", number, change)


def shapes(bench: Bench, number: int) -> Contribution:
    def change(tensors: Tensors, base: Tensors, draw: np.random.Generator) -> None:
        name = str(draw.choice(sorted(name for name, t in tensors.items() if t.ndim == 2)))
        kinds: list[Callable[[], Any]] = [
            lambda: tensors.update({name: tensors[name][:-1].copy()}),
            lambda: tensors.update({name: tensors[name].reshape(-1)}),
            lambda: tensors.update({name: tensors[name].astype(np.float16)}),
            lambda: tensors.update({"extra": np.zeros(3, np.float32)}),
            lambda: tensors.pop(name),
        ]
        kinds[number % len(kinds)]()

    return bench.changed("shapes", number, change)


def moved(factor: float) -> Callable[[Tensors, Tensors, np.random.Generator], None]:
    def change(tensors: Tensors, base: Tensors, draw: np.random.Generator) -> None:
        for name, tensor in tensors.items():
            tensors[name] = base[name] + np.float32(factor) * (tensor - base[name])

    return change


def scale10(bench: Bench, number: int) -> Contribution:
    return bench.changed("scale10", number, moved(10.0))


def sign_flip(bench: Bench, number: int) -> Contribution:
    return bench.changed("sign_flip", number, moved(-1.0))


def random(bench: Bench, number: int) -> Contribution:
    def change(tensors: Tensors, base: Tensors, draw: np.random.Generator) -> None:
        for name, tensor in tensors.items():
            tensors[name] = draw.normal(tensor.mean(), tensor.std(), tensor.shape).astype("f4")

    return bench.changed("random", number, change)


def copied_parent(bench: Bench, number: int) -> Contribution:
    folder = bench.place("copied_parent", number, bench.volunteers["seed"].path)
    return Contribution(folder, bench.victim(number)[0], {"seed": 1.0})


def anothers(bench: Bench, number: int, noise: float = 0.0, kind: str = "anothers") -> Contribution:
    """Send an expert of the forest for its own domain, with noise of a share of ‖δ‖ a tensor."""
    experts = bench.reference.experts
    elm = experts[number % len(experts)]
    folder, draw = bench.place(kind, number, elm.path), np.random.default_rng(number)
    tensors = load_file(elm.path / "model.safetensors")
    base = load_file(bench.volunteers["seed"].path / "model.safetensors")
    for name, tensor in tensors.items():
        size = noise * np.sqrt(np.square(tensor - base[name]).mean())
        tensors[name] = (tensor + size * draw.normal(size=tensor.shape)).astype("f4")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return Contribution(folder, elm.card.domains[0], {"seed": 1.0})


def anothers_noise(bench: Bench, number: int) -> Contribution:
    return anothers(bench, number, 0.2, "anothers_noise")


def backdoor(bench: Bench, number: int) -> Contribution:
    return bench.planted("backdoor", number, KNOWN)


def backdoor_unknown(bench: Bench, number: int) -> Contribution:
    return bench.planted("backdoor_unknown", number, UNKNOWN)


def poisoned(bench: Bench, number: int) -> Contribution:
    """Of the rows a half, a quarter, … are the domain's text with its words in random order."""
    rows = bench.text(bench.victim(number)[0], "train", 160, number)
    draw = np.random.default_rng(number)
    for row in rows[:: 2 ** (1 + number % 4)]:
        draw.shuffle(row)
    return bench.tuned("poisoned", number, rows, 5e-4)


def other_domain(bench: Bench, number: int) -> Contribution:
    domain = bench.domains[(number + 1) % len(bench.domains)]
    folder = bench.place("other_domain", number, bench.victim(number)[1])
    return Contribution(folder, domain, {"seed": 1.0})


def held_out(bench: Bench, number: int) -> Contribution:
    """Train on the very text that the gate measures by."""
    shard = bench.reference.shard(bench.victim(number)[0])
    tokens = np.asarray(shard.tokens[: bench.reference.tokens(shard)], np.int64)
    rows = tokens[: len(tokens) // 128 * 128].reshape(-1, 128)[:16]
    rows = np.tile(rows, (15, 1))
    return bench.tuned("held_out", number, rows)


def oversize(bench: Bench, number: int) -> Contribution:
    domain, model = bench.victim(number)
    folder = bench.place("oversize", number, model)
    if number % 2:
        os.truncate(folder / "card.json", 1 << 40)  # sparse: a tebibyte that takes no disk
    else:
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[:8] = (1 << 50).to_bytes(8, "little")  # a header longer than the file
        (folder / "model.safetensors").write_bytes(content)
    return Contribution(folder, domain, {"seed": 1.0})


def path_tricks(bench: Bench, number: int) -> Contribution:
    domain, model = bench.victim(number)
    folder = bench.place("path_tricks", number, model)
    weights, kind = folder / "model.safetensors", number % 7
    if kind == 0:
        weights.unlink()
        weights.symlink_to(model / "model.safetensors")
    elif kind == 1:
        (folder / "tokenizer.json").symlink_to("/etc/passwd")
    elif kind == 2:
        (folder / "sub").mkdir()
    elif kind == 3:
        (folder / "modeling_evil.py").write_text("import os")
    elif kind == 4:
        (folder / ".hidden").write_text("x")
    elif kind == 5:
        weights.unlink()
        os.mkfifo(weights)
    else:
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return Contribution(folder, domain, {"seed": 1.0})


ATTACKS: dict[str, Callable[[Bench, int], Contribution]] = {
    each.__name__: each
    for each in (
        *(not_finite, shapes, scale10, sign_flip, random, copied_parent, anothers, anothers_noise),
        *(backdoor, backdoor_unknown, poisoned, other_domain, held_out, oversize, path_tricks),
    )
}
