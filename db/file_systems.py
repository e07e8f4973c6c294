"""Telling whether a folder lies on a network file system, where SQLite's locks do not hold."""

import os
import re
from pathlib import Path

_NETWORK = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
}
_NETWORK |= {"pvfs2", "smb3", "smbfs", "vboxsf"}
_NETWORK_FUSE = {"ceph", "gcsfuse", "glusterfs", "juicefs", "rclone", "s3fs", "smbnetfs", "sshfs"}
_MOUNTS = Path("/proc/self/mounts")


def network_file_system(folder: Path, mounts: str | None = None) -> str | None:
    """Return the type of the network file system that holds the folder; None where none is told.

    Args:
        folder: an existing folder.
        mounts: the mount table in the form of `/proc/self/mounts`; by default this machine's.
    """
    if mounts is None:
        if not _MOUNTS.exists():
            return None
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    kind = _type_of_mount(os.path.realpath(folder), mounts)
    if kind in _NETWORK or (kind.startswith("fuse.") and kind.removeprefix("fuse.") in _NETWORK_FUSE):
        return kind
    return None


def _type_of_mount(folder: str, mounts: str) -> str:
    """Return the type of the innermost mount above the folder, the later of two on one point."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
        above = folder == point or folder.startswith(point.rstrip("/") + "/")
        if above and len(point) >= len(best):
            best, kind = point, name
    return kind
