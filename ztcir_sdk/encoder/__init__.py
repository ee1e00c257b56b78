"""Images, texts and composed queries to vectors, one by one or by the collection."""

from __future__ import annotations

from ztcir_sdk.encoder.bulk import BulkImages, bulk_images
from ztcir_sdk.encoder.encoded_image import EncodedImage
from ztcir_sdk.encoder.encoder import Encoder
from ztcir_sdk.encoder.questions import Questions

__all__ = ["BulkImages", "EncodedImage", "Encoder", "Questions", "bulk_images"]
