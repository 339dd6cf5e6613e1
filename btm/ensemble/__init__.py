"""The ensemble: log-probabilities of each ELM, domain posterior, mixture, and generation.

Evaluation is embarrassingly parallel: `score` each ELM alone, keep float32 log p of every token
under a content hash, then mix the kept arrays in numpy. A prior, α, β or gate is never fitted on
what is evaluated: by name or by the hash of its tokens such a split is refused.

`gate` looks at scores and tokens and at nothing of the models, so it works from the score cache and
for any experts. All share its eight numbers: a new expert needs no new fit. `router` looks at words
alone, and is handed to `evaluate` as a function from token ids to log weights.
"""
