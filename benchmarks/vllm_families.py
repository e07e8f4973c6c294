"""Small random models of kinds that our engine refuses, through vLLM: `python benchmarks/vllm_families.py [NAME]`.

Each kind is made, run and judged in a process of its own, several side by side. Its rows are greedy, each
fourth with `deadline`. Judged are the tokens of those without, by the scores of transformers in fp32 behind the
same tokens and with the same weights: a token is the best, or a near tie, or neither. Near is what transformers'
own bf16 leaves open: at most twice the largest difference, at that step, between its scores in bf16 and in fp32.
How many of its own best tokens are others in bf16 is told too. On a CPU both compute in fp32.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from endmark.jobs.errors import Refusal
from endmark.jobs.strategies import build_strategies
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.loader import load_engine
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.core import VllmCore
from endmark.worker.vllm.engine import VllmEngine
from endmark.worker.vllm.loading import build_llm, engine_options

_TOKENS, END, ROWS, _NEW, CONTEXT = 512, 2, 16, 32, 256
_IDS = {"vocab_size": _TOKENS, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0}
_SMALL = {
    **_IDS,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}
SIZES = {
    **_SMALL,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 128}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_DELTA = {
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
_WITHOUT_FLASHINFER = {"gdn_prefill_backend": "triton"}


def _config(kind: str, common: dict[str, Any], **own: Any) -> Any:  # noqa: ANN401
    """Return the configuration of a small model of a kind of transformers."""
    return getattr(transformers, kind)(**{**common, **own})


FAMILIES: dict[str, Callable[[], Any]] = {
    "deepseek_v2": partial(_config, "DeepseekV2Config", SIZES | _EXPERTS | _LATENT, q_lora_rank=None),
    "falcon": partial(_config, "FalconConfig", _SMALL, num_attention_heads=4),
    "falcon_h1": partial(
        _config, "FalconH1Config", SIZES, head_dim=64, mamba_d_ssm=512, mamba_n_heads=8, mamba_d_head=64,
        mamba_d_state=64, mamba_n_groups=1,
    ),
    "glm4_moe_lite": partial(_config, "Glm4MoeLiteConfig", SIZES | _EXPERTS | _LATENT, q_lora_rank=128),
    "gptj": partial(
        _config, "GPTJConfig", _IDS, n_embd=256, n_layer=4, n_head=4, n_positions=512, rotary_dim=32,
        initializer_range=0.15,
    ),
    "jamba": partial(
        _config, "JambaConfig", SIZES, num_experts=2, attn_layer_period=2, attn_layer_offset=1,
        use_mamba_kernels=False,
    ),
    "mamba": partial(_config, "MambaConfig", _SMALL, state_size=16),
    "mamba2": partial(
        _config, "Mamba2Config", _SMALL, num_heads=8, head_dim=64, expand=2, state_size=64, n_groups=1
    ),
    "persimmon": partial(_config, "PersimmonConfig", SIZES),
    "qwen3_next": partial(
        _config, "Qwen3NextConfig", SIZES | _EXPERTS | _DELTA, num_experts=4,
        shared_expert_intermediate_size=128, layer_types=["linear_attention"] * 3 + ["full_attention"],
    ),
}  # fmt: skip


def save_model(config: Any, folder: Path) -> None:  # noqa: ANN401
    """Write a model with random bf16 weights, the same each time, and a tokeniser of one word a token."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, 0
    model.to(torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(_TOKENS)}, unk_token="w0"))
    words.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w1", eos_token=f"w{END}").save_pretrained(folder)


def make(name: str, folder: Path) -> str:
    """Write a model of a kind; return what our engine says of it.

    Raises:
        RuntimeError: it would not refuse it.
    """
    save_model(FAMILIES[name](), folder)
    try:
        load_engine(str(folder), device="cpu", four_bits=False)
    except Refusal as refusal:
        return str(refusal)
    raise RuntimeError("our engine takes this kind")


def requests() -> list[Request]:
    """Return the rows."""
    generator = torch.Generator().manual_seed(1)
    return [
        Request(
            key=key,
            prompt_token_ids=torch.randint(3, _TOKENS, (5 + 3 * key,), generator=generator).tolist(),
            max_new_tokens=_NEW,
            stream=key,
            strategies=build_strategies(["deadline"]) if key % 4 == 3 else (),
        )
        for key in range(ROWS)
    ]


