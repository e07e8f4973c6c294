"""What the scripted engine answers: the number in a prompt, so that no row's answer is another's."""

import re

from endmark.worker.engine.text import Vocabulary
from tests.unit.byte_tokenizer import VOCABULARY_SIZE

VOCABULARY = Vocabulary([b"", *(bytes((byte,)) for byte in range(256)), b""][:VOCABULARY_SIZE])


def answer_of(prompt):
    """The text of a prompt's answer."""
    return f" {re.findall('[0-9]+', prompt)[-1]} is fine."


def numbered_script(tokens):
    """Answers a prompt as `answer_of` says, then EOS."""
    prompt, _, answer = bytes(token - 1 for token in tokens if 0 < token <= 256).decode().rpartition("[assistant]")
    whole = answer_of(prompt).encode()
    return 1 + whole[len(answer)] if len(answer) < len(whole) else 0
