"""Branch-Train-Merge: train, combine and ship forests of expert language models (arXiv
2208.03306).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from btm.ensemble.generate import Ensemble as Ensemble
    from btm.ensemble.posterior import cached_prior as cached_prior
    from btm.ensemble.posterior import domain_posterior as domain_posterior
    from btm.ensemble.posterior import em_prior as em_prior
    from btm.ensemble.posterior import mixture as mixture
    from btm.ensemble.posterior import top_k as top_k
    from btm.errors import UserError as UserError
    from btm.forest import ELM as ELM
    from btm.forest import Branch as Branch
    from btm.forest import Forest as Forest
    from btm.forest.card import Card as Card

__version__ = "0.1.0"

_HOMES = {
    "Branch": "forest",
    "Card": "forest.card",
    "ELM": "forest",
    "Ensemble": "ensemble.generate",
    "Forest": "forest",
    "UserError": "errors",
    "cached_prior": "ensemble.posterior",
    "domain_posterior": "ensemble.posterior",
    "em_prior": "ensemble.posterior",
    "mixture": "ensemble.posterior",
    "top_k": "ensemble.posterior",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `btm --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'btm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"btm.{_HOMES[name]}"), name)
