"""lm-evaluation-harness's own command with forests among its models: ``btm-lm-eval``.

    btm-lm-eval --model btm --model_args forest=experts/demo,model=law --tasks btm_rolling
        --include_path experts/demo/evals/tasks-demo

lm_eval 0.4 finds models in a registry that is filled when modules are imported, and asks no entry
points of other packages. So this command registers `btm`, under its path alone, and hands over to
lm-eval's `main`, whose options are all there. ``model=`` is a word of bench.models, forest (the
ensemble) if it is left out; the others are words of btm bench.
"""

import sys

from btm.errors import UserError
from btm.system.extras import install

NAME = "btm"


def main() -> int:
    """Run lm-eval's command; return its exit code, 2 for a mistake in the words of btm."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        print(f"btm-lm-eval: lm-eval is missing; run: {install('eval')}", file=sys.stderr)
        return 2
    try:
        cli_evaluate()
    except UserError as error:
        print(f"btm-lm-eval: {error}", file=sys.stderr)
        return 2
    return 0


def register() -> None:
    """Make `btm` a model of lm-eval in this process; it is imported when it is asked for."""
    import lm_eval.models  # noqa: F401  # else a registry that is not empty has btm alone
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target="btm.cli.lm_eval_model:NamedForestLM")


if __name__ == "__main__":
    sys.exit(main())
