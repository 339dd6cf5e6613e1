"""Members that other servers run, behind OpenAI-compatible completions endpoints.

endpoint  one endpoint: timeouts, retries with back-off, answers of bounded size
answers   what an answer says of each token, checked
probe     what an endpoint offers, and whether it has the forest's tokenizer
member    the `Member` that asks it
experts   those of serve.remote, as models of the catalog

A server tells the k likeliest tokens, not the whole distribution. The rest of the mass is spread
evenly over the other tokens, and how far that may be from the truth is told (`Rest`).
"""
