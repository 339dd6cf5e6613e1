"""Links as numbers: entities, relations and their reciprocals; vectors of entities from text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from btm.errors import UserError, unknown
from btm.readers.ground import Ground
from btm.readers.links import triples, words
from btm.readers.modules import InputModule
from btm.readers.ports import BOOL, INT, Batch, Port
from btm.readers.setting import Example, QASetting
from btm.system.json_files import Json

SUBJECT, RELATION = Port("subject", INT, "B"), Port("relation", INT, "B")
RIGHT = Port("right", BOOL, "BN")
LEARNT, TEXT, WORDS = VECTORS = ("learnt", "text", "words")


class Link(NamedTuple):
    """A question as numbers: which objects has this subject under this relation?"""

    subject: int
    relation: int  # R + r for the reciprocal of r
    right: tuple[int, ...] = ()


class Links(InputModule):
    """Numbers the entities and relations of a graph.

    vectors=learnt: an entity is a vector that is learnt. text: it is what the models that the
    reader stands on make of its text (`texts`, a file of tab-separated lines: entity, name, part of
    speech or anything, text), so that one without any triple has one too. words: the same of its
    bag of words (`words.vectors`), which needs no model.
    """

    gives = (SUBJECT, RELATION)
    targets = (RIGHT,)

    def __init__(self, ground: Ground | None, *, vectors: str = LEARNT, texts: str = "") -> None:
        super().__init__(ground)
        if vectors not in VECTORS:
            raise unknown("reader.options vectors", vectors, VECTORS)
        if (vectors == LEARNT) != (texts == ""):
            raise UserError(
                f"reader.options: vectors={vectors} and texts={texts or 'none'}: text and words "
                "read a file of texts, learnt reads none"
            )
        if (vectors == TEXT) != (ground is not None):
            raise UserError(
                f"reader.options: vectors={vectors}: text alone stands on models, by on=forest, "
                "on=expert expert=NAME or on=average average=NAME"
            )
        self.kind, self.texts = vectors, texts
        self.entities: dict[str, int] = {}
        self.relations: dict[str, int] = {}
        self.vectors: torch.Tensor | None = None  # (N, H)
        self.width = 0
        self._known: dict[tuple[int, int], set[int]] = defaultdict(set)

    def learn(self, splits: Mapping[str, Sequence[Example]]) -> None:
        """Number the entities of all splits and the relations of train, and read their texts."""
        entities, relations = set(), set()
        for split, examples in splits.items():
            for example in examples:
                s, p, o = _whole(example)
                entities |= {s, o}
                if split == "train":
                    relations.add(p)
        self.entities = {name: n for n, name in enumerate(sorted(entities))}
        self.relations = {name: n for n, name in enumerate(sorted(relations))}
        self.know(splits)
        if self.kind != LEARNT:
            self.vectors = torch.from_numpy(self._read(_texts(Path(self.texts), self.entities)))
            self.width = self.vectors.shape[1]

    def _read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Make a vector of each text, of mean square 1, (N, H)."""
        if self.ground is None:
            return words.vectors(texts)
        ids = [self.ground.tokens(text).ids[: self.ground.context] for text in texts]
        pooled = [each.states[0] for each in self.ground.encode(ids, pooled=True)]
        found = np.stack(pooled)
        found -= found.mean(axis=0)
        return np.asarray(found / (found.std(axis=0) + 1e-6), np.float32)

    def know(self, splits: Mapping[str, Sequence[Example]]) -> None:
        """Take note of all triples, so that other right answers are left out of ranks."""
        for examples in splits.values():
            for example in examples:
                link = self._link(example.setting)
                self._known[link.subject, link.relation] |= {
                    self.entity(answer.text, example.setting) for answer in example.answers
                }

    def known(self, link: Link) -> set[int]:
        """Return the entities that are known to answer a question."""
        return self._known.get((link.subject, link.relation), set())

    def items(self, examples: Sequence[Example], *, answered: bool) -> Sequence[Link]:
        """Number the questions; where they are answered, equal ones are one item (1-N)."""
        if not answered:
            return [self._link(example.setting) for example in examples]
        grouped: dict[tuple[int, int], set[int]] = defaultdict(set)
        for example in examples:
            link = self._link(example.setting)
            grouped[link[:2]] |= {self.entity(a.text, example.setting) for a in example.answers}
        return [Link(*asked, tuple(sorted(right))) for asked, right in grouped.items()]

    def batch(self, items: Sequence[Link]) -> Batch:
        """Put questions together, and mark what is right where it is known."""
        subject = torch.tensor([link.subject for link in items])
        relation = torch.tensor([link.relation for link in items])
        right = torch.zeros((len(items), len(self.entities)), dtype=torch.bool)
        for row, link in enumerate(items):
            right[row, list(link.right)] = True
        return {"subject": subject, "relation": relation, "right": right}

    def state(self) -> Json:
        """Return the names, and the width of vectors that are not learnt."""
        return {
            "entities": list(self.entities),
            "relations": list(self.relations),
            "width": self.width,
        }

    def restore(self, state: Json) -> None:
        """Take back the names."""
        self.entities = {str(name): n for n, name in enumerate(state["entities"])}
        self.relations = {str(name): n for n, name in enumerate(state["relations"])}
        self.width = int(state["width"])
        if self.width:
            self.vectors = torch.zeros((len(self.entities), self.width))

    def _link(self, setting: QASetting) -> Link:
        s, p, o = triples.parse(setting)
        if p not in self.relations:
            raise _unknown("relation", p, self.relations, setting)
        relation = self.relations[p]
        if s == triples.ASKED:
            return Link(self.entity(o, setting), relation + len(self.relations))
        return Link(self.entity(s, setting), relation)

    def entity(self, name: str, setting: QASetting) -> int:
        """Return the number of an entity; `UserError` that names the question if there is none."""
        if name not in self.entities:
            raise _unknown("entity", name, self.entities, setting)
        return self.entities[name]


def _whole(example: Example) -> triples.Triple:
    """Put the answer of a question in its place."""
    s, p, o = triples.parse(example.setting)
    answer = example.answers[0].text
    return (answer, p, o) if s == triples.ASKED else (s, p, answer)


def _unknown(kind: str, name: str, have: Mapping[str, int], setting: QASetting) -> UserError:
    where = f"{setting.id}: " if setting.id else ""
    return UserError(f"{where}{unknown(kind, name, have, 'the training triples')}")


def _texts(file: Path, entities: Mapping[str, int]) -> list[str]:
    """Read the text of each entity, its name and the last field of its line."""
    found: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"reader.options texts={file}: not readable: {error}") from None
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r").split("\t")
        if line and len(fields) < 2:
            raise UserError(f"{file}:{number}: wanted an entity and its text, a tab between them")
        found[fields[0]] = (
            ": ".join(dict.fromkeys([fields[1].replace("_", " "), fields[-1]])) if line else ""
        )
    missing = [name for name in entities if not found.get(name)]
    if missing:
        raise UserError(f"{file}: no text of {missing[0]!r}, and of {len(missing) - 1} others")
    return [found[name] for name in entities]
