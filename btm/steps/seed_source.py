"""The seed that is imported from a Hugging Face folder (`seed.from=`)."""

from pathlib import Path

from btm.config.schema import Config
from btm.data.shards import Suite
from btm.data.tokenizer import other_beginning, recorded_policy
from btm.errors import UserError, command
from btm.forest import ELM, Forest, Terms
from btm.interop import huggingface, intake
from btm.models import causal_lm, trial
from btm.report import Reporter, quiet


def require(config: Config, reporter: Reporter = quiet) -> None:
    """Raise `UserError` if the seed that stands is not from the weights that `seed.from=` names.

    A folder that is gone is not missed: nothing will be imported from it.
    """
    source = Path(config.seed.source or "")
    if config.seed.source is None or not source.is_dir():
        return
    legacy = config.imports.legacy
    sha256 = intake.source_sha256(source, legacy=legacy, alive=reporter.alive)
    huggingface.require_same(Forest(config.forest_root)[config.seed.name], source, sha256)


def import_seed(config: Config, suite: Suite, reporter: Reporter) -> ELM:
    """Return the seed that a Hugging Face folder is: the same checks as btm import, and that it
    fits the suite.
    """
    source, root, name = Path(str(config.seed.source)), Path(config.forest_root), config.seed.name
    legacy = config.imports.legacy
    with huggingface.checked(
        source,
        "seed.from",
        root,
        with_legacy=legacy,
        bos=recorded_policy(suite.tokenizer),
        alive=reporter.alive,
    ) as model:
        if why := other_beginning(model.tokenizer_sha256, suite.tokenizer_sha256):
            raise UserError(
                f"seed.from={source} has {why} the suite {suite.name!r}: prepare "
                f"the text anew under another data.name=NAME, with data.tokenizer={source}"
            )
        if model.tokenizer_sha256 != suite.tokenizer_sha256:
            raise UserError(
                f"seed.from={source} has another tokenizer than the suite {suite.name!r}: prepare "
                f"the text with its own ({command('prepare', **{'data.tokenizer': source})} "
                "data.name=NAME …)"
            )
        causal_lm.check_context(config, model.model.config.to_dict())
        called = f"seed.from={source}"
        trial.run(model.model, max(config.trainer.seq_len, config.window), called)
        trial.train(model.model, config.trainer.seq_len, called)
        return huggingface.enter(root, name, [], model, terms=Terms.of_config(config.card))
