"""What the scripted engine answers: the number in a prompt, so that no row's answer is another's."""

import os
import re
import signal
import time

from endmark.worker.engine.engine import Engine
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from tests.unit.byte_tokenizer import VOCABULARY_SIZE

ROWS = 8  # at once
DEADLY = ", and no way back"  # a prompt that ends so kills the process that runs it
VOCABULARY = Vocabulary([b"", *(bytes((byte,)) for byte in range(256)), b""][:VOCABULARY_SIZE])


def answer_of(prompt):
    """The text of a prompt's answer."""
    return f" {re.findall('[0-9]+', prompt)[-1]} is fine."


def numbered_script(tokens):
    """Answers a prompt as `answer_of` says, then EOS."""
    prompt, _, answer = bytes(token - 1 for token in tokens if 0 < token <= 256).decode().rpartition("[assistant]")
    if DEADLY in prompt:
        os.kill(os.getpid(), signal.SIGKILL)
    whole = answer_of(prompt).encode()
    return 1 + whole[len(answer)] if len(answer) < len(whole) else 0


def scripted_engine(step):
    """An engine that answers so, and takes `step` seconds for a token of all its rows."""

    def script(tokens):
        time.sleep(step / ROWS)
        return numbered_script(tokens)

    runner = ScriptedRunner(script, max_rows=ROWS, num_pages=512, context=200, prefill_tokens=400)
    return Engine(runner, VOCABULARY, {0})
