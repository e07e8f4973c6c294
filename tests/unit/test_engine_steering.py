"""One row's phase and insertion, token by token: where the phase ends, what is put in, and what is dropped."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from endmark.worker.engine.flags import FORCED, HIDDEN, INSERTED, NATURAL
from endmark.worker.engine.followed import FollowedSteering
from endmark.worker.engine.request import Request
from endmark.worker.engine.steering import NEVER, Call, Insertion, Phase, RowSteering

pytestmark = pytest.mark.unit

EOS = {0}


@pytest.mark.parametrize(("restarts", "from_step"), [(True, 6), (False, None)])
def test_numbers_count_anew_behind_a_phase_only_if_it_says_so(restarts, from_step):
    """Else the strategies' numbers would begin again behind every thought that has no budget of its own."""
    row = RowSteering(Phase((8, 9), restarts=restarts), is_open=True, insertion=None)
    assert row.steer(4, 5, NATURAL, EOS) == (5, NATURAL)
    assert (row.is_open, row.restarted, row.targets) == (True, None, (8, 9))
    assert row.steer(5, 9, NATURAL, EOS) == (9, NATURAL)
    assert (row.is_open, row.restarted, row.targets) == (False, from_step, ())


def test_an_insertion_that_has_not_begun_is_dropped_with_the_phase_and_one_that_goes_on_is_not():
    waiting = RowSteering(Phase((9,)), is_open=True, insertion=Insertion((7, 9), at=20))
    waiting.steer(3, 9, NATURAL, EOS)
    assert waiting.insertion is None
    going = RowSteering(Phase((9,)), is_open=True, insertion=Insertion((9, 7), at=3))
    assert [going.steer(step, 5, 0, EOS)[0] for step in (2, 3, 4, 5)] == [5, 9, 7, 5]
    assert not going.is_open


@pytest.mark.parametrize(
    ("call", "is_open", "begins"), [(1, True, True), (1, False, False), (2, False, True), (0, True, False)]
)
def test_an_insertion_begins_when_it_is_called_for(call, is_open, begins):
    row = RowSteering(Phase((9,)), is_open=is_open, insertion=Insertion((7,)))
    row.call(Call(call), 11)
    assert row.steer(11, 5, 0, EOS)[0] == (7 if begins else 5)


def test_one_that_goes_on_does_not_begin_again():
    row = RowSteering(None, is_open=False, insertion=Insertion((6, 7), at=2))
    row.call(Call.NOW, 3)
    assert [row.steer(step, 5, 0, EOS)[0] for step in (2, 3, 4)] == [6, 7, 5]


def test_an_eos_in_the_phase_begins_the_insertion_where_it_is_to():
    for inserts, token in ((True, 7), (False, 0)):
        row = RowSteering(Phase((9,), eos_inserts=inserts), is_open=True, insertion=Insertion((7, 9)))
        assert row.steer(4, 0, NATURAL | HIDDEN, EOS)[0] == token
    behind = RowSteering(Phase((9,), eos_inserts=True), is_open=False, insertion=Insertion((7, 9)))
    assert behind.steer(4, 0, NATURAL, EOS) == (0, NATURAL)


@pytest.mark.parametrize(("drawn", "flags"), [(9, NATURAL), (8, NATURAL), (5, 0)])
def test_what_is_put_in_is_natural_only_where_one_of_its_kind_was_drawn(drawn, flags):
    """The model would have closed its thought there by itself, with another of its marks perhaps."""
    row = RowSteering(Phase((8, 9)), is_open=True, insertion=Insertion((9,), at=4))
    assert row.steer(4, drawn, NATURAL | HIDDEN, EOS) == (9, INSERTED | FORCED | HIDDEN | flags)


@pytest.mark.parametrize(("first", "is_open"), [(3, True), (5, False)])
def test_the_first_token_says_whether_an_undecided_phase_is_open(first, is_open):
    row = RowSteering(
        Phase((9,), opens_with=3), is_open=False, is_undecided=True, insertion=Insertion((9,), at=20)
    )
    row.steer(0, first, NATURAL, EOS)
    assert (row.is_open, row.is_undecided, row.insertion is not None) == (is_open, False, is_open)


def test_an_attempt_whose_thought_has_no_budget_of_its_own_is_not_shortened():
    """One that a strategy closes where it is in a loop has what is put in, and one budget for all."""
    request = Request(1, [3], 40, insertion=Insertion((5,)))
    assert request.within(10) is request
    assert replace(request, answer_budget=20).within(40).insertion.at == request.insertion.at


@pytest.mark.parametrize("seed", range(60))
def test_the_host_follows_what_the_device_does_by_itself(seed):
    """Token by token: whether the phase is open, what goes on or may come, and how far its end has come."""
    rng = random.Random(seed)
    mark = rng.choice([(), (7, 8), (7, 8, 7, 9)])
    phase = Phase(
        mark[:1] or (7, 9),
        eos_inserts=rng.random() < 0.5,
        opens_with=rng.choice([None, None, 5]),
        restarts=rng.random() < 0.5,
        mark=mark,
    )
    phase = phase if rng.random() < 0.9 else None
    insertion = Insertion((4, 3, *(mark or (7,))), at=rng.choice([NEVER, 0, 2, 5]))
    insertion = insertion if rng.random() < 0.8 else None
    request = Request(0, [1], 30, phase=phase, insertion=insertion)
    host = FollowedSteering(request, [])
    device = RowSteering(
        phase,
        is_open=host.phase_open,
        insertion=host.insertion,
        is_undecided=host.phase_undecided,
        matched=host.matched,
    )
    tokens, ends = [], []
    for step in range(12):
        if rng.random() < 0.1 and host.call(step):
            device.call(Call.IN_PHASE if host.phase_open else Call.NOW, step)
        drawn, natural = rng.choice([5, 7, 7, 8, 9, 2, 20, 0]), rng.choice([0, NATURAL])
        was_open = device.is_open
        token, flags = device.steer(step, drawn, natural, EOS)
        if token in EOS:
            return
        tokens.append(token)
        ended = host.take(token, len(tokens), step, flags)
        assert ended == (was_open and not device.is_open)
        assert (host.phase_open, host.phase_undecided) == (device.is_open, device.is_undecided)
        if device.is_open:
            assert host.matched == device.matched == phase.matched(tokens)
        if ended:
            ends.append(len(tokens))
            assert host.phase_end.tokens == len(tokens)
            assert host.origin == (step + 1 if phase.restarts else 0)
            assert device.restarted == (step + 1 if phase.restarts else None)
            assert tokens[-phase.length :] == [*(mark or tokens[-1:])]
        one, other = host.insertion, device.insertion
        gone = one is None or one.at + len(one.token_ids) <= step + 1
        assert one == other or (gone and (other is None or other.at + len(other.token_ids) <= step + 1))
    assert len(ends) <= 1


@pytest.mark.parametrize(("tokens", "opens"), [([2, 6], True), ([2, 7], False)])
def test_a_phase_opens_late_only_where_its_end_has_not_come(tokens, opens):
    """Its mark was of other tokens than the one that opens it; behind its end there is nothing to open."""
    host = FollowedSteering(Request(0, [1], 30, phase=Phase((7,), opens_with=5), insertion=Insertion((7,))), [2])
    assert host.see(SimpleNamespace(is_open=True, is_first=True), tokens, 2) is opens
    assert host.phase_open is opens
    assert (host.insertion is not None) is opens
