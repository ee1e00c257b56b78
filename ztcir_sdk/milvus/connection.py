"""A connection to Milvus: the collection's schema and state, and errors as sentences."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ztcir_sdk.environment import now
from ztcir_sdk.errors import MissingDependencyError, ZtcirError, first_line, install_hint
from ztcir_sdk.filters.milvus import FIELDS
from ztcir_sdk.index import IndexUnusableError, Item
from ztcir_sdk.index.manifest import MetadataRecord
from ztcir_sdk.milvus.address import Address
from ztcir_sdk.schema import EntryError, PositiveNumber, from_json, to_json
from ztcir_sdk.sources import CollectionRules
from ztcir_sdk.version import __version__

__all__ = ["MAX_BYTES", "Connection", "State", "item_of"]

SECONDS = 10.0
"""Time for a connection."""
FORMAT_VERSION = 1
PROPERTY = "ztcir.index"
"""Property of a collection that holds its `State`, as JSON."""
MAX_BYTES = {"path": 8192, "metadata": 65_536, FIELDS: 65_536}
"""Column -> bytes that Milvus holds in it; JSON has a fixed limit."""
HNSW_M = 16
"""Links a node in Milvus's graph: 2 M of 4 bytes on the lowest layer, M on the few above it."""
HNSW_EF_CONSTRUCTION = 200
IVF_LISTS = 1024


class State(Struct, frozen=True):
    """What made a collection's vectors, and where its images are."""

    dim: PositiveNumber
    image_tower: str
    """Fingerprint (hex) of the image-tower weights and preprocessing that made the vectors."""
    precision: str
    root: str
    """Absolute folder of the item paths, on the machine that indexed them."""
    rules: CollectionRules = CollectionRules()
    metadata: MetadataRecord | None = None
    index_type: str = "HNSW"
    updated: str = ""
    ztcir: str = __version__
    format_version: int = FORMAT_VERSION


