"""The user's objects: a `Retriever` answers a picture and a text with the nearest `Hit`s.

They only compose the encoder, the index and the indexing of folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ztcir_sdk.bundle.bundle import DEFAULT_BUNDLE, Bundle
from ztcir_sdk.bundle.graph_source import IMAGES_AT_ONCE
from ztcir_sdk.encoder import EncodedImage, Encoder, Questions
from ztcir_sdk.errors import IndexMismatchError, UsageError, ZtcirError
from ztcir_sdk.files import hash_file
from ztcir_sdk.gallery import IndexReport, build_index
from ztcir_sdk.index import GalleryIndex, Index, IndexView, Item
from ztcir_sdk.names import is_tar
from ztcir_sdk.preprocess import ImageSource
from ztcir_sdk.reference_cache import ReferenceCache, read_content, reference_bytes
from ztcir_sdk.runtime import RuntimeSettings
from ztcir_sdk.sources import Source, read_picture

__all__ = ["Hit", "Reference", "Retriever", "default_index_path"]

IndexSource: TypeAlias = "str | os.PathLike[str] | GalleryIndex"
"""An index's folder, or an index that is open."""

SAME = 1 - 1e-6
"""Cosine from which two embeddings are of the same picture: what rounding makes of 1."""

INDEX_VARIABLE = "ZTCIR_INDEX"


