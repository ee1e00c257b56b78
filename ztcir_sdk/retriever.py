"""The user's objects: a `Retriever` answers an image and a text with the nearest `Hit`s.

They only compose the encoder, the index and the indexing of collections.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ztcir_sdk.answers import IndexSource, SearchOptions, SearchSettings, check_k, find_hits
from ztcir_sdk.answers.same_image import SameImage
from ztcir_sdk.bundle import DEFAULT_BUNDLE, Bundle
from ztcir_sdk.decoding import ImageSource
from ztcir_sdk.encoder import BulkImages, EncodedImage, Encoder, bulk_images
from ztcir_sdk.errors import UsageError
from ztcir_sdk.gallery.opened import OpenIndexes
from ztcir_sdk.index import GalleryIndex, Index
from ztcir_sdk.index.hit import Hit
from ztcir_sdk.modification import UnknownWord, join_texts
from ztcir_sdk.names import TEXT_METHODS
from ztcir_sdk.query import Picture, Query, QueryPlan, as_queries, as_query, graphs_for, in_groups
from ztcir_sdk.reference_cache import ReferenceCache, encode_references, reference_bytes
from ztcir_sdk.settings import RetrieverOptions, RetrieverSettings
from ztcir_sdk.sources import Source, image_exists

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11

    from ztcir_sdk.gallery import AnyIndex, IndexOptions, IndexReport

__all__ = ["Hit", "Reference", "Retriever"]


class Retriever:
    """Searches indexed images by an image and a text. Threads may share one.

    Attributes:
        encoder: turns images and queries into vectors.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        index: IndexSource | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> None:
        """Use a bundle; each of its graphs is loaded when it is first needed.

        Args:
            bundle: a bundle or its folder.
            index: the index to search by default; see also `index` and `open_index`.
            **options: how the graphs are run, and what is remembered; see `RetrieverOptions`.

        Raises:
            BundleError: the bundle is missing, altered, or made by a newer ztcir.
            ZtcirError: the bundle lacks the precision, the device cannot run it, or the index
                cannot be opened.
            UsageError: there is no such device or backend, or a number is too small.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        settings = RetrieverSettings(**options)
        self.encoder = Encoder(
            bundle,
            precision=settings.precision,
            settings=settings,
            correct_slips=settings.correct_slips,
        )
        cached = (settings.reference_cache_mb << 20) // reference_bytes(bundle.manifest)
        self._cache = ReferenceCache(cached)
        self._indexes = OpenIndexes(self.image_tower, self.dim)
        if index is not None:
            self._indexes.default = self._indexes.resolve(index)

    @classmethod
    def from_pretrained(
        cls,
        name: str = DEFAULT_BUNDLE,
        *,
        index: IndexSource | None = None,
        **options: Unpack[RetrieverOptions],
    ) -> Retriever:
        """Use a model by its name; for the other arguments see `Retriever`.

        `name` is a bundle inside the package, a bundle's folder, or ``hf://org/repo@revision``,
        which is downloaded once and checked.

        Raises:
            UsageError: there is no model of that name.
            BundleError: the bundle is missing, incomplete or altered.
            ZtcirError: it cannot be downloaded.
        """
        from ztcir_sdk.hub import load_model

        return cls(load_model(name), index=index, **options)

    @property
    def bundle(self) -> Bundle:
        """The bundle in use."""
        return self.encoder.bundle

    @property
    def dim(self) -> int:
        """Width D of all vectors."""
        return self.encoder.dim

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of image-tower weights and preprocessing, as an index records it."""
        return self.encoder.image_tower

    @property
    def precision(self) -> str:
        """Precision of the image encoder."""
        return self.encoder.precision

    @property
    def current_index(self) -> GalleryIndex | None:
        """The index that is searched by default."""
        return self._indexes.default

    def encode_images(self, images: Sequence[ImageSource]) -> NDArray[np.float32]:
        """Encode N images for a gallery: (N, D) float32, L2-normalised.

        Raises:
            ImageError: an image cannot be used.
        """
        return self.encoder.encode_images(images)

    def bulk_images(self) -> AbstractContextManager[BulkImages]:
        """Return what encodes the images of a collection, several batches at a time."""
        return bulk_images(self.encoder)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode B texts with the frozen text encoder: (B, D) float32, L2-normalised.

        Raises:
            UsageError: a text is empty.
        """
        return self.encoder.encode_texts(texts)

    def unknown_words(self, text: str, *, as_typed: bool = False) -> tuple[UnknownWord, ...]:
        """Return the words of a text that the model was not trained on, each once, in order.

        A likely slip is corrected in queries (`UnknownWord.corrected`), but not with `as_typed`;
        the model may ignore or misread the other ones. Numbers and single letters always count as
        known, and so does everything if `Bundle.vocabulary` is None.

        Raises:
            BundleError: the bundle's vocabulary cannot be read.
        """
        return self.encoder.unknown_words(text, as_typed=as_typed)

    def refused(self, text: str, *, as_typed: bool = False) -> tuple[str, ...]:
        """Return the colours and patterns that a text refuses, in English: "not red" -> ("red",).

        They leave composed queries if `Manifest.neutral_text` is set, and words alone always.
        """
        return self.encoder.refused(text, as_typed=as_typed)

    def encode_queries(
        self,
        references: Sequence[Reference],
        texts: Sequence[str],
        reference_index: ArrayLike,
        method: str | None = None,
        weight: float | None = None,
        strength: float | None = None,
    ) -> NDArray[np.float32]:
        """Encode B texts, each about one of R references: (B, D) float32, L2-normalised.

        Args:
            references: R reference images, from `references`.
            texts: B modification texts, to which no reference's `wish` is added; "mapped" and
                "image" ignore their content.
            reference_index: (B,) integers from 0 to R - 1.
            method: see `search`.
            weight: see `search`.
            strength: see `search`.

        Raises:
            UsageError, ZtcirError: as in `search`, or the lengths differ.
        """
        method = method or self.bundle.default_method
        questions = self.encoder.questions(method, texts, weight=weight, strength=strength)
        images = [self._own(reference) for reference in references]
        return self.encoder.encode_queries(questions, images, reference_index)

    def index(
        self,
        source: Source,
        to: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[IndexOptions],
    ) -> IndexReport:
        """Build or update the index of a collection, and search it from now on.

        Args:
            source: a folder, a tar archive or an image file, or several; or Parquet files of
                vectors, from `ztcir embed` or `ztcir index --export`, which are not encoded again.
            to: the index's folder, usually ``NAME.ztcir``, or an address such as
                ``milvus://host:19530/photos``.
            progress: called with the number of images done, and of all images.
            **options: what to leave out, whether to read videos, and so on; see `IndexOptions`.

        Raises:
            ZtcirError: the source is missing or has no usable image, the index cannot be written,
                or more than half of its images are missing.
            IndexMismatchError: the index was made by another image tower.
            UsageError: the index belongs to another collection.
        """
        from ztcir_sdk.gallery import build_index

        report = build_index(source, to, self, progress=progress, **options)
        self.open_index(to)
        return report

    def open_index(self, path: str | os.PathLike[str]) -> AnyIndex:
        """Open an index by its folder or its address in Milvus, and search it from now on.

        It stays at this state when another process updates it: open it again, or name its path in
        a search, for the newest one.

        Raises:
            IndexMismatchError: it was made by another image tower.
            ZtcirError: there is no index, or it is corrupt.
        """
        index = self._indexes.open(path)
        self._indexes.default = index
        return index

    def reference(self, image: ImageSource) -> Reference:
        """Encode a reference image once, for many queries.

        Args:
            image: a path (also into an archive, as in `Hit.path`), an encoded image (bytes or a
                seekable file), a PIL image, or an RGB uint8 array (H, W, 3).

        Raises:
            ImageError: it is missing, not an image, damaged, or over 100 megapixels.
        """
        [reference] = self.references([image])
        return reference

    def references(self, images: Sequence[ImageSource]) -> list[Reference]:
        """Encode several reference images at once; see `reference`.

        A file whose content is in the cache is not encoded again; see `Retriever`'s
        `reference_cache_mb`.
        """
        encoded = encode_references(self.encoder, self._cache, images)
        return [Reference(self, image, content_hash) for image, content_hash in encoded]

    def search(
        self,
        image: Picture | Query,
        text: str = "",
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> list[Hit]:
        """Find images similar to `image`, modified as `text` describes; nearest first.

        Without a text these are similar images. A `Query` also asks with a text alone, with several
        images and texts, and for what is not wanted.

        The references themselves are left out, except with "mapped": every image whose file has the
        same bytes, and every image whose embedding is the same but for rounding. The bytes of an
        array or a PIL image are unknown, so only its embedding counts.

        Args:
            image: the reference image (see `reference`), which may be encoded already, or a
                `Query`.
            text: the modification text; "mapped" and "image" ignore it.
            k: number of hits; a smaller gallery gives all its images.
            **options: which index, method, strength and filter, which page, what counts as the
                same image and as an answer; see `SearchOptions`.

        Raises:
            UsageError: the text is blank, a number is out of range, there is no such method, an
                option does not go with it, or the filter cannot be parsed or does not fit the
                index.
            ImageError: the image cannot be used.
            IndexMismatchError: the index was made by another image tower.
            ZtcirError: there is no index, or the bundle cannot answer the method.
        """
        [hits] = self.search_many([as_query(image, text, options.get("method"))], k, **options)
        return hits

    def search_many(
        self,
        queries: Sequence[Query | tuple[Picture, str]],
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> list[list[Hit]]:
        """Answer many queries, each a `Query` or an image and a text: the hits of each, in order.

        Gives the same hits as `search`, in less time: images and texts are encoded in batches, each
        file once, and the index is searched once. For the arguments and errors see `search`.
        """
        settings = SearchSettings(**options)
        method = settings.method or self.bundle.default_method
        asked = as_queries(queries, method)
        if any(query.has_options for query in asked):
            return in_groups(asked, options, lambda some, own: self.search_many(some, k, **own))
        self.encoder.preload(graphs_for(asked, method))  # while texts and images are read
        # Check the arguments before any work.
        plan = QueryPlan(self.encoder, asked, method, **settings.of_texts)
        check_k(k)
        gallery = self._indexes.resolve(settings.index)
        if not asked:
            return []
        if isinstance(gallery, Index):
            gallery = gallery.view  # a state that other threads cannot change
        images = self._encoded([query.positive_images for query in asked])
        unlike = self._encoded([query.unwanted_images for query in asked])
        vectors = plan.vectors(images, unlike)
        left_out = unlike
        if method != "mapped":  # there the reference itself is the target
            left_out = [[*one, *other] for one, other in zip(images, unlike, strict=True)]
        found = self._find(vectors, left_out, k, gallery, settings)
        used = method in TEXT_METHODS
        texts = [query.asked if used else "" for query in asked]
        return [
            [replace(hit, asked=text) for hit in hits]
            for hits, text in zip(found, texts, strict=True)
        ]

    def _encoded(self, pictures: Sequence[Sequence[Picture]]) -> list[list[Reference]]:
        """Encode the pictures of each query; those that are references are encoded already."""
        new = [one for own in pictures for one in own if not isinstance(one, Reference)]
        fresh = iter(self.references(cast("list[ImageSource]", new)))
        found = [
            [one if isinstance(one, Reference) else next(fresh) for one in own] for own in pictures
        ]
        for reference in (one for own in found for one in own):
            self._own(reference)
        return found

    def _find(
        self,
        vectors: NDArray[np.float32],
        left_out: Sequence[Sequence[Reference]],
        k: int,
        gallery: GalleryIndex,
        settings: SearchSettings,
    ) -> list[list[Hit]]:
        """Return the hits of each of B vectors (B, D), without some references."""
        exact = settings.exact
        labels = [
            [label for one in own for label in one._same_labels(gallery, exact)] for own in left_out
        ]
        hashes = [[file for one in own for file in one._content_hashes()] for own in left_out]
        return find_hits(
            gallery, vectors, k, settings, exclude_labels=labels, exclude_hashes=hashes
        )

    def _own(self, reference: Reference) -> EncodedImage:
        owner = reference.retriever
        if owner is not self and owner.bundle.fingerprint != self.bundle.fingerprint:
            raise UsageError("A reference was encoded by another bundle: encode it with this one.")
        return reference.encoded


class Reference:
    """A reference image, encoded once by `Retriever.reference`. Threads may share one.

    Attributes:
        retriever: the retriever that encoded it, and searches.
        encoded: its encoding.
        content_hash: SHA-256 (hex) of its file; None for an array or a PIL image.
        wish: what `refine` asked of it; every search and every `Query` with it asks that, too.
        former: the references that it was refined from, oldest first.
    """

    def __init__(
        self,
        retriever: Retriever,
        encoded: EncodedImage,
        content_hash: str | None,
        *,
        wish: str = "",
        former: tuple[Reference, ...] = (),
    ) -> None:
        """Use `Retriever.reference`, and `refine`."""
        self.retriever = retriever
        self.encoded = encoded
        self.content_hash = content_hash
        self.wish = wish
        self.former = former
        self._same = SameImage(encoded.embedding)

    @property
    def embedding(self) -> NDArray[np.float32]:
        """v, the embedding of the image: (D,) float32, L2-normalised."""
        return self.encoded.embedding

    def refine(
        self, hit: Hit | ImageSource | Reference, text: str = "", *, asked: str | None = None
    ) -> Reference:
        """Go on from a hit with a further change, and keep what was asked before.

        The new reference stands for the hit's image. Its searches ask for `text` and for their own
        text. With "composed" and "stage1" each image before it is composed with all that was asked
        of it and since (`ztcir_sdk.modification.trail`). Other methods use the hit's image alone.
        No image of the trail is among the hits::

            hits = reference.search("make it red")
            hits = reference.refine(hits[0], "for women").search()

        Args:
            hit: a hit of this reference's search; or an image (see `Retriever.reference`), which
                may be encoded already, or the path of an item of the default index.
            text: the further change; it may also be left to `search`.
            asked: the text that `hit` was found with. A `Hit` knows it. If it is not known, only
                the hit's image is used.

        Raises:
            ImageError: the image cannot be used.
        """
        if asked is None and isinstance(hit, Hit):
            asked = hit.asked  # with this reference's own text
        elif asked is not None:
            asked = join_texts(self.wish, asked)
        picked = (
            hit if isinstance(hit, Reference) else self.retriever.reference(self._image_of(hit))
        )
        return Reference(
            self.retriever,
            picked.encoded.after(self.encoded, asked),
            picked.content_hash,
            wish=text,
            former=(*self.former, self),
        )

    def _image_of(self, hit: Hit | ImageSource) -> ImageSource:
        """Return the image of a hit, which may be the path of an item of the default index."""
        if isinstance(hit, Hit):
            return hit.path
        index = self.retriever.current_index
        if isinstance(hit, (str, os.PathLike)) and isinstance(index, Index):
            item = None if image_exists(Path(hit)) else index.by_path(Path(hit).as_posix())
            return hit if item is None else index.root / item.path
        return hit

    def search(self, text: str = "", k: int = 10, **options: Unpack[SearchOptions]) -> list[Hit]:
        """Search with one text; see `Retriever.search`."""
        [hits] = self.search_many([text], k, **options)
        return hits

    def search_many(
        self, texts: Sequence[str], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """Search with several texts at once; see `Retriever.search`."""
        if isinstance(texts, str):
            raise UsageError("texts must be a list, even for a single text.")
        return self.retriever.search_many([(self, text) for text in texts], k, **options)

    def encode(
        self,
        text: str = "",
        method: str | None = None,
        *,
        weight: float | None = None,
        strength: float | None = None,
    ) -> NDArray[np.float32]:
        """Return the query embedding of one text: (D,) float32, L2-normalised.

        Raises:
            UsageError, ZtcirError: as in `Retriever.search`.
        """
        texts = [self._with_wish(text)]
        [query] = self.retriever.encode_queries([self], texts, [0], method, weight, strength)
        return cast("NDArray[np.float32]", query)

    def _with_wish(self, text: str) -> str:
        """Return a text after what `refine` asked."""
        return join_texts(self.wish, text) if self.wish else text

    def _content_hashes(self) -> list[str]:
        """Return the hashes of its file and of those of the former references."""
        return [one.content_hash for one in (*self.former, self) if one.content_hash is not None]

    def _same_labels(self, gallery: GalleryIndex, exact: bool | None) -> list[int]:
        """Return the labels of images that have its embedding, or that of a former reference."""
        trail = (*self.former, self)
        return [label for one in trail for label in one._same.labels(gallery, exact).tolist()]
