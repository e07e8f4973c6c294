"""What the records of the Batch API have in common: whose they are, and which folder holds their files."""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.transactions import write

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")
NOBODY = ""  # owns what was stored without a token


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    owner: str  # of what the caller stores
    operator: bool = False  # sees what others own, too


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one shelf."""

    store: Store
    shelf: str  # its id

    def visible(self, caller: Caller | None) -> tuple[str, dict[str, object]]:
        """Return the condition for what a caller may see, with its values.

        Args:
            caller: None for the service itself.
        """
        if caller is None or caller.operator:
            return "shelf = :shelf", {"shelf": self.shelf}
        return "shelf = :shelf AND owner = :caller", {"shelf": self.shelf, "caller": caller.owner}

    def hand_over(self, owner: str, new: str) -> int:
        """Give all that one owns to another; return how many files and batches.

        Raises:
            StoreError: the database cannot be used.
        """

        def work(connection: Connection) -> int:
            values = {"shelf": self.shelf, "owner": owner, "new": new}
            return sum(
                connection.execute(
                    text(f"UPDATE {table} SET owner = :new WHERE shelf = :shelf AND owner = :owner"), values
                ).rowcount
                for table in ("files", "batches")
            )

        return write(self.store, work)
