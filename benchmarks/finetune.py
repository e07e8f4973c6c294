"""Step time and peak memory of QLoRA on the 7B shape: `python benchmarks/finetune.py` on a GPU.

The trainer is `endmark finetune`'s own, over a model of Llama-2-7B's shape with random weights in NF4 and chats of
random tokens, packed to full sequences; what the loss comes to means nothing.
"""

import argparse
import random
import statistics
import tempfile
import time

import torch
from seven_b import SHAPE, build
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.worker.finetune.labels import IGNORED, Labelled
from endmark.worker.finetune.training import build_trainer, check_eos, train

_WARM_UP = 5  # steps not counted


def main() -> None:
    """Train, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    times: list[float] = []

    def report(progress: FinetuneProgress) -> None:
        torch.cuda.synchronize()
        times.append(time.monotonic())
        if progress.step % 25 == 0:
            loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
            print(f"step {progress.step} of {progress.steps}{loss}: {_taken(times, spec)}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        spec = FinetuneSpec(
            dataset="-",
            output=folder,
            steps=options.steps,
            rank=options.rank,
            batch_size=options.batch_size,
            max_length=options.max_length,
            packing=True,
            save_every=10**6,
        )
        network = build("sdpa", layers=options.layers)
        network.is_loaded_in_4bit = True  # as `from_pretrained` would note it
        print(f"model: {torch.cuda.memory_allocated() / 2**30:.2f} GiB", flush=True)
        trainer = build_trainer(network, _tokenizer(), _examples(spec), spec, device="cuda", report=report)
        print(check_eos(trainer, {SHAPE.eos_token_id}))
        learned = sum(item.numel() for item in trainer.model.parameters() if item.requires_grad)
        print(f"rank {spec.rank}: {learned:,} parameters are trained", flush=True)
        torch.cuda.reset_peak_memory_stats()
        train(trainer, spec)
    whole = times[-1] - times[0]
    print(f"{torch.cuda.get_device_name()}: {len(times)} steps in {whole:.0f} s; {_taken(times, spec)}")


def _taken(times: list[float], spec: FinetuneSpec) -> str:
    """Return the time of a step and the peak memory so far."""
    steps = [after - before for before, after in zip(times[_WARM_UP:], times[_WARM_UP + 1 :], strict=False)]
    middle = statistics.median(steps)
    return (
        f"{spec.batch_size} × {spec.max_length} tokens take {middle:.3f} s (median; longest {max(steps):.3f}),"
        f" {spec.batch_size * spec.max_length / middle:,.0f} tokens/s;"
        f" peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB allocated,"
        f" {torch.cuda.max_memory_reserved() / 2**30:.2f} reserved"
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokeniser that the trainer can save; nothing is tokenised by it."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _examples(spec: FinetuneSpec) -> list[Labelled]:
    """Return chats of random tokens, a quarter of each the prompt, which fill a good number of sequences."""
    rng = random.Random(spec.seed)
    examples = []
    for _ in range(64 * spec.batch_size):
        length = rng.randint(spec.max_length // 16, spec.max_length // 2)
        ids = (1, *(rng.randrange(3, SHAPE.vocab_size) for _ in range(length - 2)), SHAPE.eos_token_id)
        prompt = length // 4
        examples.append(Labelled(ids, (IGNORED,) * prompt + ids[prompt:], answers=1, cut=False))
    return examples


if __name__ == "__main__":
    main()
