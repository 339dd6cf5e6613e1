"""Sparse differences from a parent: how their mask lives (`momentum`), and the file they are
shipped as (`delta`).

What is sparse is the difference from the branch point, so branching, averaging and removing stay
what they are. The folder is still a whole model, made of exactly what the delta file says: the
branch point in float32 plus float16 changes, rounded to the stored dtype. A checkpoint keeps the
mask and the branch point's values under it, so a resume never looks at weights that may be the
trained ones.
"""
