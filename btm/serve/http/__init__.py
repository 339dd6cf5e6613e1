"""The HTTP server: OpenAI's API over the engine of `btm.serve`, and what its own page asks for.

access       the token, and which addresses need one
server       uvicorn: the socket, signals, clients that neither send nor read
app          the application: its routes, its tasks, its errors
guard        what is refused before a route is looked at: hosts, origins, tokens, long bodies
wire         the shapes of requests; errors: the shape of refusals
completions  /v1/completions; chat: /v1/chat/completions; both over asking, choice and stream
texts        /tokenize, /detokenize, /tokenizer_info; score: /v1/score
hidden       /v1/hidden_states, by a forward pass in the engine's thread
calls        the requests of one HTTP request in the engine's thread
pieces       the text and the place of each token; shapes: log-probabilities as OpenAI writes them
metrics      what Prometheus reads
page         the page at /, and /v1/forest, which it draws

Everything but `access` needs the extra `serve`.
"""
