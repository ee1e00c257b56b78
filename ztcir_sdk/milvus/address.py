"""Addresses of collections in Milvus: ``milvus://host:19530/photos``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ztcir_sdk.errors import UsageError
from ztcir_sdk.names import is_milvus_address

__all__ = ["TOKEN_VARIABLE", "Address"]

TOKEN_VARIABLE = "ZTCIR_MILVUS_TOKEN"
"""Environment variable of the user's "name:password" or token, which no address should show."""
PORT = 19530
INDEX_TYPES = ("HNSW", "AUTOINDEX", "DISKANN", "FLAT", "IVF_FLAT", "IVF_SQ8")
"""Kinds of index that Milvus builds of the vectors."""
_OPTIONS = ("root", "secure", "type")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
EXAMPLE = "milvus://localhost:19530/photos"


@dataclass(frozen=True)
class Address:
    """Where a collection is.

    ``milvus://HOST[:PORT]/[DATABASE/]COLLECTION[?OPTIONS]``, or for Milvus Lite, which keeps a
    collection in a file of its own, ``milvus:///FILE.db/COLLECTION``. Options, joined by ``&``:
    ``root=/photos``, where the images are on this machine; ``secure=true`` for TLS;
    ``type=DISKANN``, the kind of index where the collection is created.
    """

    text: str
    """As it was given."""
    uri: str
    """What pymilvus connects to."""
    database: str
    """Empty for the default one."""
    collection: str
    root: str | None = None
    """Folder of the images on this machine, in place of the recorded one."""
    index_type: str = INDEX_TYPES[0]

    def __str__(self) -> str:
        return self.text

    @property
    def token(self) -> str:
        """The user's token, from the environment."""
        return os.environ.get(TOKEN_VARIABLE, "")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Raises:
            UsageError: it is none, or has a password.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise _wrong(text, "its host or port is not valid") from None
        if not is_milvus_address(text):
            raise _wrong(text, "it does not start with milvus://")
        if parts.username or parts.password:
            raise UsageError(
                "An address of Milvus may not have a password, which logs would show: set "
                f"${TOKEN_VARIABLE} to name:password."
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(options.keys() - set(_OPTIONS)):
            raise _wrong(text, f"{unknown[0]} is not one of its options {', '.join(_OPTIONS)}")
        kind = options.get("type", INDEX_TYPES[0]).upper()
        if kind not in INDEX_TYPES:
            raise _wrong(text, f"type must be one of {', '.join(INDEX_TYPES)}")
        secure = options.get("secure", "false").lower()
        if secure not in ("true", "false"):
            raise _wrong(text, "secure must be true or false")
        folder, _, collection = unquote(parts.path).rpartition("/")
        if not _NAME.fullmatch(collection):
            raise _wrong(text, "a collection is named by letters, digits and _")
        if parts.hostname is None:
            if not folder.endswith(".db"):
                raise _wrong(text, "it has no host, and no FILE.db of Milvus Lite")
            uri, database = str(Path(folder)), ""
        else:
            database = folder.strip("/")
            if database and not _NAME.fullmatch(database):
                raise _wrong(text, "a database is named by letters, digits and _")
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            scheme = "https" if secure == "true" else "http"
            uri = f"{scheme}://{host}:{PORT if port is None else port}"
        return cls(text, uri, database, collection, options.get("root") or None, kind)


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r} is not an address of Milvus ({why}): write one such as {EXAMPLE}.")
