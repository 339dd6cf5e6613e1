"""Models whose feed-forward layers exist once for each domain (DEMix layers, arXiv 2108.05036,
section 3).
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from btm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Attributes of a decoder layer that are its feed-forward part: llama, gpt2, gpt_neox, bloom; opt.
_FFNS = (("mlp",), ("fc1", "fc2"))
_COPY = re.compile(r"\.of_domain\.(\d+)\.")


class DomainFFN(nn.Module):
    """One copy of a module for each domain, of which the `active` one is used."""

    def __init__(self, module: nn.Module, domains: int) -> None:
        super().__init__()
        self.of_domain = nn.ModuleList([module, *(deepcopy(module) for _ in range(domains - 1))])
        self.active = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the active copy does."""
        return self.of_domain[self.active](*args, **kwargs)


def split(model: "PreTrainedModel", domains: int) -> list[DomainFFN]:
    """Replace every feed-forward module of `model` by copies, one for each domain; return the
    replacements.

    Raises `UserError` if the model's class keeps them where nobody knows.
    """
    layers = _layers(model)
    names = next(
        (names for names in _FFNS if all(hasattr(layer, n) for layer in layers for n in names)), ()
    )
    if not layers or not names:
        raise UserError(
            f"baseline=demix: {type(model).__name__} has no feed-forward modules of a known name "
            "(layers with mlp, or "
            "fc1 and fc2): give a model of the classes llama, gpt2, gpt_neox, opt or bloom"
        )
    made = []
    for layer in layers:
        for name in names:
            made.append(DomainFFN(getattr(layer, name), domains))
            setattr(layer, name, made[-1])
    return made


def _layers(model: "PreTrainedModel") -> list[nn.Module]:
    """Return the model's decoder layers."""
    wanted = model.config.num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((list(found) for found in lists if len(found) == wanted), [])


def plain_name(name: str) -> str:
    """Return the name that a parameter has in the model without copies."""
    return _COPY.sub(".", name)


def domain_of(name: str) -> int | None:
    """Return the domain that a parameter belongs to, None if it is shared."""
    found = _COPY.search(name)
    return int(found[1]) if found else None


def of_domain(parameters: Mapping[str, Tensor], domain: int) -> dict[str, Tensor]:
    """Return the parameters of the plain model of one domain: the shared ones and its own, by plain
    name.
    """
    return {
        plain_name(n): tensor for n, tensor in parameters.items() if domain_of(n) in (None, domain)
    }


def mean(parameters: Mapping[str, Tensor], domains: int) -> dict[str, Tensor]:
    """Return the parameters of the plain model whose feed-forward layers are the mean over the
    domains.
    """
    first = of_domain(parameters, 0)
    others = [of_domain(parameters, domain) for domain in range(1, domains)]
    # As in btm/models/average.py: differences from the first, so that what is shared stays as it
    # is, bit for bit.
    changes = {n: sum(other[n].double() - x.double() for other in others) for n, x in first.items()}
    return {n: (x.double() + changes[n] / domains).to(x.dtype) for n, x in first.items()}


def fill(model: "PreTrainedModel", parameters: Mapping[str, Tensor]) -> "PreTrainedModel":
    """Return the plain `model` with `parameters` by name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    return model
