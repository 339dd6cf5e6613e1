"""How a text begins: with a BOS, or with nothing but the end of the text before it.

A model whose windows began with a BOS in training needs one at the beginning of each: it attends to
it from everywhere. What decides is the policy ``data.bos``: `auto` does what the tokenizer itself
does for its model (its post-processor, or ``add_bos_token``); `always` and `never` overrule it.

    each document     begins with the BOS when it is packed, unless the BOS is the EOS, with which
                      the document before it has ended
    each window       begins with the BOS, in training and in scores, in place of the last token of
                      the window before
    each prompt       is read after the BOS

The copy of a tokenizer in a suite, and so in its forest, its ELMs and what is exported, puts the
BOS before a text itself if and only if the policy does.
"""

import json
from pathlib import Path
from typing import Any

from btm.errors import UserError
from btm.system.json_files import Json

AUTO, ALWAYS, NEVER = "auto", "always", "never"
# Of a copy's tokenizer_config.json: whether each document begins with BOS. It goes where the files
# go, into every ELM, so it tells the two kinds of text apart wherever tokenizers are compared.
BEGINS = "documents_begin_with_bos"
POLICY = "data_bos"  # of the same file: a policy that overrules the tokenizer


def own_bos(tokenizer: Any) -> int | None:
    """Find the one token that a tokenizer puts before a text by itself; None without one."""
    before = own_beginning(tokenizer)
    return before[0] if len(before) == 1 else None


def own_beginning(tokenizer: Any) -> list[int]:
    """List all tokens that a tokenizer puts before a text by itself."""
    whole = tokenizer("a").input_ids
    bare = tokenizer("a", add_special_tokens=False).input_ids
    added = range(len(whole) - len(bare) + 1)
    count = next((n for n in added if whole[n : n + len(bare)] == bare), 0)
    return [int(token) for token in whole[:count]]


def bos_of(tokenizer: Any, policy: str, what: str) -> int | None:
    """Find the token that texts begin with under a policy; None if there is none.

    `UserError`, naming the tokenizer as `what`, if there must be one and it has none, or if it
    puts several before a text: windows and prompts have room for one.
    """
    if policy == NEVER:
        return None
    before = own_beginning(tokenizer)
    if len(before) > 1:
        said = " ".join(map(str, tokenizer.convert_ids_to_tokens(before)))
        raise UserError(
            f"data.bos={policy}: {what} puts {len(before)} tokens before a text ({said}); wanted "
            f"one at most: change its post_processor (tokenizer.json), or give data.bos={NEVER}, "
            "which puts none"
        )
    own = before[0] if before else None
    if policy == AUTO or own is not None:
        return own
    if tokenizer.bos_token_id is None:
        raise UserError(
            f"data.bos={ALWAYS}: {what} has no bos_token: set one in its tokenizer_config.json, or "
            f"leave data.bos={AUTO}"
        )
    return int(tokenizer.bos_token_id)


def records(bos: int | None, eos: int, policy: str) -> Json:
    """Make the keys of a copy's tokenizer_config.json that say how texts begin; {} by default."""
    made: Json = {} if bos is None or bos == eos else {BEGINS: True}
    return made if policy == AUTO else made | {POLICY: policy}


def impose(folder: Path, tokenizer: Any, bos: int | None) -> list[Json]:
    """Make the unpublished copy of `tokenizer` in `folder` put `bos` before a text, or nothing.

    Returns the settings (tokenizer_config.json) to be tried, the best first: a class of
    transformers may build its own post-processor, which the plain class does not.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    before = content.get("post_processor")
    if bos is None:
        content["post_processor"] = _without(before, own_beginning(tokenizer))
    else:
        token = tokenizer.convert_ids_to_tokens(bos)
        content["post_processor"] = _with(before, token, bos)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    asked = {"add_bos_token": bos is not None}
    return [asked, {"tokenizer_class": "PreTrainedTokenizerFast"}]


def _with(processor: Json | None, token: str, bos: int) -> Json:
    """Put `token` before the text in a post-processor."""
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    if processor is not None and processor["type"] == "TemplateProcessing":
        special = {token: {"id": token, "ids": [bos], "tokens": [token]}}
        return processor | {
            "single": [first, *processor["single"]],
            "pair": [first, *processor["pair"]],
            "special_tokens": processor["special_tokens"] | special,
        }
    template: Json = {"type": "TemplateProcessing", "special_tokens": {}}
    template["single"] = [{"Sequence": {"id": "A", "type_id": 0}}]
    template["pair"] = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    if processor is None:
        return _with(template, token, bos)
    parts: list[Json] = processor["processors"] if processor["type"] == "Sequence" else [processor]
    templates = [i for i, part in enumerate(parts) if part["type"] == "TemplateProcessing"]
    if not templates:
        parts, templates = [*parts, template], [len(parts)]
    at = templates[0]
    made = [*parts[:at], _with(parts[at], token, bos), *parts[at + 1 :]]
    return {"type": "Sequence", "processors": made}


def _without(processor: Json | None, before: list[int]) -> Json | None:
    """Take the tokens `before` a text out of a post-processor; with them what adds no more."""
    if processor is None or not before:
        return processor
    if processor["type"] == "Sequence":
        parts = [_without(part, before) for part in processor["processors"]]
        kept = [part for part in parts if part is not None]
        return {"type": "Sequence", "processors": kept} if kept else None
    if processor["type"] != "TemplateProcessing":
        return None if processor["type"] in ("RobertaProcessing", "BertProcessing") else processor
    special = processor["special_tokens"].items()
    named = {name for name, each in special if each.get("ids") in [[token] for token in before]}
    made = dict(processor)
    for form in ("single", "pair"):
        parts = processor[form]
        made[form] = [p for p in parts if p.get("SpecialToken", {}).get("id") not in named]
    return made
