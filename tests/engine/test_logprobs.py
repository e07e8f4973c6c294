"""Log probabilities of tokens against a reference of one pass over the whole answer."""

import numpy as np
import pytest
import torch

from endmark.jobs.sampling import Sampling
from endmark.worker.engine.request import Request
from tests.engine import test_contract_plain as plain
from tests.engine.test_choices import eager
from tests.engine_contract import run

pytestmark = pytest.mark.engine


def test_they_are_those_of_the_models_own_scores():
    """Neither temperature nor penalties change what is told."""
    prompt = [80, *range(3, 14)]
    warm = Sampling(temperature=1.5, top_k=5, repetition_penalty=1.5, presence_penalty=1.0)
    requests = [Request(key, prompt, 12, warm, stream=key, logprobs=4) for key in range(3)]
    for found in run(plain.TestPlain().build(), requests).values():
        with torch.inference_mode():
            logits = eager()(input_ids=torch.tensor([[*prompt, *found.token_ids]]), use_cache=False).logits[0]
        scores = logits[len(prompt) - 1 :].float().log_softmax(-1)
        for step, told in enumerate(found.logprobs.tokens):
            best, ids = scores[step].topk(4)
            assert told.ids.tolist() == [found.token_ids[step], *ids.tolist()]
            expected = [scores[step, found.token_ids[step]].item(), *best.tolist()]
            assert np.allclose(told.log_probs, expected, atol=1e-4)
