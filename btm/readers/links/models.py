"""Scores of links, every entity at once: DistMult, ComplEx and ConvE.

Shapes: B questions, N entities, D the length of their vectors, C channels.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from btm.errors import UserError
from btm.readers.links.inputs import RELATION, RIGHT, SUBJECT, Links
from btm.readers.modules import ModelModule
from btm.readers.ports import Batch, Port


class Scorer(ModelModule):
    """A score that is a product of the vector of a question and that of each entity, plus a bias.

    The loss is the binary cross-entropy of every entity against (1 − ε) y + 1/N, ε being
    `smoothing`, as the official code of ConvE has it.
    """

    takes = (SUBJECT, RELATION)
    gives = (Port("scores", shape="BN"),)
    targets = (RIGHT,)

    def __init__(self, before: Links, dim: int, smoothing: float) -> None:
        super().__init__(before)
        self.smoothing = smoothing
        count = len(before.entities)
        if before.vectors is None:
            self.entities = nn.Parameter(torch.empty(count, dim))
            nn.init.xavier_normal_(self.entities)
            self.project = None
        else:
            self.register_buffer("texts", before.vectors)
            self.project = nn.Linear(before.width, dim, bias=False)
            # Vectors as long as those that are learnt are at first.
            nn.init.normal_(self.project.weight, std=(2 / (count + dim) / before.width) ** 0.5)
        self.relations = nn.Parameter(torch.empty(2 * len(before.relations), dim))
        nn.init.xavier_normal_(self.relations)
        self.bias = nn.Parameter(torch.zeros(count)) if before.vectors is None else None

    def vectors(self) -> Tensor:
        """Return the vectors of all entities, (N, D)."""
        if self.project is None:
            return self.entities
        found: Tensor = self.project(self.texts)
        return found

    @abstractmethod
    def question(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Combine the vectors of subject and relation, (B, D) each, into that of the question."""

    def forward(self, batch: Batch) -> Batch:
        """Score every entity as the object of each question."""
        vectors_ND = self.vectors()
        asked_BD = self.question(vectors_ND[batch["subject"]], self.relations[batch["relation"]])
        scores_BN = asked_BD @ vectors_ND.T
        return {"scores": scores_BN if self.bias is None else scores_BN + self.bias}

    @torch.inference_mode()
    def triple(self, subject: int, relation: int, object_: int) -> float:
        """Score one triple alone."""
        vectors_ND = self.vectors()
        asked = self.question(vectors_ND[[subject]], self.relations[[relation]])
        score = (asked[0] * vectors_ND[object_]).sum()
        return float(score if self.bias is None else score + self.bias[object_])

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean binary cross-entropy over all entities."""
        scores_BN = self(batch)["scores"]
        right_BN = batch["right"].float()
        wanted_BN = (1 - self.smoothing) * right_BN + 1 / right_BN.shape[1]
        if not self.smoothing:
            wanted_BN = right_BN
        return F.binary_cross_entropy_with_logits(scores_BN, wanted_BN)


class DistMult(Scorer):
    """Σ_d s_d r_d o_d (Yang et al., arXiv 1412.6575)."""

    def __init__(
        self, before: Links, *, dim: int = 200, input_dropout: float = 0.2, smoothing: float = 0.1
    ) -> None:
        super().__init__(before, dim, smoothing)
        self.drop = nn.Dropout(input_dropout)

    def question(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Multiply element by element."""
        found: Tensor = self.drop(subject) * self.drop(relation)
        return found


class ComplEx(Scorer):
    """Re Σ_d s_d r_d ō_d (Trouillon et al., arXiv 1606.06357); a vector is its real parts, then
    its imaginary ones.
    """

    def __init__(
        self, before: Links, *, dim: int = 200, input_dropout: float = 0.2, smoothing: float = 0.1
    ) -> None:
        if dim % 2:
            raise UserError(
                f"reader.options: dim={dim}: complex numbers have two parts; wanted an even number"
            )
        super().__init__(before, dim, smoothing)
        self.drop = nn.Dropout(input_dropout)

    def question(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Multiply as complex numbers."""
        (s_re, s_im), (r_re, r_im) = (
            self.drop(subject).chunk(2, -1),
            self.drop(relation).chunk(2, -1),
        )
        return torch.cat([s_re * r_re - s_im * r_im, s_re * r_im + s_im * r_re], dim=-1)


class ConvE(Scorer):
    """f(vec(f([s̄; r̄] ∗ ω)) W) · o (Dettmers et al., arXiv 1707.01476, equation 1), f the ReLU.

    s̄ and r̄ are the vectors as matrices of `height` rows, one above the other; ω are `channels`
    filters of 3 × 3. Batch normalisation and dropout stand where the official code has them.
    """

    def __init__(
        self,
        before: Links,
        *,
        dim: int = 200,
        height: int = 10,
        channels: int = 32,
        input_dropout: float = 0.2,
        feature_dropout: float = 0.2,
        hidden_dropout: float = 0.3,
        smoothing: float = 0.1,
    ) -> None:
        if height < 2 or dim % height or dim // height < 3:
            raise UserError(
                f"reader.options: dim={dim}, height={height}: wanted a matrix of 2 rows or more "
                "and 3 columns or more"
            )
        super().__init__(before, dim, smoothing)
        self.height, self.width = height, dim // height
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(1), nn.BatchNorm2d(channels), nn.BatchNorm1d(dim)]
        )
        self.drops = nn.ModuleList(
            [nn.Dropout(input_dropout), nn.Dropout2d(feature_dropout), nn.Dropout(hidden_dropout)]
        )
        self.filters = nn.Conv2d(1, channels, 3)
        self.hidden = nn.Linear(channels * (2 * height - 2) * (self.width - 2), dim)

    def question(self, subject: Tensor, relation: Tensor) -> Tensor:
        """Convolve the two matrices, and project what comes out."""
        stacked = torch.cat([subject, relation], 1).view(-1, 1, 2 * self.height, self.width)
        found = self.drops[0](self.norms[0](stacked))
        found = self.drops[1](F.relu(self.norms[1](self.filters(found))))
        found = self.drops[2](self.hidden(found.flatten(1)))
        # A batch of one has no variance of its own to be normalised by.
        alone = self.training and len(found) == 1
        out: Tensor = F.relu(found if alone else self.norms[2](found))
        return out
