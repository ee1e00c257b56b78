"""A collection's index in Milvus, for more images than one machine holds.

`MilvusIndex` gives the same hits as an index in a folder. It is addressed as
``milvus://host:19530/photos``; see `Address`.
"""

from __future__ import annotations

from ztcir_sdk.milvus.address import Address
from ztcir_sdk.milvus.index import MilvusIndex

__all__ = ["Address", "MilvusIndex"]
