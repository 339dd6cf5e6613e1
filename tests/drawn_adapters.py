"""Experts that are a base and an adapter that is drawn, and what models take in memory."""

import numpy as np

from btm.forest import adapter
from btm.forest.card import Parent
from btm.models import low_rank, weights


def add(forest, name, parents, seed):
    """An expert that is the average of `parents` and an adapter that is drawn, as one that was
    trained leaves it.
    """
    shares = {parent: weight / sum(parents.values()) for parent, weight in parents.items()}
    origin = {
        parent: Parent(share, parents[parent], forest[parent].card.sha256)
        for parent, share in shares.items()
    }
    drawn = np.random.default_rng(seed)

    def finish(folder):
        tensors = {}
        for stored, tensor in weights.tensors(folder).items():
            if stored.endswith(("q_proj.weight", "down_proj.weight")):
                out, into = tensor.shape
                a = drawn.normal(size=(2, into)).astype(np.float16).astype(np.float32)
                b = drawn.normal(size=(out, 2), scale=0.05).astype(np.float16).astype(np.float32)
                module = stored.removesuffix(".weight")
                tensors[stored] = low_rank.LowRank(module, a, b, 0.5, dtype="F16")
        adapter.add(tensors, folder, folder)
        made = adapter.Adapter(origin, weights.sha256(folder), 2, 1.0, ["q_proj"], tensors)
        adapter.write(folder / adapter.FILE, made)

    branch = forest.branch(name, "bible", parents, finish=finish)
    branch.files.result.write_text('{"steps": 0, "tokens": 0}')
    return forest.merge(branch, force=True)


def held(models):
    """The bytes of all tensors of models, those they share counted once."""
    found = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def own(tensors):
    """The bytes of factors in float32."""
    return 4 * sum(change.parameters for change in tensors.values())
