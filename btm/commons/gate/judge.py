"""The judgement of one contribution: stages from the cheapest to the dearest."""

from pathlib import Path

from btm.commons.gate.contribution import Contribution
from btm.commons.gate.policy import Policy
from btm.commons.gate.probes import NO_PROBES, Probes
from btm.commons.gate.verdict import Verdict
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.forest import Forest
from btm.report import Reporter, quiet


def judge(
    config: Config,
    forest: Forest,
    contribution: Contribution,
    policy: Policy,
    suite: Suite,
    *,
    probes: Probes = NO_PROBES,
    into: Path | None = None,
    thorough: bool = False,
    reporter: Reporter = quiet,
) -> Verdict:
    """Judge a contribution by `policy` on the valid splits of `suite` and return the verdict.

    The checks, by stage: `format`, `files`, `size`; `read` (schema, shapes, dtypes, exact parents,
    in the limited process), `finite`; `move`, `norm`, `layers`, `copy`; `own`; `others`;
    `backdoor`; `verbatim`, `canaries`. After a stage with a check that failed nothing more is
    spent, unless `thorough`, which goes on as long as there is a model to look at.

    If it is admitted, the restored model folder (weights, config, tokenizer) is published at
    `into`, which must not exist. Nothing is ever written into the forest but scores of its own
    ELMs. A bad contribution is a verdict; `UserError` is for mistakes of the maintainer: parents
    that the forest has not, a domain that the suite has not.
    """
    raise NotImplementedError
