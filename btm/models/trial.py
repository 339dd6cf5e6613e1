"""A model is tried before anything of it is kept: it must run, and come back from disk as it was.

Every entrance asks here: a new seed, an import, a folder that is evaluated. What fails is refused
in one line, before the first step of a training.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.models import causal_lm, configs
from btm.system import durable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

TOKENS = 8  # of a trial, where nothing says how many the model will read at once


def run(
    model: "PreTrainedModel", tokens: int, called: str, *, vocabulary: int = 1
) -> "torch.Tensor":
    """Run `model` on a sequence of `tokens` and return its logits, (tokens, vocabulary).

    Raises `UserError` if it does not run on so many, gives numbers that are not finite, or has
    embeddings or logits for fewer tokens than the `vocabulary` of its tokenizer. It reads its first
    ordinary tokens, again and again: some architectures give padding no position. What is random in
    it leaves torch's generator as it was.
    """
    import torch

    rows = causal_lm.vocabulary(model)
    if rows < vocabulary:
        raise UserError(
            f"{called}: embeddings for {rows:,} tokens, the tokenizer has {vocabulary:,}"
        )
    was_training = model.training
    model.eval()
    ordinary = torch.tensor(_ordinary(model, rows), device=model.device)
    ids = ordinary[torch.arange(tokens, device=model.device) % len(ordinary)][None]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), causal_lm.quiet():
            logits = causal_lm.logits_of(model(input_ids=ids, use_cache=False))[0]
    except MemoryError:
        raise
    except Exception as error:  # each architecture fails in its own way on sizes it never met
        raise UserError(
            f"{called}: does not run on {tokens:,} tokens: {causal_lm.why(error)}"
        ) from None
    finally:
        model.train(was_training)
    if logits.ndim != 2 or len(logits) != tokens or logits.shape[1] < vocabulary:
        raise UserError(
            f"{called}: gives logits of shape {tuple(logits.shape)} for {tokens:,} tokens of a "
            f"vocabulary of {vocabulary:,}"
        )
    if not torch.isfinite(logits).all():
        raise UserError(f"{called}: gives logits that are not finite")
    return logits


def train(model: "PreTrainedModel", tokens: int, called: str) -> None:
    """Compute the gradient of one sequence of `tokens`, and forget it.

    Raises `UserError` if the architecture cannot: some only run on other lengths when they train.
    """
    import torch

    was_training = model.training
    model.train()
    ids = torch.tensor(_ordinary(model, causal_lm.vocabulary(model)), device=model.device)
    ids = ids[torch.arange(tokens + 1, device=model.device) % len(ids)][None]
    try:
        with torch.random.fork_rng(devices=[]), causal_lm.quiet():
            causal_lm.mean_nll(model, ids[:, :-1], ids[:, 1:]).backward()
    except MemoryError:
        raise
    except Exception as error:  # each architecture fails in its own way
        raise UserError(
            f"{called}: does not train on {tokens:,} tokens: {causal_lm.why(error)}"
        ) from None
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)


def _ordinary(model: "PreTrainedModel", rows: int) -> list[int]:
    """List the first tokens that the config of `model` gives no meaning of their own."""
    config = causal_lm.text_config(model.config)
    special: set[object] = set()
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        found = getattr(config, key, None)
        special |= set(found) if isinstance(found, list) else {found}
    return [token for token in range(min(rows, 256)) if token not in special] or [0]


def comes_back(
    model: "PreTrainedModel", tokens: int, place: Path, called: str, *, vocabulary: int = 1
) -> "PretrainedConfig":
    """Save `model` in the folder `place`, load it again, and return the config it came back with.

    Raises `UserError` as `run` does, or if what is loaded is another architecture or gives other
    logits. Nothing is left in `place`.
    """
    import torch

    before = run(model, tokens, called, vocabulary=vocabulary)
    with durable.scratch_in(place) as scratch:
        try:
            with durable.naming(scratch), causal_lm.quiet():
                model.save_pretrained(scratch, max_shard_size="5GB")
        except (OSError, MemoryError):
            raise
        except Exception as error:  # each architecture fails in its own way
            raise UserError(f"{called}: cannot be saved: {causal_lm.why(error)}") from None
        try:
            loaded = causal_lm.load_model(scratch, model.device, dtype=model.dtype)
        except UserError as error:
            told = str(error).removeprefix(f"{scratch}: ")
            raise UserError(f"{called}: once saved, it {told}") from None
    after = run(loaded, tokens, called)
    changed = configs.differences(model.config, loaded.config)
    if changed:
        key, old, new = changed[0]
        raise UserError(
            f"{called}: its config changes when it is saved: {key} was {old}, is {new} once loaded"
        )
    if not torch.allclose(before.float(), after.float(), rtol=1e-3, atol=1e-3):
        raise UserError(f"{called}: gives other logits once it is saved and loaded again")
    return loaded.config