@dataclass(frozen=True)
class Hit:
    """A picture that was found."""

    path: str
    """Absolute; of a picture in an archive, ``/…/shard.tar/key.jpg``."""
    score: float
    """Cosine similarity to the query, from -1 to 1."""
    rank: int
    """From 1, the nearest."""
    metadata: dict[str, Any] | None = None
    """What was said of the picture, if anything: a JSON object."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


class Retriever:
    """Searches indexed pictures by a picture and a text. Threads may share one.

    Attributes:
        encoder: what turns pictures and questions into vectors.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        *,
        index: IndexSource | None = None,
        backend: str = "auto",
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        gpu_memory_mb: int | None = None,
        low_memory: bool = False,
        build_engines: bool = True,
        cuda_graphs: bool = True,
        reference_cache_mb: int = 64,
    ) -> None:
        """Use a bundle; its graphs are loaded when they are first needed.

        Args:
            bundle: a bundle or its folder.
            index: what to search, unless a search says otherwise; see also `index`, `open_index`.
            backend: "onnx" (ONNX Runtime, on the device), "onnx-tensorrt" (its TensorRT provider)
                or "tensorrt" (TensorRT itself); "auto" is, on a GPU, "tensorrt" where `ztcir
                export --trt` has built engines for it, else "onnx".
            device: "cpu", "cuda" or "cuda:N"; "auto" is the GPU where ONNX Runtime runs on it, or
                where the backend runs on nothing else, and the processor otherwise.
            precision: "fp32", "fp16" or "int8", as the bundle has it; by default fp32.
            threads: processor threads of one graph; by default one a core that may be used.
            gpu_memory_mb: most GPU memory of one graph, in MiB; by default all that is free.
            low_memory: give memory back after every run, for small devices; costs time.
            build_engines: whether TensorRT engines that are missing or stale are built when they
                are first needed, for seconds to minutes; otherwise they are refused.
            cuda_graphs: whether TensorRT's launches are recorded for each shape; costs GPU memory.
            reference_cache_mb: memory, in MiB, for what was made of reference pictures, by the
                content of their files, so that asking again about one runs the text graph alone;
                the one not used for longest goes first. 0 keeps none.

        Raises:
            BundleError: the bundle is missing, altered, or made by a newer ztcir.
            ZtcirError: it lacks the precision, which may be none for the device, or the index
                cannot be opened.
            UsageError: there is no such device or backend, or a number is below 1.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        settings = RuntimeSettings(
            backend=backend,
            device=device,
            threads=threads,
            gpu_memory_mb=gpu_memory_mb,
            low_memory=low_memory,
            build_engines=build_engines,
            cuda_graphs=cuda_graphs,
        )
        if reference_cache_mb < 0:
            raise UsageError(f"reference_cache_mb must be at least 0, not {reference_cache_mb}.")
        self.encoder = Encoder(bundle, precision=precision, settings=settings)
        self._cache = ReferenceCache((reference_cache_mb << 20) // reference_bytes(bundle.manifest))
        self._index: GalleryIndex | None = None
        self._opened: dict[Path, Index] = {}
        self._lock = threading.Lock()
        if index is not None:
            self._index = self._resolve(index)

    @classmethod
    def from_pretrained(
        cls,
        name: str = DEFAULT_BUNDLE,
        *,
        index: IndexSource | None = None,
        backend: str = "auto",
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        gpu_memory_mb: int | None = None,
        low_memory: bool = False,
        build_engines: bool = True,
        cuda_graphs: bool = True,
        reference_cache_mb: int = 64,
    ) -> Retriever:
        """Use a bundle that came inside the package; for the arguments see `Retriever`.

        Raises:
            UsageError: there is none of that name.
            BundleError: the installation holds no bundle at all, or it is altered.
        """
        bundle = Bundle.embedded(name)
        return cls(
            bundle,
            index=index,
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
            gpu_memory_mb=gpu_memory_mb,
            low_memory=low_memory,
            build_engines=build_engines,
            cuda_graphs=cuda_graphs,
            reference_cache_mb=reference_cache_mb,
        )

    @property
    def bundle(self) -> Bundle:
        """What it runs."""
        return self.encoder.bundle

    @property
    def dim(self) -> int:
        """Width D of all vectors."""
        return self.encoder.dim

    @property
    def image_tower(self) -> str:
        """Fingerprint (hex) of image-tower weights and preprocessing; an index has it too."""
        return self.encoder.image_tower

    @property
    def precision(self) -> str:
        """Precision of the image encoder."""
        return self.encoder.precision

    @property
    def current_index(self) -> GalleryIndex | None:
        """What a search looks in, unless it says otherwise."""
        return self._index

    def encode_images(self, images: Sequence[ImageSource]) -> NDArray[np.float32]:
        """Encode pictures for a gallery: (N, D) float32, L2-normalised.

        Raises:
            ImageError: one of them cannot be used.
        """
        return self.encoder.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode bare texts by the frozen text encoder: (B, D) float32, L2-normalised.

        Raises:
            UsageError: one of the texts is empty.
        """
        return self.encoder.encode_texts(texts)

    def encode_queries(
        self,
        references: Sequence[Reference],
        texts: Sequence[str],
        reference_index: ArrayLike,
        method: str = "composed",
        weight: float | None = None,
    ) -> NDArray[np.float32]:
        """Encode B texts, each about one of R references: (B, D) float32, L2-normalised.

        Args:
            references: R pictures, from `references`.
            texts: B texts; "mapped" and "image" only count them.
            reference_index: (B,) integers, from 0 to R - 1.
            method: see `search`.
            weight: see `search`.

        Raises:
            UsageError, ZtcirError: as in `search`; or the lengths do not fit.
        """
        questions = self.encoder.questions(method, texts, weight=weight)
        images = [self._own(reference) for reference in references]
        return self.encoder.encode_queries(questions, images, reference_index)

    def index(
        self,
        source: Source,
        to: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> IndexReport:
        """Index a collection, or bring its index up to date, and search it from now on.

        Args:
            source: a folder, a tar archive or a picture, or several.
            to: the index, by custom ``NAME.ztcir``.
            progress: called with how many pictures are done, and of how many.

        Raises:
            ZtcirError: the source is missing or has no picture that can be used, or the index
                cannot be written.
            IndexMismatchError: the index was made by another image tower.
            UsageError: the index is another collection's.
        """
        report = build_index(source, to, self, progress=progress)
        self.open_index(to)
        return report

    def open_index(self, path: str | os.PathLike[str]) -> Index:
        """Open an index, and search it from now on.

        Raises:
            IndexMismatchError: it was made by another image tower.
            ZtcirError: there is no index, or it is damaged.
        """
        index = self._open(path)
        self._index = index
        return index

    def reference(self, image: ImageSource) -> Reference:
        """Encode a picture once, to ask about it many times.

        Args:
            image: a path (also of a picture in an archive, as in `Hit.path`), an encoded picture
                (bytes or a seekable file), a PIL image, or RGB uint8 (H, W, 3).

        Raises:
            ImageError: it is missing, no picture, damaged, or over 100 megapixels.
        """
        [reference] = self.references([image])
        return reference

    def references(self, images: Sequence[ImageSource]) -> list[Reference]:
        """Encode several pictures at once; see `reference`.

        A picture that was encoded before, and is still remembered by its file's content, is not
        encoded again; see `Retriever`'s `reference_cache_mb`.
        """
        found: list[Reference] = []
        for start in range(0, len(images), IMAGES_AT_ONCE):  # few files in memory at once
            found += self._references(images[start : start + IMAGES_AT_ONCE])
        return found

    def _references(self, images: Sequence[ImageSource]) -> list[Reference]:
        contents = [read_content(_from_archive(image)) for image in images]
        known: dict[str | int, EncodedImage] = {}  # by checksum, else by position
        new: dict[str | int, ImageSource] = {}
        for place, (source, content_hash) in enumerate(contents):
            key = place if content_hash is None else content_hash
            cached = None if content_hash is None else self._cache.get(content_hash)
            if cached is not None:
                known[key] = cached
            else:
                new[key] = source
        fresh = self.encoder.encode_references(list(new.values())) if new else []
        for key, encoded in zip(new, fresh, strict=True):
            known[key] = encoded
            if isinstance(key, str):
                self._cache.put(key, encoded)
        return [
            Reference(self, known[place], _content_hash(source))
            if content_hash is None
            else Reference(self, known[content_hash], content_hash)
            for place, (source, content_hash) in enumerate(contents)
        ]

    def search(
        self,
        image: ImageSource,
        text: str = "",
        k: int = 10,
        *,
        index: IndexSource | None = None,
        method: str = "composed",
        weight: float | None = None,
        exact: bool | None = None,
    ) -> list[Hit]:
        """Find the pictures that are like `image`, changed as `text` says; nearest first.

        The reference itself is left out (but for "mapped"): every picture that is the same file by
        its bytes, and every one whose embedding is the same but for rounding. Of an array or a PIL
        image the file's bytes are not known, so there the embedding alone decides.

        Args:
            image: the reference picture; see `reference`.
            text: what is to be different; "mapped" and "image" do not read it.
            k: how many hits; a smaller gallery gives all it has.
            index: an index or its folder, in place of the current one.
            method: "composed", by picture and text together. To compare: "stage1", the same
                without the composing adapters; "mapped" and "image", by the picture alone, as a
                pseudo-word or by its embedding; "text", by the text alone; "sum", by the sum of
                the two embeddings.
            weight: of the text in "sum", from 0 to 1, against 1 - weight of the picture.
            exact: True compares with every picture, False uses the index's graph if it has one; by
                default as suits its size.

        Raises:
            UsageError: the text is empty, k is below 1, or there is no such method.
            ImageError: the picture cannot be used.
            IndexMismatchError: the index was made by another image tower.
            ZtcirError: there is no index, or the bundle cannot answer the method.
        """
        # What the call gets wrong is said before any work is done.
        questions = self.encoder.questions(method, [text], weight=weight)
        _check_k(k)
        gallery = self._resolve(index)
        [hits] = self._answer([self.reference(image)], [0], questions, k, gallery, exact)
        return hits

    def search_many(
        self,
        queries: Sequence[tuple[ImageSource, str]],
        k: int = 10,
        *,
        index: IndexSource | None = None,
        method: str = "composed",
        weight: float | None = None,
        exact: bool | None = None,
    ) -> list[list[Hit]]:
        """Answer many queries at once, each a picture and a text: the hits of each, in order.

        Pictures are encoded together, the same file once; texts likewise; and the index is asked
        once. For the arguments and errors see `search`, which gives the same answers one by one.
        """
        queries = list(queries)
        questions = self.encoder.questions(method, [text for _, text in queries], weight=weight)
        _check_k(k)
        gallery = self._resolve(index)
        if not queries:
            return []
        references = self.references([image for image, _ in queries])
        unique = {id(reference.encoded): reference for reference in references}
        rows = {key: row for row, key in enumerate(unique)}
        places = [rows[id(reference.encoded)] for reference in references]
        return self._answer(list(unique.values()), places, questions, k, gallery, exact)

    def _answer(
        self,
        references: Sequence[Reference],
        places: Sequence[int],
        questions: Questions,
        k: int,
        gallery: GalleryIndex,
        exact: bool | None,
    ) -> list[list[Hit]]:
        """Answer B questions, each about the reference at its place."""
        if isinstance(gallery, Index):
            gallery = gallery.view  # one state, whatever another thread does to the index
        queries = self.encoder.encode_queries(
            questions, [reference.encoded for reference in references], places
        )
        labels: list[Sequence[int]] = [()] * len(references)
        hashes: list[Sequence[str]] = [()] * len(references)
        if questions.method != "mapped":  # there the picture itself is what is sought
            labels = [one._same_embedding(gallery, exact).tolist() for one in references]
            hashes = [() if one.content_hash is None else (one.content_hash,) for one in references]
        found = gallery.search(
            queries,
            k,
            exclude_labels=[labels[place] for place in places],
            exclude_hashes=[hashes[place] for place in places],
            exact=exact,
        )
        root = gallery.root
        return [
            [
                _hit(gallery.item(int(label)), root, float(score), rank)
                for rank, (label, score) in enumerate(zip(*neighbours, strict=True), start=1)
            ]
            for neighbours in found
        ]

    def _open(self, path: str | os.PathLike[str]) -> Index:
        """Open an index, or bring it up to date if it is open; its newest state in either case."""
        folder = Path(path).absolute()
        with self._lock:
            if (index := self._opened.get(folder)) is not None:
                with contextlib.suppress(ZtcirError):  # gone or made anew: opening it says so
                    index.refresh()
                    return index
            index = Index.open(folder, image_tower=self.image_tower)
            self._opened[folder] = index
            return index

    def _resolve(self, index: IndexSource | None) -> GalleryIndex:
        """Return what to search: open, and made by this image tower."""
        gallery = self._index if index is None else index
        if gallery is None:
            raise ZtcirError(
                "There is no index to search: make one with "
                'Retriever.index("photos/", to="photos.ztcir") or `ztcir index photos/`, '
                "or open one with Retriever.open_index."
            )
        if isinstance(gallery, (str, os.PathLike)):
            gallery = self._open(gallery)
        if gallery.image_tower != self.image_tower or gallery.dim != self.dim:
            raise IndexMismatchError(
                f"The index was made by another image tower ({gallery.image_tower[:12]}, not "
                f"{self.image_tower[:12]}): index the collection again, or use the bundle that "
                "made it."
            )
        return gallery

    def _own(self, reference: Reference) -> EncodedImage:
        owner = reference.retriever
        if owner is not self and owner.bundle.fingerprint != self.bundle.fingerprint:
            raise UsageError("A reference was encoded by another bundle: encode it with this one.")
        return reference.encoded


class Reference:
    """A picture, encoded once; made by `Retriever.reference`. Threads may share one.

    Attributes:
        retriever: what encoded it, and answers.
        encoded: its encoding.
        content_hash: SHA-256 (hex) of its file's bytes; None for an array or a PIL image.
    """

    def __init__(
        self, retriever: Retriever, encoded: EncodedImage, content_hash: str | None
    ) -> None:
        """Use `Retriever.reference`."""
        self.retriever = retriever
        self.encoded = encoded
        self.content_hash = content_hash
        self._twins: tuple[GalleryIndex, NDArray[np.int64]] | None = None

    @property
    def embedding(self) -> NDArray[np.float32]:
        """v, the picture's embedding: (D,) float32, L2-normalised."""
        return self.encoded.embedding

    def search(
        self,
        text: str = "",
        k: int = 10,
        *,
        index: IndexSource | None = None,
        method: str = "composed",
        weight: float | None = None,
        exact: bool | None = None,
    ) -> list[Hit]:
        """Ask about the picture; see `Retriever.search`."""
        [hits] = self.search_many([text], k, index=index, method=method, weight=weight, exact=exact)
        return hits

    def search_many(
        self,
        texts: Sequence[str],
        k: int = 10,
        *,
        index: IndexSource | None = None,
        method: str = "composed",
        weight: float | None = None,
        exact: bool | None = None,
    ) -> list[list[Hit]]:
        """Ask several things about the picture at once; see `Retriever.search`."""
        questions = self.retriever.encoder.questions(method, texts, weight=weight)
        _check_k(k)
        gallery = self.retriever._resolve(index)
        return self.retriever._answer([self], [0] * questions.count, questions, k, gallery, exact)

    def encode(
        self, text: str = "", method: str = "composed", *, weight: float | None = None
    ) -> NDArray[np.float32]:
        """Return the query embedding of one question: (D,) float32, L2-normalised.

        Raises:
            UsageError, ZtcirError: as in `Retriever.search`.
        """
        [query] = self.retriever.encode_queries([self], [text], [0], method, weight)
        return cast("NDArray[np.float32]", query)

    def _same_embedding(self, gallery: GalleryIndex, exact: bool | None) -> NDArray[np.int64]:
        """Return the labels of pictures whose embedding is this one's."""
        known = self._twins
        if known is not None and known[0] is gallery:
            return known[1]
        asked = 8
        while True:
            [(labels, scores)] = gallery.search(self.embedding[None], asked, exact=exact)
            same = labels[scores >= SAME]
            if len(same) < asked:
                break
            asked *= 8
        if isinstance(gallery, IndexView):  # which never changes
            self._twins = (gallery, same)
        return same


def default_index_path(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the index that is meant where none is named.

    ``$ZTCIR_INDEX``, else the only ``*.ztcir`` in `folder`, by default the current one; never one
    in a parent or in the home folder.

    Raises:
        ZtcirError: there is none.
        UsageError: there are several.
    """
    if named := os.environ.get(INDEX_VARIABLE):
        return Path(named)
    where = Path.cwd() if folder is None else Path(folder)
    found = sorted(path for path in where.glob("*.ztcir") if path.is_dir())
    if not found:
        raise ZtcirError(
            f"There is no index in {where}: make one with `ztcir index FOLDER`, or name one with "
            f"--index or ${INDEX_VARIABLE}."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(
            f"There are several indexes in {where} ({names}): name one with --index or "
            f"${INDEX_VARIABLE}."
        )
    return found[0]


def _check_k(k: int) -> None:
    try:
        number = operator.index(k)
    except TypeError:
        number = 0
    if number < 1 or isinstance(k, bool):
        raise UsageError(f"k must be a whole number of at least 1, not {k!r}.")


def _hit(item: Item, root: Path, score: float, rank: int) -> Hit:
    metadata = None if item.metadata is None else dict(item.metadata)
    return Hit(str(root / item.path), score, rank, metadata)


def _from_archive(image: ImageSource) -> ImageSource:
    """Return the bytes of a picture whose path leads into a tar archive; others as they are."""
    if isinstance(image, (str, os.PathLike)) and not os.path.lexists(image):
        path = Path(image)
        for parent in path.parents:
            if is_tar(parent.name) and parent.is_file():
                return read_picture(parent.parent, str(path.relative_to(parent.parent)))
    return image


def _content_hash(image: ImageSource) -> str | None:
    """Return the SHA-256 (hex) of a picture's file; None where there is no file."""
    if isinstance(image, (np.ndarray, Image.Image)):
        return None
    if isinstance(image, (bytes, bytearray)):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, (str, os.PathLike)):
        return hash_file(Path(image))
    stream: IO[bytes] = image
    stream.seek(0)
    return hashlib.sha256(stream.read()).hexdigest()
