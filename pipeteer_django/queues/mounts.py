"""Which filesystem a file is on, as far as the operating system tells: SQLite's locks need a local one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    [
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs"),
        *("nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "fuse.ceph", "fuse.davfs", "fuse.gcsfuse"),
        *("fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    ]
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def network_filesystem(path: str) -> str | None:
    """The type of the network filesystem that `path` is on; None if it is on a local one, or nobody knows."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None  # not Linux
    kind = kind_at(os.path.realpath(path), mounts)
    return kind if kind in _NETWORK else None


def kind_at(path: str, mounts: Iterable[str]) -> str | None:
    """The filesystem's type at an absolute path, by the lines of /proc/self/mountinfo: the longest mount point wins."""
    found: tuple[int, str | None] = (-1, None)
    for line in mounts:
        mount, _, source = line.partition(" - ")
        if len(fields := mount.split()) < 5 or not source:
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]).rstrip("/")
        # Of two on the same point the later one is on top.
        if (path == point or path.startswith(f"{point}/")) and len(point) >= found[0]:
            found = len(point), source.split()[0]
    return found[1]
