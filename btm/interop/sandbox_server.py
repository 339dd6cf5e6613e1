"""``python -m btm.interop.sandbox_server``: the process that answers questions in boxes."""

from btm.interop import sandbox
from btm.interop.pickles import convert
from btm.interop.probe import probe


def main() -> None:
    """Import what all boxes need, then answer until stdin ends."""
    import torch  # noqa: F401
    import transformers.generation
    import transformers.modeling_layers
    import transformers.modeling_utils  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    sandbox.serve({"probe": probe, "convert": convert})


if __name__ == "__main__":
    main()
