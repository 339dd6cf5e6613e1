"""Damaged and hostile files, by the thousand: every reader answers, or refuses in one line, and
writes nowhere else.

    python scripts/bench/fuzz.py --count 20000 --seed 0

A forest and a model folder of tiny random models are made in a scratch place. Then, over and over,
one file of one kind (card, forest.json, branch.json, trained.json, index, safetensors header,
config, tokenizer settings, model card, or a name given on the command line) is changed by up to
four mutations, of bytes or of JSON values, and everything that reads it is called. Counted as
failures: any exception but `UserError`, a message of more than one printed line, a reader that
takes over two seconds of CPU, and any change outside the forest. The exit code is then 1.
"""

import argparse
import io
import json
import random
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from btm.cli.verbs import registry
from btm.cli.verbs.output import Output
from btm.errors import UserError
from btm.forest import Branch, Forest, model_card, publish, seal
from btm.forest.card import Card
from btm.interop import intake, mergekit
from btm.models import average, causal_lm, configs, tokenizer_files, weights

_SLOW = 2.0  # seconds of CPU
_RESULT = {
    "steps": 1,
    "tokens": 2,
    "notes": ["x"],
    "valid_nats": 1.0,
    "parent_valid_nats": {"law": 1.5},
}
NASTY: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        7,
        2**31,
        2**63,
        -(2**63),
        10**40,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        ".",
        "..",
        "../../evil",
        "/etc/passwd",
        "a" * 5000,
        "\0",
        "\n",
        "\x1b[2J",
        "\ud800",
        "é",
        "F32",
        "law",
    ),
    *([], {}, [[]], [{}], {"": {}}, [0] * 100, {"a": {"b": {"c": []}}}),
]
NAMES = [
    "..",
    ".",
    "",
    "/",
    "a/b",
    "../x",
    "~",
    "a~b",
    "A",
    "-a",
    ".a",
    "a\n",
    "a\0",
    "é",
    "a" * 64,
    "con",
    "law",
]


class World:
    """A forest with two ELMs, a branch and an average, and a model folder beside it."""

    def __init__(self, root: Path) -> None:
        self.forest, self.folder, self.copy = (
            root / "forest",
            root / "outside/model",
            root / "outside/copy",
        )
        self._plant()

    def _plant(self) -> None:
        import torch

        from btm.data.tokenizer import tokenizer_sha256, train_tokenizer

        train_tokenizer(
            ["in the beginning was the word"] * 4, self.folder.parent / "tokenizer", 300
        )
        sizes = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        from transformers import AutoConfig

        config = AutoConfig.for_model(
            "llama", vocab_size=320, bos_token_id=0, eos_token_id=0, **sizes
        )
        model = causal_lm.new_model(config, 0).to(torch.bfloat16)
        model.save_pretrained(self.folder, max_shard_size="20KB")
        tokenizer_files.copy(self.folder.parent / "tokenizer", self.folder)
        (self.folder / "README.md").write_text("---\nlicense: mit\n---\n")
        tokenizer = self.folder.parent / "tokenizer"
        self.tokenizer_sha256 = tokenizer_sha256(tokenizer)
        forest = Forest.create(self.forest, config, tokenizer, self.tokenizer_sha256)
        self.architecture = configs.fingerprint(config)
        for name in ("law", "med", "made"):
            branch = forest.root_branch(name, [name], model, source=str(self.folder))
            (branch.path / "trained.json").write_text(json.dumps(_RESULT))
            if name != "made":
                card = Card(
                    name, [name], weights.sha256(branch.path), self.tokenizer_sha256, valid_nats=1.0
                )
                (branch.path / "card.json").write_text(json.dumps(card.to_json()))
                (self.forest / "elms").mkdir(exist_ok=True)
                branch.path.rename(self.forest / "elms" / name)
        publish.average(forest, "deploy", {"law": 0.5, "med": 0.5})
        for _, _, read in KINDS.values():
            read(self)  # whole, all of it can be read


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a file's content after one to four mutations, of JSON values or of bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        change = rng.choice((_mutate_json, _mutate_json, _mutate_bytes))
        content = change(content, rng)
    return content


def _mutate_json(content: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return _mutate_bytes(content, rng)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in (
            list(node)
            if isinstance(node, dict)
            else range(len(node))
            if isinstance(node, list)
            else ()
        ):
            places.append((node, key))
            walk(node[key])

    walk(value)
    if not places:
        return json.dumps(rng.choice(NASTY)).encode()
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.6:
        node[key] = rng.choice(NASTY)
    elif action < 0.75:
        del node[key]
    elif isinstance(node, dict):
        node[str(rng.choice(NASTY))] = node[key]
    else:
        node.append(node[key])
    return json.dumps(value).encode()


def _mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    end = min(len(content), place + rng.randint(1, 64))
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:place],
        lambda: content[:place] + content[end:],
        lambda: content[:place] + rng.randbytes(rng.randint(1, 8)) + content[place:],
        lambda: content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :],
        lambda: content[:end] + content[place:],
        lambda: b"[" * rng.choice((5, 100_000)) + content,
        lambda: b"\xef\xbb\xbf" + content,
        lambda: b"",
    ]
    return rng.choice(kinds)()


