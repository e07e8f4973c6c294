"""Which faults the schedules have: `python -m tests.cluster.schedules` prints how often each kind comes."""

import random
from collections import Counter
from types import SimpleNamespace

from tests.cluster.faults import faults_of

SEEDS = range(40)
FAULTS = 5  # of a schedule: so each kind comes at least ten times
SENTINEL_SEEDS = range(8)
SENTINEL_FAULTS = ("broker fails over", "broker's host cut off", "cut", "killed")


def turns(names, seed, count):
    """The names of a schedule's faults: over all seeds each comes as often, and in ever other company."""
    return [_turn(names, number) for number in range(seed * count, (seed + 1) * count)]


def _turn(names, number):
    rounds, index = divmod(number, len(names))
    return random.Random(rounds).sample(names, len(names))[index]


def counts(database):
    """How often each kind of fault comes in all schedules of a database."""
    postgres = object() if database == "postgres" else None
    names = list(faults_of(SimpleNamespace(postgres=postgres, has_clocks=True, has_sentinels=False)))
    found = Counter(name for seed in SEEDS for name in turns(names, seed, FAULTS))
    found.update(name for seed in SENTINEL_SEEDS for name in turns(list(SENTINEL_FAULTS), seed, FAULTS))
    return found


def main():
    """Print the table."""
    found = {database: counts(database) for database in ("postgres", "sqlite")}
    print(f"{'fault':<26} {'postgres':>9} {'sqlite':>9}")
    for name in sorted({name for one in found.values() for name in one}):
        print(f"{name:<26} {found['postgres'][name] or '-':>9} {found['sqlite'][name] or '-':>9}")


if __name__ == "__main__":
    main()
