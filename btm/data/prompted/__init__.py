"""Prompted and chat data: examples of a prompt and its answer, with the loss on the answer.

A row of JSON lines is an example (`examples`): a prompt and its completion, a prompt and several
weighted completions, or messages that a chat template writes (`template`). It is read and rendered
in pass 1, where its file and line are known; from there on it is a document like any other, whose
text is the example in canonical JSON, so splits, duplicates and digests are those of texts.

`pack` makes tokens of it. Beside them a shard of such data has, for each token, whether it is
predicted, and for each example its weight:

data/<suite>/<domain>/{train,valid,test}.mask    uint8 of each token, 1 where it is predicted
data/<suite>/<domain>/{train,valid,test}.weight  float32 of each example

`rows` lays examples out for training, several in a row where the model keeps them apart, and for
scoring, where each has a row of its own.
"""
