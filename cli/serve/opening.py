"""Opening a shelf: what a service before this one has left is put in order first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from endmark.cli.http.access import Access
from endmark.cli.serve.outcome import settle_marks
from endmark.cli.serve.shelf import Shelf
from endmark.cli.serve.takeover import take_over
from endmark.cli.terminal import note
from endmark.db.connection import Store
from endmark.db.served import NOBODY, Records


@contextmanager
def open_shelf(store: Store, folder: Path, access: Access) -> Iterator[tuple[Shelf, Records]]:
    """Open the folder of a service and its records.

    What was stored without a token goes to the owner of the tokens, where there is one alone; what belongs to a
    token that has got a name since, to that name.

    Raises:
        UsageError: another service uses it.
        StoreError: the database cannot be used.
    """
    shelf = Shelf(folder)
    try:
        records = Records(store, shelf.id)
        shelf.sweep()
        take_over(records, shelf)
        settle_marks(records, shelf, shelf.marked())
        for owner, name in access.renamed.items():
            records.hand_over(owner, name)
        if access.only_owner is not None:
            given = records.hand_over(NOBODY, access.only_owner)
            if given:
                note(f"{given:,} files and batches of before belong to `{access.only_owner}` now")
        yield shelf, records
    finally:
        shelf.close()
