#!/usr/bin/env python
"""Link prediction beside pykeen's, on the graphs that its package brings, in one run.

    scripts/pykeen                                            # once
    python scripts/bench/readers.py [--graphs=umls,kinships,nations] [--epochs=100] [--models=conve]
                                    [--peers=conve] [--options='{dim: 200}'] [--seeds=0] [--speed=40943]
                                    [--unseen=FOREST --corpus=FOLDER]

Each row trains on train.txt for so many passes over its questions, in batches of 128 (1-N) at Adam's
rate 0.003 (ours goes down linearly to a tenth of it with --final=0.1), on one thread, and is
measured on test.txt: filtered MRR and hits, realistic ties, both sides. pykeen runs in a process of
its own Python with the same passes, batches, rate, sizes, dropouts and label smoothing. Before that
the audit of each graph says what inverse rules alone come to.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from btm.cli import grammar
from btm.config.reader import ReaderConfig
from btm.forest import Forest, find_model
from btm.readers import train
from btm.readers.ground import Ground
from btm.readers.intervals import interval
from btm.readers.links import audit, triples
from btm.readers.links.inputs import Link, Links
from btm.readers.links.models import ConvE
from btm.readers.reader import Reader
from btm.readers.registry import Spec, resolve
from btm.readers.setting import Example
from btm.report.tables import TableRow, table

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv-pykeen"
SPLITS = ("train", "valid", "test")
# What pykeen is asked for; printed as JSON on its last line.
PYKEEN = """
import json, sys, time
import torch
from pykeen.pipeline import pipeline
from pykeen.triples import TriplesFactory
folder, model, epochs, batch, lr, seed = sys.argv[1:7]
torch.set_num_threads(1)
train = TriplesFactory.from_path(f"{folder}/train.txt", create_inverse_triples=True)
rest = {
    name: TriplesFactory.from_path(f"{folder}/{name}.txt", entity_to_id=train.entity_to_id,
                                   relation_to_id=train.relation_to_id)
    for name in ("valid", "test")
}
sizes = {
    "conve": dict(embedding_dim=200, embedding_height=10, embedding_width=20, output_channels=32,
                  input_dropout=0.2, feature_map_dropout=0.2, output_dropout=0.3),
    "distmult": dict(embedding_dim=200),
    "complex": dict(embedding_dim=100),
}
begun = time.process_time()
found = pipeline(
    training=train, validation=rest["valid"], testing=rest["test"], model=model,
    model_kwargs=sizes[model], loss="bcewithlogits", optimizer="Adam",
    optimizer_kwargs=dict(lr=float(lr)), training_loop="lcwa",
    training_kwargs=dict(num_epochs=int(epochs), batch_size=int(batch), label_smoothing=0.1,
                         use_tqdm=False),
    evaluation_kwargs=dict(use_tqdm=False), random_seed=int(seed), device="cpu",
)
name = "both.realistic."
value = {k: found.get_metric(name + v) for k, v in
         {"MRR": "inverse_harmonic_mean_rank", "Hits@1": "hits_at_1", "Hits@3": "hits_at_3",
          "Hits@10": "hits_at_10"}.items()}
