"""fairseq's checkpoints, dictionaries and binarised text, read and written without fairseq.

fairseq (Ott et al. 2019, arXiv:1904.01038) is the toolkit that the BTM authors trained and
published their ELMs with. It is no longer maintained; docs/fairseq.md says which of its files are
read, written and refused.
"""

from btm.fairseq.convert import from_hugging_face, to_hugging_face

__all__ = ["from_hugging_face", "to_hugging_face"]
