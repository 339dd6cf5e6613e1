"""A slice of Nations (Kim et al.; of pykeen's package): 14 entities, 8 relations."""

from pathlib import Path

from btm.config.reader import ReaderConfig
from btm.readers.links import triples
from btm.readers.reader import Reader
from btm.readers.registry import Spec, resolve

NATIONS = Path(__file__).parent / "readers" / "nations"
SMALL = {"conve": {"dim": 24, "height": 4, "channels": 4}, "distmult": {"dim": 8}}
SMALL["complex"] = SMALL["distmult"]


def splits(folder=NATIONS):
    """The questions of all splits."""
    return {split: triples.read(folder, split) for split in ("train", "valid", "test")}


def untrained(model, **options):
    """A reader that has learnt names alone, its parameters random."""
    spec = Spec("triples", "links", model, "ranking", SMALL[model] | options)
    return Reader.new(spec, resolve(spec), None, splits(), seed=1)


def few(**given):
    """A training of a few steps."""
    return ReaderConfig(**{"epochs": 3, "batch_size": 32, "lr": 0.01} | given)
