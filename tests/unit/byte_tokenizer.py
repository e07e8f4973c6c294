"""A tokeniser of bytes with a chat template, for tests that need no model: token `b + 1` is the byte `b`."""

import json

BOS = 257
VOCABULARY_SIZE = 258


class ByteTokenizer:
    """Token 0 is the end token, 257 begins a text; `<s>` in a text stands for the latter, as in real templates."""

    def __init__(self, *, template: bool = True) -> None:
        self.chat_template = "a template" if template else None
        self.calls = 0

    def __call__(self, text, *, add_special_tokens, verbose):
        del verbose
        self.calls += 1
        return {"input_ids": [([BOS] if add_special_tokens else []) + self._encode(item) for item in text]}

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt):
        assert not tokenize
        if any(turn["content"] == "refuse me" for turn in conversation):
            raise ValueError("no such turn")
        turns = "".join(f"[{turn['role']}]{turn['content']}" for turn in conversation)
        return f"<s>{turns}" + ("[assistant]" if add_generation_prompt else "")

    def decode(self, token_ids):
        """The text of token ids, `<s>` for BOS."""
        return b"".join(b"<s>" if item == BOS else bytes((item - 1,)) for item in token_ids if item).decode()

    def _encode(self, text):
        head, begin, tail = text.partition("<s>")
        data = [byte + 1 for byte in head.encode()]
        return [*data, BOS, *self._encode(tail)] if begin else data


def cells_of(*prompts):
    """Rows of one column."""
    return [(prompt,) for prompt in prompts]


def turns_of(*turns):
    """A `messages` cell."""
    return json.dumps([{"role": role, "content": content} for role, content in turns])
