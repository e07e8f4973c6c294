"""Labels token by token: EOS ends every whole answer, is learned, and is never taken for padding."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from endmark.jobs.errors import ModelError, SpecError
from endmark.jobs.finetuning.chats import read_chats
from endmark.worker.finetune.batches import Collator, count_eos
from endmark.worker.finetune.labels import IGNORED, LLAMA_2_TEMPLATE, Labeller, pack
from endmark.worker.finetune.training import check_eos

pytestmark = pytest.mark.engine

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
FORGETS = (  # a reasoning model's: what an earlier answer thought is taken out
    "{% for m in messages %}{{ '[' + m['role'] + ']' }}"
    "{{ m['content'] if loop.last else m['content'].split('</t>')[-1] }}"
    "{{ '</s>' if m['role'] == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)
SPECIAL = ["</s>", "<s>", "<|im_start|>", "<|im_end|>", "<pad>"]
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey."}]
TWO = [{"role": "system", "content": "Be kind."}, *HI, {"role": "user", "content": "?"}]
TWO += [{"role": "assistant", "content": "Yes."}]


def tokenizer_of(template, pad="</s>"):
    """One token a character, and the special ones; pad is EOS unless said otherwise."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate([*SPECIAL, *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        additional_special_tokens=SPECIAL[2:4],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def shown(tokenizer, example):
    """The text, what is learned between ‹ and ›."""
    marked, inside = "", False
    for token_id, label in zip(example.token_ids, example.labels, strict=True):
        assert label in (IGNORED, token_id)
        if inside != (label != IGNORED):
            inside = not inside
            marked += "‹" if inside else "›"
        marked += tokenizer.decode([token_id])
    return marked + ("›" if inside else "")


CASES = {  # template, turns, and the text with what is learned between ‹ and ›
    "llama-2": (LLAMA_2_TEMPLATE, HI, "<s>[INST] Hi [/INST]‹ Hey. </s>›"),
    "llama-2, two turns": (
        LLAMA_2_TEMPLATE,
        TWO,
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST]‹ Hey. </s>›<s>[INST] ? [/INST]‹ Yes. </s>›",
    ),
    "chatml, two turns": (
        CHATML,
        TWO[1:],
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n‹Hey.<|im_end|>›\n"
        "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n‹Yes.<|im_end|>›\n",
    ),
    "a template without an end": (
        NO_END,
        TWO[1:],
        "[user]Hi\n[assistant]‹Hey.</s>›\n[user]?\n[assistant]‹Yes.</s>›\n",
    ),
    "nothing behind the answer": (NO_END.replace(" + '\n'", ""), HI, "[user]Hi[assistant]‹Hey.</s>›"),
    "answers that the template rewrites": (
        FORGETS,
        [HI[0], {"role": "assistant", "content": "hm</t>Hey."}, *TWO[3:]],
        "[user]Hi[assistant]Hey.</s>[user]?[assistant]‹Yes.</s>›",
    ),
    "an end written out in the data": (
        LLAMA_2_TEMPLATE,
        [HI[0], {"role": "assistant", "content": "Hey.</s> "}],
        "<s>[INST] Hi [/INST]‹ Hey. </s>›",
    ),
}


THINKS = (  # as DeepSeek-R1's and QwQ's: it opens the thought, and takes it out of what was answered
    "{% for m in messages %}{{ '[' + m['role'] + ']' }}"
    "{{ m['content'].split('</think>')[-1] | trim }}{{ '</s>' if m['role'] == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]<think>\n' }}{% endif %}"
)
OPENS_ITSELF = THINKS.replace("<think>\n'", "'")
THOUGHT = "<think>\nHm.\n</think>\n\nYes."
THINKING = {  # template, the last answer, what is learned of thought and answer, and of the answer alone
    "opened by the template": (
        THINKS,
        THOUGHT,
        "[assistant]<think>\n‹Hm.\n</think>\n\nYes.</s>›",
        "[assistant]<think>\nHm.\n</think>‹\n\nYes.</s>›",
    ),
    "opened by the model": (
        OPENS_ITSELF,
        THOUGHT,
        "[assistant]‹<think>\nHm.\n</think>\n\nYes.</s>›",
        "[assistant]<think>\nHm.\n</think>‹\n\nYes.</s>›",
    ),
    "only its end is written": (
        THINKS,
        "Hm.\n</think>\n\nYes.",
        "[assistant]<think>\n‹Hm.\n</think>\n\nYes.</s>›",
        "[assistant]<think>\nHm.\n</think>‹\n\nYes.</s>›",
    ),
    "a template that knows of no thoughts": (
        NO_END,
        THOUGHT,
        "[assistant]‹<think>\nHm.\n</think>\n\nYes.</s>›\n",
        "[assistant]<think>\nHm.\n</think>‹\n\nYes.</s>›\n",
    ),
    "no thought": (OPENS_ITSELF, "Yes.", "[assistant]‹Yes.</s>›", "[assistant]‹Yes.</s>›"),
}


