"""Training loops that scripts/bench/train.py compares, each in a process and, if need be, an
environment of its own.

    python contenders.py NAME FOLDER

FOLDER holds a model of transformers (config.json, model.safetensors), batches.npy (steps, rows, T +
1) and settings.json. Once warm the process prints "ready"; a line with a number has it train that
many steps, and print their seconds and losses as JSON. All have AdamW with the same settings,
clipping at a norm of 1, a constant learning rate and the same batches; precision and threads are
those of settings.json.
"""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

Answer = Callable[[list[float]], None]


class Turns:
    """The other side of stdin and stdout: how many steps are asked for, and what they took."""

    def __init__(self, warm_up: int, device: str) -> None:
        self.left, self.begun = warm_up, time.perf_counter()
        self.device = device
        self.losses: list[float] = []
        self.out = sys.stdout
        sys.stdout = sys.stderr  # what libraries print is none of the answers

    def done(self, loss: float) -> bool:
        """Note a step; when its turn ends, answer and wait for the next. Returns whether there is
        none.
        """
        self.losses.append(loss)
        self.left -= 1
        if self.left:
            return False
        seconds = time.perf_counter() - self.begun
        if self.device == "cpu":
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # bytes
        else:
            most = torch.cuda.max_memory_allocated()
        answer = {"seconds": seconds, "losses": self.losses, "memory": most}
        print(json.dumps(answer), file=self.out, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            return True
        self.left, self.losses = int(line), []
        self.begun = time.perf_counter()
        return False


def autocast(settings: dict[str, Any]) -> torch.autocast:
    return torch.autocast(
        settings["device"], dtype=torch.bfloat16, enabled=settings["precision"] == "bf16"
    )


def tensors(folder: Path, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in np.load(folder / "batches.npy", mmap_mode="r"):
        rows = torch.from_numpy(batch.astype(np.int64)).to(device)
        yield rows[:, :-1], rows[:, 1:]


def btm(folder: Path, settings: dict[str, Any], turns: Turns, how: str = "always") -> None:
    """The loop of btm itself, from its own memory maps, with its metrics."""
    from btm.config.training import TrainerConfig
    from btm.data.batches import Batches
    from btm.data.shards import Shard
    from btm.train import loop
    from btm.train.schedule import Schedule
    from btm.train.training import Training

    shards = [Shard.open(Path(place), "train") for place in settings["shards"]]
    batches = Batches(shards, settings["seq_len"], settings["batch_size"], seed=0)
    trainer = TrainerConfig(
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        seq_len=settings["seq_len"],
        lr=settings["lr"],
        warmup=0.0,
        decay="constant",
        precision=settings["precision"],
        device=settings["device"],
        threads=settings["threads"],
        compile=how if how in ("always", "never") else "never",
        kernels=how != "plain",
        checkpoint_every=10**9,
        log_every=1,
    )
    lines: list[float] = []

    def pulse(step: int) -> bool:
        return turns.done(lines[-1])

    schedule = Schedule.of(trainer, horizon=trainer.steps)
    with contextlib.suppress(loop.TrainingStoppedError):
        loop.train(
            Training(
                folder,
                batches,
                trainer,
                schedule,
                trainer.steps,
                report=lambda p: lines.append(p.loss),
                pulse=pulse,
            )
        )


def nanogpt(
    folder: Path, settings: dict[str, Any], turns: Turns, *, compiled: bool = False
) -> None:
    """The loop of nanoGPT's train.py around its model.py, under autocast, which it leaves out on
    CPUs.
    """
    from safetensors.torch import load_file

    sys.path.insert(0, settings["nanogpt"])
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    config = json.loads((folder / "config.json").read_text())
    model = GPT(
        GPTConfig(
            block_size=settings["seq_len"],
            vocab_size=config["vocab_size"],
            n_layer=config["n_layer"],
            n_head=config["n_head"],
            n_embd=config["n_embd"],
            dropout=0.0,
            bias=True,
        )
    )
    stored = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = stored[name if name in stored else name.replace("lm_head", "transformer.wte")]
            turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
            value = value.t() if turned else value
            parameter.copy_(value[: len(parameter)] if "wpe" in name else value)
    model.to(settings["device"])
    optimizer = model.configure_optimizers(0.1, settings["lr"], (0.9, 0.95), settings["device"])
    run = torch.compile(model) if compiled else model
    for inputs, targets in tensors(folder, settings["device"]):
        with autocast(settings):
            _, loss = run(inputs, targets.contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if turns.done(float(loss.detach())):
            return


def hf_trainer(folder: Path, settings: dict[str, Any], turns: Turns) -> None:
    """transformers.Trainer with its default attention and torch's fused AdamW."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    rows = np.load(folder / "batches.npy").astype(np.int64).reshape(-1, settings["seq_len"] + 1)

    class Stop(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any
        ) -> None:
            if "loss" in (logs or {}) and turns.done(logs["loss"]):
                control.should_training_stop = True

    def collate(chosen: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = torch.from_numpy(np.stack([one["row"] for one in chosen]))
        targets = batch[:, 1:].contiguous()
        return {"input_ids": batch[:, :-1], "labels": targets, "shift_labels": targets}

    class InOrder(Trainer):
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(args[0] if args else self.train_dataset)

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=settings["batch_size"],
        max_steps=settings["steps"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=settings["precision"] == "bf16",
        use_cpu=settings["device"] == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    data: Any = [{"row": row} for row in rows]
    InOrder(
        model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[Stop()]
    ).train()


def litgpt(folder: Path, settings: dict[str, Any], turns: Turns) -> None:
    """The step of litgpt's pretrain.py: compiled model (but where losses alone are asked for),
    Fabric's mixed precision, its chunked cross-entropy.
    """
    from lightning.fabric import Fabric  # type: ignore[import-not-found]
    from litgpt.model import GPT, Config  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    made = Config(
        block_size=settings["seq_len"],
        vocab_size=config["vocab_size"],
        padded_vocab_size=config["vocab_size"],
        n_layer=config["num_hidden_layers"],
        n_head=config["num_attention_heads"],
        n_embd=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=config["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
    )
    fabric = Fabric(
        accelerator=settings["device"],
        devices=1,
        precision="bf16-mixed" if settings["precision"] == "bf16" else "32-true",
    )
    model = GPT(made)
    model.load_state_dict(
        _for_litgpt(load_file(folder / "model.safetensors"), config["num_hidden_layers"])
    )
    model.lm_head.weight = model.transformer.wte.weight  # tied, as the others are
    model = fabric.setup(torch.compile(model) if settings["compile"] else model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["lr"], betas=(0.9, 0.95), weight_decay=0.1
    )
    optimizer = fabric.setup_optimizers(optimizer)
    for inputs, targets in tensors(folder, settings["device"]):
        loss = chunked_cross_entropy(model(inputs), targets)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        if turns.done(float(loss.detach())):
            return


def _for_litgpt(stored: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Return the parameters of a Llama of transformers by litgpt's names."""
    embedding = stored["model.embed_tokens.weight"]
    made = {"transformer.wte.weight": embedding, "lm_head.weight": embedding}
    made["transformer.ln_f.weight"] = stored["model.norm.weight"]
    for i in range(layers):
        theirs, ours = f"transformer.h.{i}.", f"model.layers.{i}."
        made[theirs + "norm_1.weight"] = stored[ours + "input_layernorm.weight"]
        made[theirs + "norm_2.weight"] = stored[ours + "post_attention_layernorm.weight"]
        made[theirs + "attn.qkv.weight"] = torch.cat(
            [stored[f"{ours}self_attn.{x}_proj.weight"] for x in "qkv"]
        )
        made[theirs + "attn.proj.weight"] = stored[ours + "self_attn.o_proj.weight"]
        for name, other in {"gate": "fc_1", "up": "fc_2", "down": "proj"}.items():
            made[f"{theirs}mlp.{other}.weight"] = stored[f"{ours}mlp.{name}_proj.weight"]
    return made


CONTENDERS: dict[str, Callable[[Path, dict[str, Any], Turns], None]] = {
    "btm": btm,
    "btm, not compiled": partial(btm, how="never"),
    "btm, plain": partial(btm, how="plain"),
    "nanoGPT": nanogpt,
    "nanoGPT, compiled": lambda *a: nanogpt(*a, compiled=True),
    "transformers.Trainer": hf_trainer,
    "litgpt": litgpt,
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    CONTENDERS[name](folder, settings, Turns(settings["warm_up"], settings["device"]))


if __name__ == "__main__":
    main()
