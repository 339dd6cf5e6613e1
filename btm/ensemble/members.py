"""Load the members of an ensemble that reads and writes token by token."""

from typing import TYPE_CHECKING

from btm.config.load import LoadConfig
from btm.data.tokenizer import recorded_policy
from btm.ensemble import adapters
from btm.forest import Forest, Model, require_same_tokenizer
from btm.interop import huggingface
from btm.models import inference
from btm.models.causality import require_causal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_member(
    forest: Forest, model: Model, device: str = "cpu", how: LoadConfig | None = None
) -> "PreTrainedModel":
    """Load a member on `device` as the section `load` asks (float32 without one), in evaluation
    mode; a folder from outside passes an import's checks first.

    Raises `UserError` for a model that is not causal, has another tokenizer, or cannot be loaded
    so.
    """
    how = how or LoadConfig()
    if model.kind != "folder":
        loaded = adapters.load(model.path, device, how)
        require_causal(loaded, str(model.path))
        return loaded
    inference.require_device(how, device)  # before its checks, which take a while
    bos = recorded_policy(forest.tokenizer)
    with huggingface.checked(model.path, "ensemble.experts", forest.root, bos=bos) as found:
        require_same_tokenizer(forest, found.tokenizer_sha256, str(model.path))
        return inference.prepared(found.model, device, how)
