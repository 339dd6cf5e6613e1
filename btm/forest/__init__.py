"""The registry on disk: a forest, its ELMs and branches, and the models that lie beside them.

Files are the truth. `elms/` is never modified. A branch carries `branch.json` (where it comes from)
and, once trained, `trained.json` (what came of it); merging reads both, checks, seals the card and
renames. An expert worse than its best parent on its own valid split is refused unless
`merge.force=true`, and a forced one is marked.

Shares of a branch under 10⁻³ are dropped: they change nothing measurable, and would make every
expert a descendant of every other.

`ledger`: a card names every ancestor with its own tokens and FLOPs, fixed when the branch was made,
so a set of ELMs costs the sum over their union, each once. Scoring is not counted.

`tombstone`, `removal`: the tombstone is published first, by one rename, and from then on the ELM is
no part of the forest; the rest is moved beside it and deleted, so a killed removal is finished by
the same command. Descendants are found by the (name, sha256) on their cards.

`index`: an SQLite file in the user's cache that is replaced whole, never locked. An entry counts
while the card's inode, times and size are those it was made of. If it is damaged the cards are
read.
"""

from btm.forest.branch import ELM, Branch
from btm.forest.forest import EXACT, SCHEMA, Forest
from btm.forest.models import Model, derived, find_model, own_model, require_same_tokenizer
from btm.forest.terms import Terms

__all__ = [
    "ELM",
    "EXACT",
    "SCHEMA",
    "Branch",
    "Forest",
    "Model",
    "Terms",
    "derived",
    "find_model",
    "own_model",
    "require_same_tokenizer",
]
