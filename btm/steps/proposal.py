"""The number of steps, where nobody has given it: from the amount of text and the size of a model.

The reasons are measurements (docs/choosing.md): a forest needs tokens for each parameter of an ELM,
and steps enough to make use of them; a text that is read more often than four times teaches little.
"""

from dataclasses import dataclass, replace

from btm.config.schema import Config
from btm.data.shards import Suite
from btm.report import Reporter, quiet
from btm.report.progress import count_text
from btm.steps.costs import Costs
from btm.steps.plan import MANY_EPOCHS

TOKENS_EACH = 20  # training tokens for each parameter of an ELM
FEWEST = 2000  # steps of the seed phase and all experts, where there is text for them


@dataclass(frozen=True)
class Proposal:
    """The steps of each expert, and what they amount to."""

    steps: int  # of each expert
    seed_steps: int
    experts: int
    tokens: int  # trained on in all
    parameters: int  # of one ELM
    text: int  # tokens of training text

    @property
    def lines(self) -> tuple[str, str, str]:
        """Say in three lines what is proposed and why."""
        each, passes = self.tokens / self.parameters, self.tokens / max(1, self.text)
        tokens, parameters, text = map(count_text, (self.tokens, self.parameters, self.text))
        return (
            f"trainer.steps={self.steps} follows from the amount of text (another overrules it)",
            f"  {tokens} training tokens in all: {each:.3g} for each of a model's {parameters} "
            f"parameters (aim: {TOKENS_EACH}), {passes:.2g} passes over {text} tokens of text (at "
            f"most {MANY_EPOCHS})",
            f"  {self.seed_steps:,} steps of the seed phase, {self.steps:,} for each of "
            f"{self.experts} experts (docs/choosing.md)",
        )


def propose(config: Config, domains: list[str], text: int) -> Proposal:
    """Propose the steps of each expert on `domains`, which have `text` training tokens in all.

    As many tokens in all as `TOKENS_EACH` for each parameter, or `FEWEST` steps if these are more,
    but no more than `MANY_EPOCHS` times the text. The seed phase takes its share of them: what
    seed.steps says, or else as many steps as the experts of the first round.
    """
    trainer, parameters = config.trainer, Costs.of(config).parameters
    per_step = trainer.batch_size * trainer.seq_len
    wanted = max(TOKENS_EACH * parameters, FEWEST * per_step)
    in_all = min(wanted, MANY_EPOCHS * text) // per_step
    untrained = config.seed.source is not None or config.seed.steps is not None
    seed_steps = 0 if config.seed.source else config.seed.steps or 0
    # seed_steps() is a multiple of trainer.steps where seed.steps is not given.
    one = replace(config, trainer=replace(trainer, steps=1))
    shares = len(domains) + (0 if untrained else one.seed_steps(domains))
    steps = max(1, (in_all - seed_steps) // max(1, shares))
    seed_steps = seed_steps if untrained else steps * one.seed_steps(domains)
    tokens = (seed_steps + steps * len(domains)) * per_step
    return Proposal(steps, seed_steps, len(domains), tokens, parameters, text)


def of_suite(config: Config, suite: Suite) -> Proposal:
    """Propose the steps of each expert on the prepared text of `suite`."""
    planned = config.run.rounds or [config.run.domains or suite.training_domains()]
    domains = [domain for each in planned for domain in each]
    return propose(config, domains, sum(suite.shard(d, "train").n_tokens for d in domains))


def settled(config: Config, suite: Suite, reporter: Reporter = quiet) -> Config:
    """Return `config` with the steps that are proposed, and tell `reporter` why; as it is where
    trainer.steps is given.
    """
    if config.trainer.steps:
        return config
    found = of_suite(config, suite)
    for line in found.lines:
        reporter.line(line)
    return replace(config, trainer=replace(config.trainer, steps=found.steps))
