"""Settings of the server: its address, its token, and what it takes on."""

from dataclasses import dataclass, field
from typing import Any

from btm.config.checks import check_choice, check_least, check_path, require
from btm.config.keys import key
from btm.config.remote_experts import remote_experts
from btm.config.serve_ray import RayConfig, check_ray

ENGINES = ("local", "ray")


@dataclass
class ServeConfig:
    """Where a forest is served, and the limits of one request and of all together."""

    host: str = key(
        "127.0.0.1",
        "address that is listened on; any but this machine's own (127.0.0.1, ::1, localhost) needs "
        "a token",
    )
    port: int = key(8000, "port that is listened on; 0: any that is free")
    token_file: str | None = key(
        None,
        "file of the token that requests must bring, which others may not read; null: the "
        "environment's BTM_SERVE_TOKEN, or none",
    )
    running: int = key(16, "answers that are written at once")
    waiting: int = key(
        64, "requests that may wait, with twice as many answers in all; more are told to come again"
    )
    context: int = key(
        0, "tokens of a prompt and its answer; 0: as many as the model has positions for"
    )
    max_tokens: int = key(4096, "tokens that one answer may have")
    max_total: int = key(131_072, "tokens of all prompts and answers of one request")
    max_n: int = key(16, "answers to one prompt")
    max_prompts: int = key(64, "prompts of one request")
    max_logprobs: int = key(20, "likeliest tokens that are told of each token")
    max_body: int = key(8 << 20, "bytes of a request")
    patience: float = key(
        30.0, "seconds that a client may take to send its request, or to read what it is sent"
    )
    reload: float = key(2.0, "seconds between two looks at the forest for other models; 0: none")
    remote: dict[str, Any] = key(
        {},
        "experts that other servers run: {NAME: {url: http://HOST:PORT/v1, model: MODEL}, …}; "
        "also key_env, top, timeout in seconds, retries",
    )
    grace: float = key(10.0, "seconds that answers may still take when the server is stopped")
    engine: str = key(
        "local",
        "where models run; ray: on the machines of a Ray cluster (serve.ray, extra [cluster])",
        ENGINES,
    )
    ray: RayConfig = field(default_factory=RayConfig)


def check_serve(serve: ServeConfig) -> None:
    """Raise `UserError` naming the first key of `serve` whose value makes no sense."""
    require(serve.host != "", "serve.host", repr(serve.host), "wanted an address, as 127.0.0.1")
    require(0 <= serve.port < 1 << 16, "serve.port", serve.port, "wanted 0 to 65535")
    check_path(serve.token_file, "serve.token_file")
    check_least(
        serve, "serve", 1, "running", "waiting", "max_tokens", "max_total", "max_n", "max_prompts"
    )
    check_least(serve, "serve", 0, "context", "max_logprobs", "reload", "grace")
    check_least(serve, "serve", 1024, "max_body")
    check_least(serve, "serve", 1, "patience")
    remote_experts(serve.remote)
    check_choice(serve.engine, "serve.engine", ENGINES)
    check_ray(serve.ray)
    require(
        serve.engine == "ray" or serve.ray == RayConfig(),
        "serve.engine",
        serve.engine,
        "serve.ray has no effect here; give serve.engine=ray, or leave its keys out",
    )
