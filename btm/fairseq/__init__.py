"""fairseq's checkpoints, dictionaries and binarised text, read and written without fairseq.

fairseq (Ott et al. 2019, arXiv:1904.01038) is the toolkit that the BTM authors trained and
published their ELMs with. It is no longer maintained; docs/fairseq.md says what of it is read,
written and refused.

Published ELMs and data are in its formats, so they are read and written by code of ours, compared
with fairseq in the tests. A checkpoint, a pickle, is opened by torch's restricted reader alone.
Each decoder becomes the class of transformers that computes the same (XGLM, BioGPT, OPT), so
nothing above has to know where an ELM came from.
"""

from btm.fairseq.convert import from_hugging_face, to_hugging_face

__all__ = ["from_hugging_face", "to_hugging_face"]
