"""Adapters of low rank: linear layers get factors that are trained beside the frozen parameters
(LoRA, arXiv 2106.09685; peft), in the loop of any other expert.

The expert is stored as a sparse one is: a folder with the whole weights, the exact sum, and beside
them the file they are made of (`btm.forest.adapter`).
"""
