"""Character devices for tests of what is written into them."""

import os
import stat
from pathlib import Path


def device(folder, name):
    """Return the path of a device like `/dev/NAME`: for root one of its own, which a bug of ours may replace.

    With the machine's own, a version of Endmark that replaces devices by files leaves root a machine without them.
    """
    real = Path("/dev") / name
    if os.geteuid():
        return real
    own = folder / name
    if not own.exists():
        os.mknod(own, stat.S_IFCHR | 0o666, real.stat().st_rdev)
    return own
