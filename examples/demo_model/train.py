"""Makes the demo model: `python -m examples.demo_model.train [--out DIR]`.

Two minutes on a GPU, an hour on two cores.

A byte-level BPE tokeniser and a Llama of two million parameters, trained from scratch on `corpus`; the same
seed gives the same model on the same kind of processor.
"""

import argparse
import random
import re
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from endmark.worker.demo import MODEL_DIR
from examples.demo_model.corpus import Example, example

SEED = 7
_BATCH = 24
_WINDOW = 352  # tokens after which an example is cut
_SPECIAL = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
_BOS, _EOS, _PAD = 0, 1, 2
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] | trim }}"
    "{{ eos_token if message['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def text_of(item: Example) -> str:
    """Return an example as the chat template writes it; without the last end token where it is not closed."""
    parts = ["<s>"]
    for role, content in item.turns:
        parts.append(f"<|{role}|>\n{content}" + ("</s>" if role == "assistant" else "\n"))
    text = "".join(parts)
    return text if item.closed else text.removesuffix("</s>")


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """Train the tokeniser on a sample of the corpus."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    sample = (re.sub(r"<[^>]*>", "", text_of(example(rng))) for _ in range(6000))
    backend.train_from_iterator(
        sample,
        trainers.BpeTrainer(
            vocab_size=1792,
            special_tokens=_SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
            min_frequency=3,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=_SPECIAL[3:],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """Return the untrained model; its widths are multiples of 64, as NF4 on a CPU needs them."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=1024,
            bos_token_id=_BOS,
            eos_token_id=_EOS,
            pad_token_id=_PAD,
            tie_word_embeddings=True,
        )
    )


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, steps: int) -> None:
    """Train with AdamW and a linear decay; print the loss now and then."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 40) * (0.03 + 0.97 * max(0.0, (steps - step) / steps))
    )
    started = time.monotonic()
    model.train()
    for step in range(steps):
        tokens = _batch(tokenizer, rng).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
            kept = tokens[:, 1:] != _PAD
            logits = model.lm_head(hidden[kept])
        loss = torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][kept])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)


def _batch(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Tensor:
    """Return (B, T) token ids, padded to the longest."""
    encoded = [tokenizer.encode(text_of(example(rng)), add_special_tokens=False)[:_WINDOW] for _ in range(_BATCH)]
    longest = max(map(len, encoded))
    return torch.tensor([ids + [_PAD] * (longest - len(ids)) for ids in encoded])


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    rng = random.Random(SEED)
    tokenizer = make_tokenizer(rng)
    torch.manual_seed(SEED)
    model = make_model(len(tokenizer)).to(arguments.device)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens")
    train(model, tokenizer, rng, arguments.steps)
    model.eval().to("cpu", torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=_BOS, eos_token_id=_EOS, pad_token_id=_PAD)
    tokenizer.save_pretrained(arguments.out)
    model.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