def _header(content: bytes, rng: random.Random) -> bytes:
    """Mutate the header of a safetensors file, mostly with a length that fits."""
    (length,) = struct.unpack("<Q", content[:8])
    text = mutate(content[8 : 8 + length], rng)
    said = len(text) if rng.random() < 0.9 else rng.choice((0, 1, length, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", said) + text + content[8 + length :]


def _read_card(world: World) -> None:
    forest = Forest(world.forest)
    elm = forest["law"]
    model_card.readme(elm.card).encode()
    json.dumps(elm.card.to_json(), allow_nan=True)
    for as_json in (False, True):
        registry.ls(_config(world), Output(as_json, io.StringIO(), io.StringIO()))
    registry.show(_config(world), Output(False, io.StringIO(), io.StringIO()))


def _read_average(world: World) -> None:
    mergekit.recipe(Forest(world.forest), world.forest / "averages/deploy")


def _config(world: World) -> Any:
    from btm.config.schema import Config

    return Config(forest=str(world.forest), expert="law")


def _read_forest(world: World) -> None:
    forest = Forest(world.forest)
    forest.require(world.architecture, world.tokenizer_sha256, "what")


def _read_branch(world: World) -> None:
    branch = Branch(world.forest / "branches/made")
    result = branch.result or {}
    assert isinstance(branch.domains, list) and isinstance(branch.parents, dict)
    seal.is_worse(branch.name, result, False)
    from btm.models.flops import Shape

    json.dumps(
        seal.card(branch, result, "0" * 64, Shape(1, 1), weights.digests(branch.path)).to_json()
    )


def _take(world: World) -> None:
    import shutil

    world.copy.mkdir()
    try:
        intake.take(world.folder, world.copy)
        causal_lm.read_config(world.copy / "config.json")
    finally:
        shutil.rmtree(world.copy)


def _read_weights(world: World) -> None:
    elm = world.forest / "elms/law"
    weights.tensors(elm)
    weights.first_not_finite(elm)
    weights.parameters(elm)
    average.require_same_tensors(elm, world.forest / "elms/med")


KINDS: dict[str, tuple[str, Callable[[bytes, random.Random], bytes], Callable[[World], None]]] = {
    "card": ("forest/elms/law/card.json", mutate, _read_card),
    "card of an average": ("forest/averages/deploy/card.json", mutate, _read_average),
    "forest.json": ("forest/forest.json", mutate, _read_forest),
    "branch.json": ("forest/branches/made/branch.json", mutate, _read_branch),
    "trained.json": ("forest/branches/made/trained.json", mutate, _read_branch),
    "index": ("outside/model/model.safetensors.index.json", mutate, _take),
    "config": ("outside/model/config.json", mutate, _take),
    "tokenizer settings": ("outside/model/tokenizer_config.json", mutate, _take),
    "model card": ("outside/model/README.md", mutate, _take),
    "header": ("forest/elms/law/SHARD", _header, _read_weights),
    "header of a folder from outside": ("outside/model/SHARD", _header, _take),
    "name": ("", mutate, lambda world: None),
}


def _try_name(world: World, rng: random.Random) -> None:
    name = rng.choice([*NAMES, *(str(value) for value in NASTY)])
    if rng.random() < 0.7:
        name = mutate(name.encode(errors="replace"), rng)[:300].decode(errors="surrogateescape")
    forest = Forest(world.forest)
    for use in (
        forest.__getitem__,
        forest.get_branch,
        lambda n: publish.average(forest, n, {"law": 1.0}),
    ):
        try:
            use(name)
        except UserError as error:
            _one_line(error)
    forest.require_free(name)


def _one_line(error: UserError) -> None:
    """Raise `AssertionError` unless the command line can print an error as one line of some
    length.
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))
    line.encode()
    assert 0 < len(line) < 12_000, f"a message of {len(line)} characters"


def attempt(world: World, kind: str, rng: random.Random) -> str:
    """Damage one file of a kind, read it, mend it; return what came of it, or the traceback of what
    must not happen.
    """
    name, change, read = KINDS[kind]
    root, began = world.forest.parent, time.process_time()
    file = root / name
    if file.name == "SHARD":
        file = sorted(file.parent.glob("*.safetensors"))[0]
    content = file.read_bytes() if name else b""
    try:
        if name:
            file.write_bytes(change(content, rng))
            read(world)
        else:
            _try_name(world, rng)
        outcome = "read"
    except UserError as error:
        _one_line(error)
        outcome = "refused"
    except Exception:
        outcome = traceback.format_exc()
    finally:
        if name:
            file.write_bytes(content)
    taken = time.process_time() - began
    return outcome if taken < _SLOW else f"{outcome}: took {taken:.1f} s"


def listing(root: Path) -> set[str]:
    """Return what lies beside the forest."""
    return {
        str(path) for path in root.rglob("*") if "forest" not in path.relative_to(root).parts[:1]
    }


def fuzz(count: int, seed: int, report: Callable[[str], None] = print) -> Counter[str]:
    """Make `count` attempts, as many of each kind; report failures; return how often each outcome
    was met.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        world, root = World(Path(place)), Path(place)
        before = listing(root)
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            outcome = attempt(world, kind, random.Random(f"{seed}/{number}"))
            if outcome not in ("read", "refused"):
                report(f"attempt {number} of seed {seed}, {kind}:\n{outcome}")
                outcome = "failed"
            outcomes[f"{kind}: {outcome}"] += 1
        if listing(root) != before:
            report(f"written outside the forest: {listing(root) ^ before}")
            outcomes["written outside: failed"] += 1
    return outcomes


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    began = time.time()
    outcomes = fuzz(words.count, words.seed)
    for name, number in sorted(outcomes.items()):
        print(f"{number:8,}  {name}")
    failed = sum(number for name, number in outcomes.items() if name.endswith("failed"))
    print(f"{words.count:,} attempts, {failed} failed, {time.time() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
