"""Export as GGUF, the one-file format that llama.cpp and what is built on it read.

file           the file: facts about the model, tokenizer, tensors one after another
architectures  for each architecture the facts that it needs, and where its tensors go
vocabulary     the tokenizer, as llama.cpp spells it
"""

from btm.interop.gguf.file import TYPES, export

__all__ = ["TYPES", "export"]