def answers(folder: Path, rows: list[Request], dtype: torch.dtype) -> list[Finished]:
    """Run rows through our engine over vLLM."""
    block = Block.make(ROWS, _TOKENS)
    options = {
        "model": str(folder),
        "max_model_len": CONTEXT,
        "dtype": str(dtype).removeprefix("torch."),
        "enforce_eager": True,
        "gpu_memory_utilization": 0.08,  # several run side by side, and none may measure what the others leave
        "kv_cache_memory_bytes": 1 << 30,
    }
    options["additional_config"] = engine_options(block, {END})["additional_config"] | _WITHOUT_FLASHINFER
    llm, _ = build_llm(engine_options(block, {END}) | options)
    block.unlink()
    vocabulary = Vocabulary([b""] * 3 + [b"x"] * (_TOKENS - 3))
    engine = VllmEngine(VllmCore(llm, {END}), block, vocabulary, {END}, embeddings=_TOKENS)
    done: list[Finished] = []
    for row in rows:
        engine.add(row)
    while engine.has_work:
        done += engine.step()
    return done


def judge(model: Any, exact: Any, row: Request, tokens: list[int]) -> Counter[str]:  # noqa: ANN401
    """Count the tokens of a greedy answer by what transformers' scores say of them."""
    rough, scores = (_scores(network, list(row.prompt_token_ids), tokens) for network in (model, exact))
    gaps = scores.amax(-1) - scores.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)
    near = 2 * (rough - scores).abs().amax(-1).clamp(min=1e-4)
    kinds = [
        "best" if gap == 0 else "near" if gap <= most else "other" for gap, most in zip(gaps, near, strict=True)
    ]
    return Counter([*kinds, *["bf16"] * int((rough.argmax(-1) != scores.argmax(-1)).sum())])


def _scores(model: Any, prompt: list[int], tokens: list[int]) -> Tensor:  # noqa: ANN401
    """Return (N, V) fp32 on the CPU before each of the tokens."""
    ids = torch.tensor([[*prompt, *tokens[:-1]]], device=model.device)
    with torch.inference_mode():
        scores: Tensor = model(input_ids=ids).logits[0, len(prompt) - 1 :].float().cpu()
    return scores


def run_one(name: str) -> None:
    """Make, run and judge one kind in this process."""
    started = time.perf_counter()
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    with tempfile.TemporaryDirectory() as held:
        folder, rows = Path(held), requests()
        refusal = make(name, folder)
        done = answers(folder, rows, dtype)
        model, exact = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=kind).to(device).eval()
            for kind in (dtype, torch.float32)
        )
    counts, ends = Counter[str](), Counter[str]()
    for item in done:
        ended = item.end_token_id is not None
        ends[str(item.verdict.eos_source) if ended else "none"] += 1
        if not rows[item.key].strategies:
            tokens = [*item.token_ids, *([item.end_token_id] if ended else [])]
            counts += judge(model, exact, rows[item.key], tokens)
    print(
        f"{name}: {len(done)} rows; {counts['best']} tokens are transformers' best, {counts['near']} near ties, "
        f"{counts['other']} others; its own bf16 changes {counts['bf16']}; ends {dict(ends)}; "
        f"{time.perf_counter() - started:.0f} s; {refusal}",
        flush=True,
    )


def run_all(options: argparse.Namespace) -> int:
    """Run each kind in a process, print its line as it comes; return how many failed."""

    def run(name: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        command = [sys.executable, __file__, "--part", name]
        try:
            return name, subprocess.run(
                command,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=options.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            return name, subprocess.CompletedProcess(
                command, -1, (late.stdout or b"").decode() + "\nno end in time"
            )

    failed = 0
    with ThreadPoolExecutor(options.at_once) as pool:
        for told in as_completed([pool.submit(run, name) for name in options.names or FAMILIES]):
            name, process = told.result()
            lines = process.stdout.splitlines()
            line = next((line for line in lines if line.startswith(f"{name}: ")), None)
            failed += line is None
            print(line or f"{name}: failed:\n  " + "\n  ".join(lines[-12:]), flush=True)
    return failed


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--at-once", type=int, default=8, help="processes side by side")
    parser.add_argument("--seconds", type=float, default=120, help="that a kind may take")
    parser.add_argument("--part", choices=FAMILIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_one(options.part)
        sys.stdout.flush()
        os._exit(0)  # vLLM's own end takes seconds and says much
    sys.exit(run_all(options))


if __name__ == "__main__":
    main()
