"""Where rows stand in vLLM's batch, followed through rows that come, leave and are moved."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies.base import ScoreNumbers
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.following import Following, extra_args

pytestmark = pytest.mark.engine

SLOTS, SWAP, ONE_WAY = 8, "swap", "one way"
NONE = np.zeros(SLOTS, np.int32)  # tokens that are computed of each row


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_of_a_batch_are_those_of_its_rows_whatever_came_before(seed):
    """They are kept and changed: made anew for all rows whenever one came or left, they took time of each step."""
    pick = random.Random(seed)
    block = Block.make(SLOTS, 16)
    block.unlink()
    following, batch, free, epoch = Following(block, SWAP), [], list(range(SLOTS)), 0
    for _ in range(60):
        gone = [index for index in range(len(batch)) if pick.random() < 0.2]
        free += [batch[index][0].slot for index in gone]
        places = {index: item for index, item in enumerate(batch) if index not in gone}
        added, moved = [], []
        while free and pick.random() < 0.5:
            epoch += 1
            prompt = [5] * pick.randint(1, 9)
            row = PrefillRow(
                free.pop(), prompt, 0, (), pick.randint(0, 4), pick.randint(0, 9), Sampling(), ScoreNumbers(), 0
            )
            place = next(index for index in range(SLOTS) if index not in places)
            places[place] = (row, epoch, prompt, [])
            added.append((place, SimpleNamespace(extra_args=extra_args(row, epoch)), prompt, places[place][3]))
        while places and max(places) >= len(places):  # as vLLM closes gaps
            source, target = max(places), next(index for index in range(SLOTS) if index not in places)
            places[target] = places.pop(source)
            moved.append((source, target, ONE_WAY))
        if len(places) > 1:
            one, other = pick.sample(range(len(places)), 2)
            places[one], places[other] = places[other], places[one]
            moved.append((one, other, SWAP))
        batch = [places[index] for index in range(len(places))]
        assert following.update(SimpleNamespace(removed=gone[::-1], added=added, moved=moved), NONE)[1] == 0
        for _, _, _, answer in batch:
            answer.append(7)
        if not batch:
            continue
        partial = np.array([pick.random() < 0.2 for _ in batch])
        found = following.batch(partial)
        for index, (row, its_epoch, prompt, answer) in enumerate(batch):
            assert found.slots[index] == (SLOTS if partial[index] else row.slot)
            assert found.epochs[index] == its_epoch
            assert found.lengths[index] == len(prompt) - 1 + len(answer)
            assert found.steps[index] == row.step + len(answer)
            assert found.positions[index] == row.position + len(answer)


def test_a_row_that_only_misses_a_step_is_not_counted_as_computed_again():
    """In a model of stages all rows miss every other step, and each was counted as sent back for want of pages."""
    block = Block.make(SLOTS, 16)
    block.unlink()
    following = Following(block, SWAP)
    answers = [[], []]
    added = []
    for slot, answer in enumerate(answers):
        row = PrefillRow(slot, [5] * 4, 0, (), 0, 0, Sampling(), ScoreNumbers(), 0)
        added.append((slot, SimpleNamespace(extra_args=extra_args(row, 1)), [5] * 4, answer))
    assert len(following.update(SimpleNamespace(removed=[], added=added, moved=[]), NONE)[0]) == 2
    for answer in answers:
        answer += [7, 7, 7]
    swapped = [(0, 1, SWAP)]
    again = SimpleNamespace(removed=[1, 0], added=added, moved=swapped)
    computed = NONE.copy()
    computed[:2] = 6  # all but the last token of both
    assert following.update(again, computed) == ([], 0)
    computed[1] = 4  # of the row that came at the first place, and was moved
    assert following.update(again, computed) == ([], 1)
