"""The model `btm` of lm-eval's command, made of the words that ``--model_args`` has for it.

This module imports lm_eval with itself; btm/cli/lm_eval.py registers it under its path.
"""

from collections.abc import Mapping
from typing import Any

from lm_eval.utils import simple_parse_args_string

from btm.cli.compose import compose, full_key
from btm.cli.verbs import reads
from btm.config.choices import ENSEMBLE
from btm.forest import Forest
from btm.steps.bench.harness import ForestLM, Settings
from btm.steps.bench.subjects import subject


class NamedForestLM(ForestLM):
    """A forest's model by the words of ``--model_args``: ``model=`` and those of btm bench."""

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> ForestLM:
        """Make it of ``key=value,key=value``; `UserError` for what btm bench does not read."""
        return _made(simple_parse_args_string(arg_string), additional_config or {})

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> ForestLM:
        """Make it of {key: value}; `UserError` for what btm bench does not read."""
        return _made(arg_dict, additional_config or {})


def _made(words: Mapping[str, Any], options: Mapping[str, Any]) -> ForestLM:
    """Make the model of `words`; of lm-eval's own `options` batch size and device are read."""
    given = dict(words)
    name = str(given.pop("model", ENSEMBLE))
    if str(options.get("batch_size")).isdigit():  # auto: btm's own default
        given.setdefault("bench.batch_size", options["batch_size"])
    # cuda:0 is lm-eval's default, GPU or not; trainer.device=auto is the first GPU, or the CPU.
    if options.get("device") not in (None, "cuda", "cuda:0"):
        given.setdefault("trainer.device", options["device"])
    settings = [f"{key}={_word(value)}" for key, value in given.items()]
    config = compose(settings, "bench")
    for word in settings:
        reads.require("bench", full_key(word), word)
    forest = Forest(config.forest_root)
    return ForestLM(forest, subject(config, forest, name), Settings.of(config))


def _word(value: Any) -> str:
    """Write a value as a word of btm; lm-eval has made Python of it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_word, value))}]"
    return str(value)
