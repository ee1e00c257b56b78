"""What the API answers, as its OpenAPI describes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from ztcir_sdk.serve.failures import Kind

__all__ = [
    "BatchLine",
    "ErrorAnswer",
    "FieldModel",
    "HealthAnswer",
    "HitModel",
    "InfoAnswer",
    "ItemModel",
    "ItemsAnswer",
    "ReferenceAnswer",
    "SearchAnswer",
    "UnknownWordModel",
]

IDENTIFIER = (
    "SHA-256 (hex) of the image's file. It names the content of a picture: items that are copies "
    "of one file share it, and differ in `name`."
)


class ErrorDetail(BaseModel):
    """What went wrong."""

    kind: Kind = Field(description="A word for programs.")
    message: str = Field(description="A sentence for people: the problem and the way out.")


class ErrorAnswer(BaseModel):
    """The answer to a request that cannot be answered."""

    error: ErrorDetail


class ItemModel(BaseModel):
    """An image of the index."""

    id: str = Field(description=IDENTIFIER)
    name: str = Field(description="Path inside the collection.")
    metadata: dict[str, Any] | None = None


class HitModel(ItemModel):
    """An image that was found."""

    score: float = Field(description="Cosine similarity to the query, from -1 to 1.")
    rank: int = Field(description="1 for the nearest.")
    duplicates: list[str] = Field(
        default_factory=list,
        description="Names of the copies that it stands for, in a search with `unique`.",
    )


class UnknownWordModel(BaseModel):
    """A word that the model was not trained on."""

    word: str
    suggestion: str | None = Field(description="The nearest known word, for a likely slip.")
    corrected: bool = Field(description="Whether the suggestion was searched instead.")


class SearchAnswer(BaseModel):
    """The hits of a search, nearest first."""

    hits: list[HitModel]
    references: list[str] = Field(
        description="Identifiers of the uploaded images: send these next time, in `reference`."
    )
    searched: int = Field(
        description="Number of images in the index, those that a filter `where` leaves out "
        "included: `GET /api/v1/items` with the filter counts the others as `total`."
    )
    milliseconds: float
    unknown_words: list[UnknownWordModel] = Field(
        description="Words of the texts that the model was not trained on."
    )
    refused: list[str] = Field(
        description="Colours and patterns that a text refuses; they were taken out of the query."
    )
    read_as: list[str] = Field(
        description="Short English that long texts, and texts in other languages, were read as."
    )


class BatchLine(BaseModel):
    """A line of the answer to a batch: the hits of a query, or its error."""

    id: str = Field(description="The query's own `id`, or its number from 1.")
    hits: list[HitModel] | None = None
    error: ErrorDetail | None = None


class ReferenceAnswer(BaseModel):
    """An uploaded image, encoded and remembered for a while."""

    id: str = Field(description="SHA-256 (hex) of the image's file.")


class ItemsAnswer(BaseModel):
    """A page of the items of the index."""

    items: list[ItemModel]
    total: int


class FieldModel(BaseModel):
    """A field of the items' metadata."""

    name: str = Field(description="The keys that lead to it, with dots between them.")
    where: str = Field(description="The field as it is written in a filter `where`.")
    kind: Literal["choice", "number", "text"]
    values: list[bool | int | float | str] = Field(
        default_factory=list,
        description="Frequent values of a choice. A filter compares a text in single quotes, a "
        "number, true and false without.",
    )
    least: float | None = None
    most: float | None = None


class InfoAnswer(BaseModel):
    """What is served, and the limits of a request."""

    version: str
    bundle: str
    items: int
    methods: list[str]
    default_method: str = Field(description="How an image and a text are searched together.")
    fields: list[FieldModel] = Field(
        description="Fields of the metadata that a filter can ask for, nested ones too: the first "
        "20 of the first 5000 items. Every filter can ask for `path`, the name of an item."
    )
    limits: dict[str, float] = Field(
        description="Of a request: MB of an upload, megapixels of an image, characters of a text "
        "and of a filter `where`, images and texts of a search, hits of an answer, queries of a "
        "batch."
    )


class HealthAnswer(BaseModel):
    """That the service works."""

    status: str
    items: int
