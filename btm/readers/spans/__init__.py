"""Extractive questions: the answer is a span of the support (SQuAD, arXiv 1606.05250)."""