class Connection:
    """A client of Milvus and one collection of it; its methods raise `ZtcirError` only."""

    def __init__(self, address: Address) -> None:
        """Connect.

        Raises:
            ZtcirError: Milvus cannot be reached, or refuses the user.
            MissingDependencyError: pymilvus is not installed.
        """
        self.address = address
        try:
            import pymilvus
        except ImportError as error:
            raise MissingDependencyError(
                f"Milvus needs the package pymilvus: {install_hint('milvus')}."
            ) from error
        logger = logging.getLogger("pymilvus")
        if logger.level == logging.NOTSET:  # it prints traces of errors that are raised anyway
            logger.setLevel(logging.CRITICAL + 1)
        self._errors = (pymilvus.MilvusException, OSError)
        self._types = pymilvus.DataType
        with self.sentences("cannot be reached"):
            self.client: Any = pymilvus.MilvusClient(
                uri=address.uri, token=address.token, db_name=address.database, timeout=SECONDS
            )

    @contextlib.contextmanager
    def sentences(self, what: str = "cannot be used") -> Iterator[None]:
        """Replace errors of pymilvus by a sentence."""
        try:
            yield
        except ZtcirError:
            raise
        except self._errors as error:
            reason = first_line(error).split("message=")[-1].rstrip(">)")
            raise IndexUnusableError(
                f"Milvus at {self.address.uri} {what} ({reason}): check that it runs, its "
                "address, and the user's rights; nothing that is stored was lost."
            ) from error
        except Exception as error:
            # Milvus Lite raises what its own dependencies do where the file is none of its.
            if type(error).__module__.partition(".")[0] not in ("pymilvus", "milvus_lite", "grpc"):
                raise
            raise IndexUnusableError(
                f"Milvus at {self.address.uri} {what} ({first_line(error)}): check its address."
            ) from error

    @property
    def collection(self) -> str:
        """The collection's name."""
        return self.address.collection

    def exists(self) -> bool:
        """Return whether there is such a collection."""
        with self.sentences():
            return bool(self.client.has_collection(self.collection))

    def create(self, state: State) -> None:
        """Create the collection, empty."""
        types = self._types
        with self.sentences("cannot create the collection"):
            schema = self.client.create_schema(
                auto_id=False,
                enable_dynamic_field=False,
                description=f"ztcir index of image tower {state.image_tower}",
            )
            schema.add_field("label", types.INT64, is_primary=True)
            schema.add_field("path", types.VARCHAR, max_length=MAX_BYTES["path"])
            schema.add_field("hash", types.VARCHAR, max_length=64)
            schema.add_field("size", types.INT64)
            schema.add_field("mtime_ns", types.INT64)
            schema.add_field("metadata", types.JSON, nullable=True)
            schema.add_field(FIELDS, types.JSON)
            schema.add_field("vector", types.FLOAT_VECTOR, dim=state.dim)
            params = self.client.prepare_index_params()
            kind = self.address.index_type
            params.add_index(
                "vector", index_type=kind, metric_type="IP", params=_index_params(kind)
            )
            self.client.create_collection(
                self.collection,
                schema=schema,
                index_params=params,
                properties={PROPERTY: self._written(state)},
            )

    def read_state(self) -> State:
        """Return the collection's state.

        Raises:
            IndexUnusableError: there is no such collection, ztcir did not make it, or its vectors
                have another width than its state says.
        """
        if not self.exists():
            raise IndexUnusableError(
                f"There is no collection {self.collection} in Milvus at {self.address.uri}; make "
                f"one with `ztcir index FOLDER --to {self.address}`."
            )
        with self.sentences():
            described = self.client.describe_collection(self.collection)
        found = dict(described.get("properties") or {}).get(PROPERTY)
        if found is None:
            raise IndexUnusableError(
                f"The collection {self.collection} of Milvus was not made by ztcir, or by another "
                "version: name another collection."
            )
        try:
            values = json.loads(found)
            version = values.get("format_version") if isinstance(values, dict) else FORMAT_VERSION
            if version != FORMAT_VERSION:
                raise IndexUnusableError(
                    f"The collection {self.collection} has the format {version!r}, which ztcir "
                    f"{__version__} does not know: update ztcir, or index the images again."
                )
            state = from_json(values, State)
        except (EntryError, ValueError) as error:
            raise IndexUnusableError(
                f"The state of the collection {self.collection} is corrupt ({error}): delete the "
                "collection and index the images again."
            ) from error
        fields = {field["name"]: field["params"] for field in described["fields"]}
        width = fields.get("vector", {}).get("dim", 0)
        if int(width) != state.dim:
            raise IndexUnusableError(
                f"The vectors of the collection {self.collection} have {width} numbers, not "
                f"{state.dim} as its state says: delete the collection and index the images again."
            )
        return state

    def write_state(self, state: State) -> None:
        """Replace the collection's state."""
        with self.sentences("cannot be written"):
            self.client.alter_collection_properties(
                self.collection, properties={PROPERTY: self._written(state)}
            )

    @staticmethod
    def _written(state: State) -> str:
        return json.dumps(to_json(replace(state, updated=now(), ztcir=__version__)))

    def query(
        self, expression: str, columns: Sequence[str], *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return rows that satisfy an expression, with everything that was written before."""
        options = {} if limit is None else {"limit": limit}
        with self.sentences():
            rows = self.client.query(
                self.collection,
                filter=expression,
                output_fields=list(columns),
                consistency_level="Strong",
                **options,
            )
        return [dict(row) for row in rows]

    def scan(
        self, columns: Sequence[str], expression: str = "", *, batch: int = 1000
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows that satisfy an expression, in batches."""
        with self.sentences():
            rows = self.client.query_iterator(
                self.collection,
                batch_size=batch,
                filter=expression,
                output_fields=list(columns),
                consistency_level="Strong",
            )
            try:
                while page := rows.next():
                    yield [dict(row) for row in page]
            finally:
                rows.close()

    def count(self, expression: str = "") -> int:
        """Return the number of rows that satisfy an expression."""
        [row] = self.query(expression, ["count(*)"])
        return int(row["count(*)"])


def _index_params(kind: str) -> dict[str, int]:
    if kind == "HNSW":
        return {"M": HNSW_M, "efConstruction": HNSW_EF_CONSTRUCTION}
    return {"nlist": IVF_LISTS} if kind.startswith("IVF") else {}


def item_of(row: Mapping[str, Any]) -> Item:
    """Return the item of a row that has `ITEM_COLUMNS`."""
    return Item(
        label=int(row["label"]),
        path=row["path"],
        content_hash=row["hash"],
        size=int(row["size"]),
        mtime_ns=int(row["mtime_ns"]),
        metadata=row["metadata"],
    )