print(json.dumps(value | {"CPU s": time.process_time() - begun}))
"""


def main() -> None:
    """Print a table of audits and one of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", default="umls,kinships,nations")
    parser.add_argument("--models", default="conve,distmult,complex")
    parser.add_argument("--peers", default="conve")
    parser.add_argument("--options", default="{}")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--final", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--unseen", help="a forest that reads the glosses of entities")
    parser.add_argument("--corpus", default="corpora/readers/graphs")
    parser.add_argument("--files", default="noun_food,noun_body,noun_substance,verb_motion")
    parser.add_argument("--speed", type=int, default=0, help="entities, as 40943")
    parser.add_argument("--decay", type=float, default=0.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    how = ReaderConfig(
        epochs=asked.epochs, lr=asked.lr, final_lr=asked.final, weight_decay=asked.decay
    )
    graphs = {name: folder_of(name) for name in asked.graphs.split(",") if name}
    if graphs:
        audits = [of_audit(name, folder) for name, folder in graphs.items()]
        print(table(audits, "inverse rules alone, test"), flush=True)
    rows: list[TableRow] = []
    for name, folder in graphs.items():
        for seed in map(int, asked.seeds.split(",")):
            for model in filter(None, asked.models.split(",")):
                options = grammar.value_of(asked.options)
                rows.append(ours(name, folder, model, options, replace(how, seed=seed)))
                print(rows[-1], flush=True)
            for model in filter(None, asked.peers.split(",")):
                rows.append(pykeen(name, folder, model, replace(how, seed=seed)))
                print(rows[-1], flush=True)
    if rows:
        print(table(rows, f"test, {asked.epochs} epochs"))
    if asked.unseen:
        files = asked.files.split(",")
        rows = unseen(Forest(asked.unseen), Path(asked.corpus), files, replace(how, lr=asked.lr))
        print(table(rows, f"links of entities without training triples, among {asked.files}"))
    if asked.speed:
        print(table(speed(asked.speed), f"questions over {asked.speed:,} entities"))


def speed(entities: int) -> list[TableRow]:
    """Time ConvE's answer to a question by one pass (1-N), by batches of 128 triples as the usual
    1-1 scoring does, and by one triple at a time; the last two on a part, and counted up.
    """
    given = Links(None)
    given.entities = {str(n): n for n in range(entities)}
    given.relations = {str(n): n for n in range(18)}
    model = ConvE(given).eval()
    batch = given.batch([Link(n, n % 18) for n in range(128)])
    few = 12_800
    with torch.inference_mode():
        whole = _seconds(lambda: model(batch)) / 128
        vectors, asked = model.entities, model.relations

        def batched() -> None:
            for begin in range(0, few, 128):
                subject, relation = vectors[[0] * 128], asked[[3] * 128]
                (model.question(subject, relation) * vectors[begin : begin + 128]).sum(1)

        pairs = _seconds(batched) / few * entities
        alone = _seconds(lambda: [model.triple(0, 3, n) for n in range(400)]) / 400 * entities
        scores = model(batch)["scores"][0]
        worst = max(abs(float(scores[n]) - model.triple(0, 0, n)) for n in range(400))
    print(f"largest difference of a score, 1-N and alone: {worst:.1e}")
    rows = {"1-N": whole, "1-1, 128 at a time": pairs, "one triple at a time": alone}
    return [
        {"scoring": name, "ms a question": 1000 * each, "times 1-N": each / whole}
        for name, each in rows.items()
    ]


def unseen(forest: Forest, graphs: Path, files: Sequence[str], how: ReaderConfig) -> list[TableRow]:
    """Rank links of entities that no training triple has, by vectors that are learnt, by bags of
    words and by the hidden states of the seed and of the forest, over the synsets of some
    lexicographer files; chance is the harmonic mean of all ranks.
    """
    table_of = graphs / "entities.tsv"
    lines = [line.split("\t") for line in table_of.read_text().splitlines()]
    kept = {line[0] for line in lines if line[2] in files}
    of = {split: _among(triples.read(graphs / "wn18rr_unseen", split), kept) for split in SPLITS}
    names = {elm.name: elm for elm in forest.experts()}
    grounds = {
        "learnt": None,
        "words": None,
        "text of the seed": Ground(forest, "expert", [find_model(forest, "seed")]),
        "text of the forest": Ground(forest, "forest", [find_model(forest, n) for n in names]),
    }
    rows: list[TableRow] = []
    for called, ground in grounds.items():
        kind = "text" if ground else called
        options = {"dim": 100, "vectors": kind} | (
            {} if kind == "learnt" else {"texts": str(table_of)}
        )
        spec = Spec("triples", "links", "distmult", "ranking", options)
        begun = time.process_time()
        reader = Reader.new(spec, resolve(spec), ground, of, how.seed)
        train.fit(reader, reader.input.items(of["train"], answered=True), how)
        found = {key: interval(each) for key, each in reader.measure(of["test"]).items()}
        count = len({a.text for part in of.values() for each in part for a in each.answers})
        rows.append(
            {
                **{"vectors": called, "entities": count, "questions": len(of["test"])},
                **{key: each.mean for key, each in found.items()},
                **{"MRR from": found["MRR"].low, "to": found["MRR"].high},
                **{"chance": sum(1 / n for n in range(1, count + 1)) / count},
                **{"CPU s": round(time.process_time() - begun)},
            }
        )
        print(rows[-1], flush=True)
    return rows


def _among(examples: Sequence[Example], kept: set[str]) -> list[Example]:
    """Keep the questions whose entities are all among some."""
    parted = [(triples.parse(each.setting), each) for each in examples]
    return [each for (s, _, o), each in parted if {s, o, each.answers[0].text} - {"?"} <= kept]


def _seconds(work: Callable[[], object]) -> float:
    """Time the better of two runs, in seconds of this process."""
    found = []
    for _ in range(2):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def folder_of(graph: str) -> Path:
    """Find a graph in pykeen's package, or take a folder as it is."""
    if Path(graph).is_dir():
        return Path(graph)
    found = next(PEER.glob(f"lib/*/site-packages/pykeen/datasets/{graph}"), None)
    if found is None:
        sys.exit(f"{graph}: no folder, and no data set of {PEER}; run scripts/pykeen")
    return found


def of_audit(name: str, folder: Path) -> TableRow:
    """Audit a graph."""
    found = audit.audit(folder, "test")
    return {"graph": name, "entities": found.entities, "explained": found.explained, **found.values}


def ours(name: str, folder: Path, model: str, options: dict, how: ReaderConfig) -> TableRow:
    """Train and measure a model of btm's."""
    spec = Spec("triples", "links", model, "ranking", options)
    splits = {split: triples.read(folder, split) for split in SPLITS}
    begun = time.process_time()
    reader = Reader.new(spec, resolve(spec), None, splits, how.seed)
    items = reader.input.items(splits["train"], answered=True)
    train.fit(reader, items, how)
    found = {key: interval(each) for key, each in reader.measure(splits["test"]).items()}
    spent = time.process_time() - begun
    return {
        **{"graph": name, "model": f"btm {model}", "seed": how.seed},
        **{key: each.mean for key, each in found.items()},
        **{"MRR from": found["MRR"].low, "to": found["MRR"].high, "CPU s": round(spent)},
    }


def pykeen(name: str, folder: Path, model: str, how: ReaderConfig) -> TableRow:
    """Train and measure a model of pykeen's in its own Python."""
    words = [str(folder), model, str(how.epochs), str(how.batch_size), str(how.lr), str(how.seed)]
    done = subprocess.run(
        [PEER / "bin/python", "-c", PYKEEN, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found["CPU s"] = round(found["CPU s"])
    return {"graph": name, "model": f"pykeen {model}", "seed": how.seed, **found}


if __name__ == "__main__":
    main()
