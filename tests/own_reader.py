"""A reader of somebody's own: a dataset, an input and a model; docs/readers.md names it."""

import json

import torch

from btm.readers.modules import InputModule, ModelModule
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
        return {"scores": (self.slope * batch["lengths"]).log_softmax(-1)}

    def loss(self, batch):
        return torch.nn.functional.nll_loss(self(batch)["scores"], batch["longest"])
