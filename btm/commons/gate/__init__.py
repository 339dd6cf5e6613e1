"""The gate of the commons: the checks that a stranger's expert must pass to enter a forest.

    contribution = Contribution(folder, domain="law", parents={"seed": 1.0}, format="delta8")
    verdict = judge(config, forest, contribution, Policy.read(file), suite, into=quarantine)
    audit.append(log, "judged", verdict.to_json())
    if verdict.admitted:
        enter(forest, "law-2", contribution, quarantine, verdict)

Of a contribution nothing but numbers goes on. Its files are copied, read in a limited process
(btm/system/sandbox.py), and restored onto the average of the parents: weights under the forest's
own header, config and tokenizer. All later checks read that restored model.
"""

from btm.commons.gate.contribution import FORMATS, Contribution
from btm.commons.gate.entry import enter
from btm.commons.gate.judge import judge
from btm.commons.gate.policy import Policy
from btm.commons.gate.probes import Canary, Probes
from btm.commons.gate.reference import Reference
from btm.commons.gate.verdict import Check, Verdict

__all__ = [
    "FORMATS",
    "Canary",
    "Check",
    "Contribution",
    "Policy",
    "Probes",
    "Reference",
    "Verdict",
    "enter",
    "judge",
]
