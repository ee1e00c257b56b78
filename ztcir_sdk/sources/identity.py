"""A number for a path that is the same on every machine."""

from __future__ import annotations

import hashlib

__all__ = ["path_id"]


def path_id(path: str) -> int:
    """Return 63 bits of a path's BLAKE2b: two of a hundred million paths share one by 0.05 %."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
