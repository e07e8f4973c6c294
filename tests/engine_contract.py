"""What every engine must do, as tests of `worker.engine.contract`: a subclass says how to build its engine.

The model may be any: nothing here knows which tokens it chooses, only how the answers hang together.
"""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from endmark.jobs.errors import PromptTooLong, TokenUnknown
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import EosSource, FinishReason
from endmark.worker.engine.request import Request
from endmark.worker.engine.steering import Insertion, Phase, PhaseEnd

ROWS, CONTEXT, TOKENS = 6, 64, 90  # rows at once, the longest row, and the ids that prompts are made of
PUT_IN = (87, 88, 89)  # tokens that are put in

PENALTIES = [  # that rows of one batch have
    Sampling(),
    Sampling(repetition_penalty=1.5, dry_multiplier=0.8, logit_bias=((7, 1.5),)),
    Sampling(presence_penalty=0.5, frequency_penalty=0.5, min_new_tokens=4),
]


class EngineContract:
    """The tests; `build` gives a fresh engine of `ROWS` rows and `CONTEXT` tokens, for ids below `embeddings`."""

    count = 14  # requests in a batch: more than there are slots
    budget = 24  # the most tokens that one asks for

    def build(self, *, roomy=True):
        """Return the engine; without `roomy` its rows cannot all grow to the context together."""
        raise NotImplementedError

    def requests(self, seed=1, **options):
        """Return requests of all lengths, their budgets too."""
        rng = random.Random(seed)
        return [
            Request(
                key=key,
                prompt_token_ids=[rng.randrange(3, TOKENS) for _ in range(rng.randrange(1, 20))],
                max_new_tokens=rng.randint(1, self.budget),
                stream=key,
                **options,
            )
            for key in range(self.count)
        ]

    def test_every_attempt_comes_back_once_and_as_it_would_alone(self):
        requests = self.requests()
        together = run(self.build(), requests)
        assert sorted(together) == [request.key for request in requests]
        engine = self.build()
        for request in requests[:4]:
            assert same(run(engine, [request])[request.key], together[request.key])

    def test_rows_that_lack_room_end_as_they_would_with_it(self):
        """Rows with penalties too: a row that is computed again is penalised for all that it held."""
        requests = [replace(item, sampling=PENALTIES[item.key % 3]) for item in self.requests(2)]
        assert all(
            same(one, other)
            for one, other in zip(
                by_key(run(self.build(roomy=False), requests)), by_key(run(self.build(), requests)), strict=True
            )
        )

    def test_prompts_in_pieces_beside_running_rows_end_as_they_would_alone(self):
        """Prompts of more tokens than a step takes beside running rows, some of which begin alike."""
        rng = random.Random(12)
        front = [rng.randrange(3, TOKENS) for _ in range(33)]
        requests = [
            replace(
                request,
                prompt_token_ids=[*front[: 33 * (request.key % 2)], *request.prompt_token_ids, 5 + request.key],
                max_new_tokens=min(8, request.max_new_tokens),
            )
            for request in self.requests(12)
        ]
        together = run(self.build(), requests)
        for request in requests[:3]:
            assert same(run(self.build(), [request])[request.key], together[request.key])
        cramped = run(self.build(roomy=False), requests)
        assert all(same(cramped[key], together[key]) for key in together)

    def test_prompts_that_differ_in_their_last_token_end_as_they_would_alone(self):
        """The front of a page that others have filled is copied, its tokens too, of which penalties are made."""
        rng = random.Random(8)
        front = [rng.randrange(3, TOKENS) for _ in range(30)]
        requests = [
            Request(key, [*front[:length], *last], 6, sampling=PENALTIES[key % 3], stream=key)
            for key, (length, last) in enumerate([(26, [5]), (26, [6]), (30, [7, 8]), (26, [6]), (30, [])])
        ]
        engine = self.build()
        together = run(engine, requests)
        again = run(engine, requests)
        for request in requests:
            expected = run(self.build(), [request])[request.key]
            assert same(expected, together[request.key])
            assert same(expected, again[request.key])

    def test_an_attempt_is_whole_in_itself(self):
        """Its text is that of its tokens, its counts are theirs, and its trace is that of its steps."""
        engine = self.build()
        requests = self.requests(3, trace=True)
        done = run(engine, requests)
        for request in requests:
            finished = done[request.key]
            verdict, trace = finished.verdict, finished.trace
            assert finished.text == engine.vocabulary.text_of(finished.token_ids)
            assert finished.prompt_tokens == len(request.prompt_token_ids)
            assert finished.completion_tokens == len(finished.token_ids) <= request.max_new_tokens
            assert not engine.eos_ids & set(finished.token_ids)
            cut = finished.completion_tokens == request.max_new_tokens
            assert verdict.finish_reason is (FinishReason.LENGTH if cut else FinishReason.EOS)
            assert verdict.eos_source is (None if cut else EosSource.NATURAL)
            assert len(trace.probs) == finished.completion_tokens + (not cut)
            assert trace.prob_max == max(trace.probs) == trace.probs[trace.step_max]
            assert 0 <= trace.prob_max <= 1
            assert trace.rank_max >= 0
        assert len({finished.verdict.finish_reason for finished in done.values()}) == 2, "a weak example"

    def test_a_stop_string_ends_a_row_before_itself(self):
        engine = self.build()
        request = Request(key=0, prompt_token_ids=[5, 6, 7], max_new_tokens=12)
        answer = run(engine, [request])[0].text
        stop = answer[3:5]
        (strategy,) = build_strategies([f'stop:text="{stop}"'])
        stopped = Request(key=0, prompt_token_ids=[5, 6, 7], max_new_tokens=12, strategies=(strategy,))
        finished = run(engine, [stopped])[0]
        assert finished.verdict.finish_reason is FinishReason.STOP_SEQUENCE
        assert finished.verdict.stop_sequence == stop
        assert finished.text == answer[: answer.index(stop)]

    def test_an_answer_goes_on_from_its_own_text(self):
        """The attempt that begins with half of an answer ends as the one that made both halves."""
        engine = self.build()
        whole = Request(key=0, prompt_token_ids=[5, 6, 7], max_new_tokens=12)
        first = run(engine, [whole])[0]
        half = first.token_ids[:5]
        rest = Request(key=0, prompt_token_ids=[5, 6, 7], answer_token_ids=half, max_new_tokens=12 - len(half))
        second = run(engine, [rest])[0]
        assert (second.text, second.token_ids, second.verdict) == (first.text, first.token_ids, first.verdict)
        assert second.completion_tokens == len(first.token_ids) - len(half)
        assert second.prompt_tokens == 3

    def test_the_seed_makes_it_repeatable(self):
        requests = self.requests(4, sampling=Sampling(temperature=1.0, seed=3))
        first, second = run(self.build(), requests), run(self.build(), requests)
        assert all(same(first[key], second[key]) for key in first)

    def test_what_does_not_fit_is_refused_and_leaves_no_trace(self):
        engine = self.build()
        with pytest.raises(PromptTooLong, match=f"context holds {CONTEXT}"):
            engine.add(Request(key=1, prompt_token_ids=[5] * CONTEXT, max_new_tokens=5))
        with pytest.raises(TokenUnknown):
            engine.add(Request(key=1, prompt_token_ids=[5, 10**6], max_new_tokens=5))
        with pytest.raises(TokenUnknown):
            engine.add(Request(key=1, prompt_token_ids=[5], answer_token_ids=[10**6], max_new_tokens=5))
        with pytest.raises(TokenUnknown, match="`bad_words` holds the token"):
            engine.add(Request(key=1, prompt_token_ids=[5], max_new_tokens=5, bad_words=[[5, 10**6]]))
        biased = Sampling(logit_bias=((10**6, 1.0),))
        with pytest.raises(TokenUnknown, match="`logit_bias` holds the token"):
            engine.add(Request(key=1, prompt_token_ids=[5], max_new_tokens=5, sampling=biased))
        assert not engine.has_work
        assert engine.step() == []
        done = run(engine, [Request(key=1, prompt_token_ids=[5] * (CONTEXT - 1), max_new_tokens=5)])
        assert done[1].completion_tokens <= 1, "the budget ends where the context does"

    def test_cancelled_rows_never_come_back_and_free_their_room(self):
        engine = self.build()
        requests = self.requests(5)
        for request in requests:
            engine.add(request)
        done = {finished.key: finished for _ in range(2) for finished in engine.step()}
        dropped = {key for key in range(0, self.count, 2) if key not in done}
        engine.cancel({*dropped, 10**6})
        done |= run(engine, [])
        assert sorted(done) == [key for key in range(self.count) if key not in dropped]
        expected = run(self.build(), requests)
        assert all(same(done[key], expected[key]) for key in done)
        engine.cancel(range(self.count))
        assert (engine.running, engine.waiting, engine.pages[0]) == (0, 0, 0)

    @pytest.mark.parametrize("roomy", [True, False])
    def test_tokens_are_put_in_where_they_were_asked_for(self, roomy):
        """Among rows without any; what follows is what follows that text."""
        plain = run(self.build(), self.requests(7))
        requests = self.requests(7)
        for key in range(0, self.count, 2):
            requests[key] = replace(requests[key], insertion=Insertion(PUT_IN, at=key % 3))
        done = run(self.build(roomy=roomy), requests)
        for key, request in enumerate(requests):
            at, before, got = key % 3, plain[key].token_ids, done[key].token_ids
            if request.insertion is None or len(before) < at:
                assert same(done[key], plain[key])
                continue
            assert got == (*before[:at], *PUT_IN[: request.max_new_tokens - at], *got[at + len(PUT_IN) :])
            left = request.max_new_tokens - at - len(PUT_IN)
            if left > 0:
                begun = replace(
                    request, insertion=None, answer_token_ids=got[: at + len(PUT_IN)], max_new_tokens=left
                )
                assert run(self.build(), [begun])[key].token_ids == got

    def test_an_insertion_begins_when_it_is_called_for(self):
        engine = self.build()
        requests = [replace(request, max_new_tokens=9) for request in self.requests(8)[:4]]
        plain = run(engine, requests)
        for request in requests:
            engine.add(replace(request, insertion=Insertion(PUT_IN)))
        early = [finished for _ in range(3) for finished in engine.step()]
        engine.insert({*range(3), 10**6})
        done = {finished.key: finished for finished in early} | run(engine, [])
        assert same(done[3], plain[3]), "nobody has called for it"
        for key in {0, 1, 2} - {finished.key for finished in early}:
            if done[key].token_ids == plain[key].token_ids and done[key].verdict.ended_with_eos:
                continue  # it ended with the step that was under way
            got = done[key].token_ids
            (at,) = [
                index for index in range(1, 5) if got[index] == PUT_IN[0]
            ]  # in stages a token takes two steps
            assert got[: at + 3] == (*plain[key].token_ids[:at], *PUT_IN)

    def test_a_phase_ends_where_its_ids_come_and_the_row_goes_on(self):
        plain = run(self.build(), self.requests(9))
        requests, ends = self.requests(9), {}
        for key, request in enumerate(requests):
            answer = plain[key].token_ids
            if key % 3 and len(answer) > 2:
                ends[key] = answer.index(answer[2]) + 1
                later = Insertion(PUT_IN, at=ends[key])
                requests[key] = replace(request, phase=Phase((answer[2],)), insertion=later)
        for roomy in (True, False):
            done = run(self.build(roomy=roomy), requests)
            assert all(same(done[key], plain[key]) for key in done), "an insertion ends with its phase"
            found = {key: finished.phase_end for key, finished in done.items() if finished.phase_end}
            assert found == {key: PhaseEnd(tokens, EosSource.NATURAL) for key, tokens in ends.items()}
            assert ends

    @pytest.mark.parametrize("roomy", [True, False])
    def test_eos_in_a_phase_gives_way_to_the_insertion(self, roomy):
        plain = run(self.build(), [replace(request, max_new_tokens=self.budget) for request in self.requests(3)])
        ended = [key for key, finished in plain.items() if finished.verdict.ended_with_eos]
        phase = Phase((PUT_IN[-1],), eos_inserts=True)
        requests = [
            replace(request, max_new_tokens=self.budget + 4, phase=phase, insertion=Insertion(PUT_IN))
            for request in self.requests(3)
        ]
        done = run(self.build(roomy=roomy), requests)
        assert ended, "a weak example"
        for key in ended:
            before = plain[key].token_ids
            if PUT_IN[-1] not in before:
                assert done[key].token_ids[: len(before) + len(PUT_IN)] == (*before, *PUT_IN)
                assert done[key].phase_end == PhaseEnd(len(before) + len(PUT_IN), EosSource.FORCED)

    @pytest.mark.parametrize("roomy", [True, False])
    def test_a_phase_may_be_opened_by_the_first_token_alone(self, roomy):
        """An answer that begins otherwise is in none, whatever it holds; the insertion goes with the phase."""
        plain = run(self.build(), self.requests(9))
        requests, found = self.requests(9), {}
        for key, request in enumerate(requests):
            answer = plain[key].token_ids
            if len(answer) > 3 and answer[2] not in answer[:2]:
                opening = answer[0] if key % 2 else PUT_IN[0]
                phase = Phase((answer[2],), opens_with=opening, restarts=bool(key % 3))
                requests[key] = replace(request, phase=phase, insertion=Insertion(PUT_IN, at=3))
                if opening == answer[0]:
                    found[key] = PhaseEnd(3, EosSource.NATURAL)
        done = run(self.build(roomy=roomy), requests)
        assert all(same(done[key], plain[key]) for key in done)
        assert {key: item.phase_end for key, item in done.items() if item.phase_end} == found
        assert found

    def test_an_answer_that_has_left_its_phase_is_in_none(self):
        """It goes on without it, and what would have ended the phase is not put in."""
        request = Request(key=0, prompt_token_ids=[5, 6, 7], max_new_tokens=6, answer_token_ids=PUT_IN)
        steered = replace(request, phase=Phase((PUT_IN[1],), eos_inserts=True), insertion=Insertion(PUT_IN, at=1))
        first, second = (run(self.build(), [item])[0] for item in (request, steered))
        assert same(first, second)
        assert second.phase_end is None

    @pytest.mark.parametrize("roomy", [True, False])
    def test_only_tokens_that_the_mask_allows_come_and_other_rows_are_as_before(self, roomy):
        plain = run(self.build(), self.requests(7))
        requests = self.requests(7)
        for key in range(0, self.count, 2):
            requests[key] = replace(requests[key], mask=Alternating)
        done = run(self.build(roomy=roomy), requests)
        assert all(same(done[key], plain[key]) for key in range(1, self.count, 2))
        for key in range(0, self.count, 2):
            got = done[key].token_ids
            assert len(got) == requests[key].max_new_tokens, "no end token is allowed"
            assert all(token % 2 == index % 2 and 60 <= token < 80 for index, token in enumerate(got))
        engine = self.build()
        blocked = replace(requests[0], key=99, max_new_tokens=9, mask=lambda *begun: Alternating(*begun, until=2))
        failed = run(engine, [blocked, requests[1]])
        assert failed[99].verdict.finish_reason is FinishReason.ERROR
        assert "lets no token follow" in failed[99].verdict.error
        assert (len(failed[99].token_ids), engine.pages[0]) == (2, 0)
        assert same(failed[1], plain[1])

    @pytest.mark.parametrize("roomy", [True, False])
    def test_a_mask_begins_where_a_phase_ends(self, roomy):
        plain = run(self.build(), self.requests(7))
        requests, ends = self.requests(7), {}
        for key, request in enumerate(requests):
            answer = plain[key].token_ids
            if len(answer) > 2:
                ends[key] = answer.index(answer[2]) + 1
                requests[key] = replace(request, phase=Phase((answer[2],)), mask=Alternating)
        done = run(self.build(roomy=roomy), requests)
        assert ends
        for key, end in ends.items():
            got = done[key].token_ids
            assert got[:end] == plain[key].token_ids[:end]
            assert all(token % 2 == at % 2 and 60 <= token < 80 for at, token in enumerate(got[end:]))
            assert len(got) == requests[key].max_new_tokens, "no end token is allowed"

    def test_log_probabilities_are_told_of_each_token(self):
        """Of greedy rows the best is the token itself; rows beside them, and what comes, are as without."""
        plain = [replace(item, sampling=Sampling()) for item in self.requests()]
        told = [replace(item, logprobs=item.key % 4) if item.key % 2 else item for item in plain]
        alone, done = run(self.build(), plain), run(self.build(roomy=False), told)
        for item in told:
            found = done[item.key]
            assert same(found, alone[item.key])
            if item.logprobs is None:
                assert found.logprobs is None
                continue
            assert [int(scores.ids[0]) for scores in found.logprobs.tokens] == list(found.token_ids)
            for scores in found.logprobs.tokens:
                assert len(scores.ids) == len(scores.log_probs) == 1 + item.logprobs
                assert all(scores.log_probs <= 0)
                assert list(scores.log_probs[1:]) == sorted(scores.log_probs[1:], reverse=True)
                assert scores.log_probs[0] == pytest.approx(max(scores.log_probs), abs=1e-5)

    def test_what_is_asked_along_a_prompt_is_as_behind_shorter_ones(self):
        """Also where the prompt's pages are known already, and where it is computed in pieces."""
        engine = self.build(roomy=False)
        if not engine.asks_before:
            pytest.skip("it tells what is asked behind whole prompts alone")
        rng = random.Random(5)
        prompts = [[rng.randrange(3, TOKENS) for _ in range(length)] for length in (4, 9, 21, 40, 61)]
        prompts += [[*prompts[-1][:50], 7, 8, 9], prompts[-1]]
        asked = [[5], [7, 6, 8], [9], [5, 6]]
        along = [
            Request(key, prompt, 1, asked=asked[-1], asked_before=asked[:-1]) for key, prompt in enumerate(prompts)
        ]
        behind = [
            Request(4 * key + at, prompt[: len(prompt) - 3 + at], 1, asked=asked[at])
            for key, prompt in enumerate(prompts)
            for at in range(4)
        ]
        expected = run(self.build(), behind)
        for requests in (along, along[::-1]):
            for key, found in run(engine, requests).items():
                told = [*found.asked_before, found.asked]
                assert len(told) == 4
                for at, numbers in enumerate(told):
                    assert numbers == pytest.approx(expected[4 * key + at].asked, abs=1e-3)

    def test_its_numbers_tell_how_far_it_is(self):
        engine = self.build()
        capacity = engine.capacity
        assert (capacity.rows, capacity.context) == (ROWS, CONTEXT)
        assert (engine.running, engine.waiting, engine.row_steps, engine.has_work) == (0, 0, 0, False)
        requests = self.requests(6)
        for request in requests:
            engine.add(request)
        assert engine.running + engine.waiting == self.count
        assert engine.has_work
        ended, most = 0, 0
        while engine.has_work:
            before = engine.row_steps
            ended += len(engine.step())
            assert engine.row_steps - before <= ROWS
            assert engine.running + engine.waiting == self.count - ended
            assert 0 <= engine.pages[0] <= engine.pages[1]
            most = max(most, engine.running)
        assert most == ROWS
        assert ended == self.count
        assert engine.row_steps >= sum(
            finished.completion_tokens for finished in run(self.build(), requests).values()
        )
        assert engine.capacity == capacity


