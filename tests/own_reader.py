"""A reader of somebody's own: a dataset, and the three modules; docs/readers.md names it."""

import json

import numpy as np
import torch

from btm.readers.modules import InputModule, ModelModule, OutputModule
from btm.readers.ports import INT, Port
from btm.readers.setting import Answer, Example, QASetting

LENGTHS, LONGEST = Port("lengths", shape="BC"), Port("longest", INT, "B")


def read(folder, split):
    """Lines of JSON: {"question", "candidates", "answer"}."""
    file, found = folder / f"{split}.jsonl", []
    for line in file.read_text().splitlines() if file.is_file() else []:
        row = json.loads(line)
        setting = QASetting(
            row["question"], tuple(row.get("support", ())), candidates=tuple(row["candidates"])
        )
        found.append(Example(setting, (Answer(row["answer"]),)))
    return found


class Lengths(InputModule):
    gives, targets = (LENGTHS,), (LONGEST,)

    def items(self, examples, *, answered):
        return list(examples)

    def batch(self, items):
        asked = [example.setting.candidates for example in items]
        lengths = torch.tensor([[float(len(text)) for text in row] for row in asked])
        right = [
            row.index(example.answers[0].text) if example.answers else 0
            for row, example in zip(asked, items, strict=True)
        ]
        return {"lengths": lengths, "longest": torch.tensor(right)}


class Slope(ModelModule):
    takes, gives, targets = (LENGTHS,), (Port("scores", shape="BC"),), (LONGEST,)

    def __init__(self, before, *, begin: float = -1.0):
        super().__init__(before)
        self.slope = torch.nn.Parameter(torch.tensor(begin))

    def forward(self, batch):
        return {"scores": self.slope * batch["lengths"]}

    def loss(self, batch):
        return torch.nn.functional.cross_entropy(self(batch)["scores"], batch["longest"])


class Choice(OutputModule):
    takes = (Port("scores", shape="BC"),)

    def answers(self, settings, scored):
        rows = [row for _, batch in scored for row in batch["scores"].tolist()]
        pairs = [zip(s.candidates, row, strict=True) for s, row in zip(settings, rows, strict=True)]
        found = [[Answer(text, score=score) for text, score in each] for each in pairs]
        return [sorted(each, key=lambda answer: -answer.score) for each in found]

    def measure(self, examples, scored):
        found = self.answers([example.setting for example in examples], scored)
        right = [a[0].text == e.answers[0].text for a, e in zip(found, examples, strict=True)]
        return {"accuracy": np.array(right, float)}