@pytest.mark.parametrize("case", THINKING)
def test_an_answer_is_learned_with_its_thought_or_alone(case):
    """Templates take thoughts out of what was answered before, so an example had none, or was left out."""
    template, answer, both, alone = THINKING[case]
    tokenizer = tokenizer_of(template)
    turns = [*HI, {"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    for wanted, answer_alone in ((both, False), (alone, True)):
        example = Labeller(tokenizer, {0, 3}, 1000, answer_alone=answer_alone).label(turns)
        text = shown(tokenizer, example)
        assert text[text.rindex("[assistant]") :] == wanted
        assert "‹Hey.</s>›" in text
        assert example.answers == 2


@pytest.mark.parametrize("case", CASES)
def test_labels(case):
    template, turns, wanted = CASES[case]
    tokenizer = tokenizer_of(template)
    example = Labeller(tokenizer, {0, 3}, 1000).label(turns)
    assert shown(tokenizer, example) == wanted
    assert example.answers == wanted.count("›")
    assert not example.cut
    if "</t>" not in str(turns):  # what is learned stands right behind what is asked
        prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        added = example.answers - 1 if template == NO_END else 0  # ends that the template lacks
        assert example.labels[len(prompt_ids) + added - 1] == IGNORED
        assert example.labels[len(prompt_ids) + added] != IGNORED


def test_the_three_forms_of_a_dataset_come_out_the_same(tmp_path):
    forms = {
        "a.jsonl": '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hey."}]}',
        "b.csv": "prompt,answer\nHi,Hey.\n",
        "c.jsonl": '{"text": "### Human: Hi### Assistant: Hey.### Human: And"}',
    }
    labeller = Labeller(tokenizer_of(LLAMA_2_TEMPLATE), {0}, 100)
    found = []
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        (chat,) = read_chats(str(tmp_path / name))
        found.append(labeller.label(chat.turns))
    assert found[0] == found[1] == found[2]
    assert found[0].labels[-1] == 0


@pytest.mark.parametrize(("room", "learned"), [(0, ""), (3, "‹Hey›"), (4, "‹Hey.›"), (5, "‹Hey.<|im_end|>›")])
def test_an_answer_that_is_cut_gets_no_end(room, learned):
    tokenizer = tokenizer_of(CHATML)
    whole = Labeller(tokenizer, {0, 3}, 1000).label(HI)
    begin = next(at for at, label in enumerate(whole.labels) if label != IGNORED)
    example = Labeller(tokenizer, {0, 3}, begin + room).label(HI)
    assert shown(tokenizer, example).endswith("<|im_start|>assistant\n" + learned)
    assert example.cut
    assert example.answers == (room == 5)
    assert example.learns == (room > 0)


@pytest.mark.parametrize("pad", ["</s>", "<pad>"])
def test_padding_is_by_length_and_takes_no_end_away(pad):
    tokenizer = tokenizer_of(LLAMA_2_TEMPLATE, pad)
    examples = [Labeller(tokenizer, {0}, 1000).label(turns) for turns in (HI, TWO)]
    records = [{"input_ids": list(item.token_ids), "labels": list(item.labels)} for item in examples]
    batch = Collator(tokenizer.pad_token_id)(records)
    for row, item in enumerate(examples):
        length = len(item.token_ids)
        assert batch["input_ids"][row].tolist()[:length] == list(item.token_ids)
        assert batch["labels"][row].tolist()[:length] == list(item.labels)
        assert batch["labels"][row, length - 1] == tokenizer.eos_token_id
        assert set(batch["labels"][row, length:].tolist()) <= {IGNORED}
        assert batch["attention_mask"][row].sum() == length
    assert count_eos([batch], {0}) == (2, 2)


def test_packing_keeps_every_example_whole_with_its_end():
    tokenizer = tokenizer_of(LLAMA_2_TEMPLATE)
    labeller = Labeller(tokenizer, {0}, 60)
    chats = [[HI[0], {"role": "assistant", "content": "x" * n}] for n in (1, 30, 12, 2, 50, 7)]
    examples = [labeller.label(turns) for turns in chats]
    blocks = pack(examples, 60)
    assert len(blocks) < len(examples)
    assert max(len(block.token_ids) for block in blocks) <= 60
    found = []
    for block in blocks:
        at = 0
        for length in block.lengths:
            found.append((block.token_ids[at : at + length], block.labels[at : at + length]))
            at += length
    assert sorted(found) == sorted((item.token_ids, item.labels) for item in examples)
    batch = Collator(0)([{"input_ids": b.token_ids, "labels": b.labels, "lengths": b.lengths} for b in blocks])
    assert "attention_mask" not in batch
    for row, block in enumerate(blocks):
        wanted = [at for length in block.lengths for at in range(length)]
        assert batch["position_ids"][row].tolist()[: len(wanted)] == wanted
    assert count_eos([batch], {0}) == (6, 5)  # the answer of 50 is cut


def test_the_check_refuses_to_train_where_no_example_has_an_end():
    tokenizer = tokenizer_of(LLAMA_2_TEMPLATE)

    def trainer(max_length):
        example = Labeller(tokenizer, {0}, max_length).label(HI)
        record = {"input_ids": list(example.token_ids), "labels": list(example.labels)}
        return SimpleNamespace(get_train_dataloader=lambda: [Collator(0)([record])])

    assert check_eos(trainer(100), {0}) == "EOS is in the labels of 1 of 1 examples (100.0 %)"
    with pytest.raises(SpecError, match="none of the 1 examples has EOS"):
        check_eos(trainer(22), {0})


def test_a_tokeniser_without_an_end_token_is_refused():
    with pytest.raises(ModelError, match="names no end token"):
        Labeller(SimpleNamespace(eos_token_id=None), {0}, 10)


def test_count_eos_looks_at_labels_alone():
    batch = {"input_ids": torch.tensor([[5, 0]]), "labels": torch.tensor([[5, IGNORED]])}
    assert count_eos([batch], {0}) == (1, 0)
