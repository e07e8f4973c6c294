"""Penalties against a few lines each over whole logits, and against transformers where it has the same."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from endmark.jobs.sampling import TABLE, Sampling
from endmark.jobs.strategies import ScoreNumbers, build_strategies
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.adjusting import DRY_LONGEST, Written, adjust
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.plain_runner import PlainRunner
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.request import Request
from tests.engine.conftest import build_model
from tests.engine.test_scores_in_batches import VOCABULARY, run

pytestmark = pytest.mark.engine
EOS = [2, 5]


def adjusted(scores, prompt, answer, **values):
    """Return the scores as the plain path changes them; `bad_words` are token sequences."""
    words = values.pop("bad_words", ())
    sampling = Sampling(**values, bad_words=["text"] if words else [])
    row = PrefillRow(0, [*prompt, *answer], 0, (), 0, 0, sampling, ScoreNumbers(), 0, 0, words, len(prompt))
    changed = torch.tensor([scores])
    adjust(changed, [row], written([row]), torch.tensor(EOS))
    assert sampling.adjusts
    return changed[0].tolist()


def written(rows):
    """Return what the rows hold, each filled up with its last token."""
    longest = max(len(row.token_ids) for row in rows)
    filled = [[*row.token_ids, *row.token_ids[-1:] * (longest - len(row.token_ids))] for row in rows]
    lengths = torch.tensor([[len(row.token_ids)] for row in rows])
    return Written(torch.tensor(filled), lengths, torch.tensor([[row.prompt] for row in rows]))


def single(value):
    """Return a number as an fp32 holds it."""
    return torch.tensor(value).item() if isinstance(value, float) else value


def by_repetition(scores, prompt, answer, penalty):
    seen = {*prompt, *answer}
    changed = [score * penalty if score < 0 else score / penalty for score in scores]
    return [changed[token] if token in seen else score for token, score in enumerate(scores)]


def by_count(scores, prompt, answer, frequency, presence):
    counts = [answer.count(token) for token in range(len(scores))]
    return [score - frequency * n - presence * (n > 0) for score, n in zip(scores, counts, strict=True)]


def by_dry(scores, prompt, answer, multiplier):
    changed = list(scores)
    for token in set(answer):
        runs = [0]
        for place in range(1, len(answer)):
            if answer[place] == token:
                ends = (n for n in range(1, place + 1) if answer[place - n : place] == answer[-n:])
                runs.append(max(ends, default=0))
        longest = min(max(runs), DRY_LONGEST)
        changed[token] -= multiplier * 1.75 ** (longest - 2) if longest >= 2 else 0.0
    return changed


def by_bias(scores, prompt, answer, biases):
    return [score + dict(biases).get(token, 0.0) for token, score in enumerate(scores)]


def by_words(scores, prompt, answer, words):
    row = [*prompt, *answer]
    ended = {word[-1] for word in words if word[:-1] == row[len(row) - len(word) + 1 :]}
    return [-torch.inf if token in ended else score for token, score in enumerate(scores)]


def by_repeats(scores, prompt, answer, size):
    row = [*prompt, *answer]
    runs = [row[place : place + size] for place in range(len(row) - size + 1)]
    ended = {run[-1] for run in runs if run[:-1] == row[len(row) - size + 1 :]}
    return [-torch.inf if token in ended else score for token, score in enumerate(scores)]


def by_minimum(scores, prompt, answer, least):
    return [-torch.inf if token in EOS and len(answer) < least else score for token, score in enumerate(scores)]


def biases(rng):
    return tuple((token, single(rng.uniform(-100, 100))) for token in sorted(rng.sample(range(24), 5)))


def words(rng):
    return tuple([rng.randrange(24) for _ in range(rng.choice([1, 2, 2, 3]))] for _ in range(40))


REFERENCES = [
    (by_bias, lambda rng: {"logit_bias": biases(rng)}),
    (by_repetition, lambda rng: {"repetition_penalty": rng.uniform(0.5, 2)}),
    (by_count, lambda rng: {"frequency_penalty": rng.uniform(-2, 2), "presence_penalty": rng.uniform(-2, 2)}),
    (by_dry, lambda rng: {"dry_multiplier": rng.uniform(0.1, 5)}),
    (by_repeats, lambda rng: {"no_repeat_ngram_size": rng.randrange(1, 8)}),
    (by_words, lambda rng: {"bad_words": words(rng)}),
    (by_minimum, lambda rng: {"min_new_tokens": rng.randrange(1, 40)}),
]


def random_row(rng, size=24):
    """Return scores, prompt and answer, of few tokens so that they repeat; each may be empty but not both."""
    few = rng.sample(range(size), rng.randrange(1, 6))
    prompt = [rng.randrange(size) for _ in range(rng.randrange(1, 12))]
    answer = [rng.choice(few) for _ in range(rng.choice([0, 1, 2, 3, 10, 40, 90]))]
    return (
        torch.randn(size, generator=torch.Generator().manual_seed(rng.randrange(99))).mul(5).tolist(),
        prompt,
        answer,
    )


@pytest.mark.parametrize(("reference", "draw"), REFERENCES, ids=[item[0].__name__ for item in REFERENCES])
def test_each_penalty_is_as_its_definition_on_whole_logits(reference, draw):
    rng = random.Random(reference.__name__)
    for _ in range(60):
        scores, prompt, answer = random_row(rng)
        values = {name: single(value) for name, value in draw(rng).items()}
        wanted = reference(scores, prompt, answer, *values.values())
        assert adjusted(scores, prompt, answer, **values) == pytest.approx(wanted, rel=1e-4)


def test_together_they_are_the_definitions_one_after_the_other():
    rng = random.Random(1)
    for _ in range(60):
        scores, prompt, answer = wanted, *_ = random_row(rng)
        values = {}
        for reference, draw in REFERENCES:
            own = {name: single(value) for name, value in draw(rng).items()}
            wanted = reference(wanted, prompt, answer, *own.values())
            values |= own
        assert adjusted(scores, prompt, answer, **values) == pytest.approx(wanted, rel=1e-4)


def test_every_parameter_that_changes_scores_has_a_reference():
    drawn = {name for _, draw in REFERENCES for name in draw(random.Random(0))}
    assert drawn == {item.name for item in TABLE if item.adjusts}


@pytest.mark.parametrize("penalty", [0.75, 1.0625, 1.3])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    scores, prompt, answer = random_row(random.Random(7))
    row = torch.tensor([[*prompt, *answer]])
    wanted = RepetitionPenaltyLogitsProcessor(single(penalty))(row, torch.tensor([scores]))
    assert adjusted(scores, prompt, answer, repetition_penalty=penalty) == wanted[0].tolist()


def test_biases_and_sequences_are_those_of_transformers():
    rng = random.Random(3)
    for _ in range(30):
        scores, prompt, answer = random_row(rng)
        rows, biased, listed = torch.tensor([[*prompt, *answer]]), biases(rng), words(rng)
        wanted = SequenceBiasLogitsProcessor({(token,): bias for token, bias in biased})(
            rows, torch.tensor([scores])
        )
        assert adjusted(scores, prompt, answer, logit_bias=biased) == wanted[0].tolist()
        wanted = NoBadWordsLogitsProcessor(list(listed), [])(rows, torch.tensor([scores]))
        assert adjusted(scores, prompt, answer, bad_words=listed) == wanted[0].tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_runs_that_may_not_come_twice_are_those_of_transformers(size):
    rng = random.Random(size)
    for _ in range(20):
        scores, prompt, answer = random_row(rng)
        rows = torch.tensor([[*prompt, *answer]])
        wanted = NoRepeatNGramLogitsProcessor(size)(rows, torch.tensor([scores]))
        assert adjusted(scores, prompt, answer, no_repeat_ngram_size=size) == wanted[0].tolist()


@pytest.mark.parametrize("least", [1, 40, 41])
def test_the_minimum_of_tokens_is_that_of_transformers(least):
    scores, prompt, answer = [1.0] * 24, [7, 8], [9] * 40
    wanted = MinNewTokensLengthLogitsProcessor(len(prompt), least, EOS, device="cpu")(
        torch.tensor([[*prompt, *answer]]), torch.tensor([scores])
    )
    assert adjusted(scores, prompt, answer, min_new_tokens=least) == wanted[0].tolist()


def test_a_long_run_costs_no_more_than_the_longest_that_is_compared():
    changed = adjusted([0.0] * 24, [3, 4], [3, 4] * 4000, dry_multiplier=1.0)
    assert changed == pytest.approx([0, 0, 0, -(1.75**30), *[0] * 20])


def engine(model, pages=400, rows=16):
    runner = PlainRunner(model, EOS, num_pages=pages, page_size=16, max_rows=rows, prefill_tokens=512, context=200)
    return Engine(runner, VOCABULARY, EOS)


def requests(count=10):
    """Requests whose settings all differ, among them rows with none."""
    rng = random.Random(5)
    made = []
    for key in range(count):
        values = {}
        for _, draw in REFERENCES[: key % (len(REFERENCES) + 1)]:
            values |= draw(rng)
        prompt = [rng.randrange(6, 384) for _ in range(rng.randrange(4, 30))]
        listed = values.pop("bad_words", ())
        values |= {"bad_words": ("text",)} if listed else {}
        sampling = Sampling(temperature=rng.choice([0.0, 0.8]), seed=key, **values)
        made.append(Request(key, prompt, 40, sampling, stream=key, bad_words=listed))
    return made


def test_penalties_survive_preemption_and_the_rows_beside_them():
    """A row that was sent back and computed again is penalised for all that it held before."""
    model, wanted = build_model("llama"), requests()
    roomy, tight = engine(model), engine(model, pages=17)
    together, preempted = run(roomy, wanted), run(tight, wanted)
    assert tight.preemptions >= 3
    for request in wanted:
        assert together[request.key].token_ids == preempted[request.key].token_ids
    plain = run(engine(model), [Request(item.key, item.prompt_token_ids, 40, stream=item.key) for item in wanted])
    assert any(plain[key].token_ids != together[key].token_ids for key in plain)


def test_an_attempt_that_goes_on_from_its_answer_is_penalised_for_all_of_it():
    """`continue`: the answer so far is no prompt to presence and frequency, nor to the minimum of tokens."""
    model, wanted = build_model("llama"), requests()
    whole = run(engine(model), wanted)
    again = [
        replace(item, answer_token_ids=whole[item.key].token_ids[:15], max_new_tokens=25)
        for item in wanted
        if len(whole[item.key].token_ids) > 20
    ]
    assert len(again) > 5
    for key, finished in run(engine(model), again).items():
        assert finished.token_ids == whole[key].token_ids


def test_no_row_ends_before_its_minimum_whatever_its_strategy_raises():
    model = build_model("llama")
    strategies = ["baseline", "eos-reward:start=0", "eos-reward-published", "exp-decay:start=0,factor=3"]
    wanted = [
        Request(
            key, [7 + key], 40, Sampling(min_new_tokens=25), build_strategies([strategies[key % 4]]), stream=key
        )
        for key in range(16)
    ]
    done = run(engine(model), wanted)
    assert all(item.completion_tokens >= 25 for item in done.values())
    ended = [item for item in done.values() if item.verdict.finish_reason is FinishReason.EOS]
    assert ended
    assert all(item.trace.hidden_steps >= 25 for item in done.values())
