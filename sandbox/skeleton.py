"""An image for containers where there is no registry: next to nothing, to which the host's ``/usr`` is mounted."""

from __future__ import annotations

import io
import tarfile

NAME = "milepost/skeleton:1"
FOLDERS = (
    ".",
    "base",
    "dev",
    "etc",
    "etc/alternatives",
    "opt",
    "opt/milepost",
    "proc",
    "run",
    "sys",
    "usr",
    "workspace",
)


def files() -> bytes:
    """Return an image's files: empty folders, two users, and links into the ``/usr`` that is mounted."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(data), link
            tar.addfile(info, io.BytesIO(data))

        for name in FOLDERS:
            add(name, tarfile.DIRTYPE, 0o755)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        for name in ("bin", "lib", "lib64", "sbin"):
            add(name, tarfile.SYMTYPE, 0o777, link=f"usr/{name}")
        users = "root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000:agent:/workspace:/bin/bash\n"
        add("etc/passwd", tarfile.REGTYPE, 0o644, users.encode())
        add("etc/group", tarfile.REGTYPE, 0o644, b"root:x:0:\nagent:x:1000:\n")
        add("etc/ld.so.cache", tarfile.REGTYPE, 0o644)
    return out.getvalue()