class Alternating:
    """A mask of even and odd tokens in turn, from 60 to 79; of none after `until` tokens."""

    surplus, closes, steady = 0, False, False

    def __init__(self, token_ids, budget, until=1000):
        self._count, self._until = len(token_ids), until

    def see(self, token_id):
        self._count += 1

    def start(self):
        pass

    @property
    def refusal(self):
        return "" if self._count < self._until else "the mask lets no token follow"

    def words(self):
        bits = np.zeros(128, np.uint8)
        if not self.refusal:
            bits[60 + self._count % 2 : 80 : 2] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


def run(engine, requests):
    """Add requests, and step until nothing is left; return the attempts by key, each of which came once."""
    for request in requests:
        engine.add(request)
    done = {}
    for _ in range(10_000):
        if not engine.has_work:
            return done
        for finished in engine.step():
            assert finished.key not in done
            done[finished.key] = finished
    raise AssertionError("the engine does not come to an end")


def by_key(done):
    """Return the attempts in the order of their keys."""
    return [done[key] for key in sorted(done)]


def same(one, other):
    """Return whether two attempts are equal; probabilities may differ in their last digits."""
    numbers = [
        (finished.key, finished.token_ids, finished.text, finished.verdict, finished.completion_tokens)
        for finished in (one, other)
    ]
    near = one.trace.prob_max == pytest.approx(other.trace.prob_max, rel=1e-3, abs=1e-6)
    return numbers[0] == numbers[1] and near


def check_told_probabilities(engine, tokens):
    """Ask for the probabilities of all tokens, and of the end tokens, beside rows that ask for none."""
    asked = [range(tokens), sorted(engine.eos_ids), (), [5, 7], ()]
    requests = [
        Request(key, [9, *range(3, 20 + key)], max_new_tokens=1 if ids else 4, asked=tuple(ids))
        for key, ids in enumerate(asked)
    ]
    done = run(engine, requests)
    sums = {key: sum(map(math.exp, item.asked)) for key, item in done.items() if item.asked}
    assert sums[0] == pytest.approx(1, abs=1e-4)
    assert sums[1] == pytest.approx(done[1].trace.prob_max, abs=1e-4)
    assert sums.keys() == {0, 1, 3}
    assert len(done[3].asked) == 2
