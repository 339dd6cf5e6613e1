"""Pass 2 over a domain of prompted data: examples to the token files of its three splits."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.data.prompted.encode import Cut, ExampleEncoder
from btm.data.prompted.examples import examples_of
from btm.data.shards import MASK, WEIGHT, SplitFacts
from btm.errors import UserError


@dataclass
class Packed:
    """The facts of each split, and how many examples were made of each of its documents."""

    facts: dict[str, SplitFacts]
    examples_of: dict[str, list[int]] = field(default_factory=lambda: {s: [] for s in SPLITS})

    def digests(self, split: str, digest_D: np.ndarray) -> np.ndarray:
        """Give every example the digest of the row it was made of."""
        return np.repeat(digest_D, self.examples_of[split])

    def lines(self, domain: str, cut: Cut) -> list[str]:
        """Say what was cut, and what was left out of a domain; none if nothing was."""
        shortened = sum(facts["truncated"] for facts in self.facts.values())
        lost = sum(facts["unanswered"] for facts in self.facts.values())
        if not shortened + lost:
            return []
        what = f"longer than {cut.max_tokens:,} tokens (data.max_tokens)"
        said = [f"{shortened:,} examples {what} lost their {_ENDS[cut.end]}"] * bool(shortened)
        said += [f"{lost:,} {what} have no prompt or no answer left and are left out"] * bool(lost)
        return [f"{domain}: {'; '.join(said)}"]


_ENDS = {"left": "beginning", "right": "end"}


def pack(
    documents: Iterable[tuple[str, str]],
    folder: Path,
    encoder: ExampleEncoder,
    cut: Cut,
    domain: str,
) -> Packed:
    """Write {train,valid,test}.{bin,idx,mask,weight} into `folder` from (split, document) pairs.

    A document is what `Reader.written` has made of a row. `UserError` if a split is left empty.
    """
    packed = Packed({split: _nothing() for split in SPLITS})
    hashes = {split: hashlib.sha256() for split in SPLITS}
    with ExitStack() as stack:
        files = {
            (split, ending): stack.enter_context((folder / f"{split}.{ending}").open("wb"))
            for split in SPLITS
            for ending in ("bin", "idx", MASK, WEIGHT)
        }
        for split, document in documents:
            facts, before = packed.facts[split], packed.facts[split]["documents"]
            for example in examples_of(document):
                whole = encoder.encode(example)
                kept = cut(whole)
                if kept is None:
                    facts["unanswered"] += 1
                    continue
                facts["truncated"] += kept is not whole
                parts = {
                    "bin": kept.ids.tobytes(),
                    "idx": np.array([len(kept.ids), kept.n_bytes], np.uint32).tobytes(),
                    MASK: kept.mask.tobytes(),
                    WEIGHT: np.float32(example.weight).tobytes(),
                }
                for ending, data in parts.items():
                    files[split, ending].write(data)
                    hashes[split].update(data)
                facts["documents"] += 1
                facts["tokens"] += len(kept.ids)
                facts["predicted"] += int(kept.mask.sum())
                facts["bytes"] += kept.n_bytes
            packed.examples_of[split].append(facts["documents"] - before)
    for split, facts in packed.facts.items():
        facts["sha256"] = hashes[split].hexdigest()
        if not facts["documents"]:
            raise UserError(
                f"{domain}: no example of its {split} split has both prompt and answer within "
                f"data.max_tokens={cut.max_tokens}; raise it (and trainer.seq_len with it)"
            )
    return packed


def _nothing() -> SplitFacts:
    return SplitFacts(
        documents=0, tokens=0, bytes=0, sha256="", predicted=0, truncated=0, unanswered=0
    )
