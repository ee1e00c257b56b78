"""``bundle.json``: what a bundle holds, as frozen dataclasses that only exist when they are valid.

Every ``from_dict`` takes exactly the keys that ``to_dict`` writes, and raises `BundleError` naming
the entry that is missing, unknown or wrong.

Precisions. ``graphs`` holds the variants of each graph, by precision: its file, inputs, outputs and
what the export measured of it; the file's SHA-256 stands in ``files``. ``precisions`` says what may
be asked for: for each precision, the variant that every graph runs in (a graph whose int8 is not
good enough runs in fp32 under "int8"), and what was measured of them together. A bundle without
that entry offers the precisions that all of its graphs have. `Bundle.variant`
resolves one, `Bundle.sha256` gives the checksum of its file.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ztcir_sdk.errors import BundleError
from ztcir_sdk.names import GRAPHS, METHODS, PLACEHOLDER_ID, PLACEHOLDER_MARK, PROMPTS, TEXT_SLOT
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.tokenizer import CLEANINGS, END_OF_TEXT, START_OF_TEXT

__all__ = [
    "FORMAT",
    "MANIFEST",
    "REFERENCE_TENSORS",
    "Dimensions",
    "FileRecord",
    "GraphVariant",
    "Manifest",
    "Placeholder",
    "Precision",
    "TextLayout",
    "check_file_name",
]

FORMAT = 1
MANIFEST = "bundle.json"
_PROMPT_SLOTS = {
    method: tuple(slot for slot in (PLACEHOLDER_MARK, TEXT_SLOT) if slot in prompt)
    for method, prompt in PROMPTS.items()
}
"""What the prompt of a method holds; the other methods have none."""

REFERENCE_TENSORS = ("pseudo_tokens", "vsi_keys", "vsi_values")
"""What the token learner says of a picture and the text encoder takes; the last two with VSI."""

_INPUTS = {
    "image_encoder": {"pixel_values"},
    "token_learner": {"image_embeds", "patch_features"},
    "text_encoder": {"input_ids", "reference_index", "adapter_scale", *REFERENCE_TENSORS},
}
"""All that a graph may ask for."""
_OUTPUTS = {
    "image_encoder": {"image_embeds"},
    "token_learner": {"pseudo_tokens"},
    "text_encoder": {"query_embeds"},
}
"""What a graph gives at least."""
_TAKER = {
    "image_encoder": ("token_learner", _INPUTS["token_learner"]),
    "token_learner": ("text_encoder", set(REFERENCE_TENSORS)),
}
"""Graph -> the graph that takes its outputs, and which of them it may ask for."""

_TOKENIZER_KEYS = ("pad_id", "clean", "start", "end")
"""Entries of the text layout that only a tokenizer other than CLIP's has."""

_DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Placeholder:
    """How a prompt's ``$`` stands in ``input_ids``."""

    id: int = PLACEHOLDER_ID
    tokens: int = 1
    """n, pseudo-words for one picture."""

    def __post_init__(self) -> None:
        if self.id != PLACEHOLDER_ID:
            raise _wrong("placeholder.id", self.id, f"{PLACEHOLDER_ID}, which no text can produce")
        _whole("placeholder.tokens", self.tokens)

    @classmethod
    def from_dict(cls, values: Any) -> Placeholder:
        """Read what `to_dict` wrote."""
        return cls(**_entries("placeholder", values, ("id", "tokens")))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"id": self.id, "tokens": self.tokens}


@dataclass(frozen=True)
class TextLayout:
    """How texts are laid out for the text encoder."""

    context_length: int = 77
    """Most tokens of one text, start and end included."""
    causal: bool = True
    """Whether no token sees a later one, so that what follows end-of-text does not matter."""
    pool: str = "eot"
    """Which position gives the embedding."""
    pad_to: int | None = None
    """Tokens that every text is padded to; None where the longest of a batch will do."""
    pad_id: int = 0
    """What fills a text after end-of-text."""
    clean: str = "lower"
    """How texts are cleaned: "lower" as CLIP's are, "canonicalize" as SigLIP's (no punctuation)."""
    start: str | None = START_OF_TEXT
    """Token that begins every text; None for none."""
    end: str = END_OF_TEXT
    """Token that ends every text."""

    def __post_init__(self) -> None:
        _whole("text.context_length", self.context_length, least=3)
        if not isinstance(self.causal, bool):
            raise _wrong("text.causal", self.causal, "true or false")
        _words("text.pool", self.pool)
        if self.pad_to is not None:
            _whole("text.pad_to", self.pad_to, least=self.context_length)
        elif not self.causal:
            raise _wrong("text.pad_to", None, "a length, which an encoder that is not causal needs")
        _whole("text.pad_id", self.pad_id, least=0)
        _known("text.clean", [self.clean], CLEANINGS)
        if self.start is not None:
            _words("text.start", self.start)
        _words("text.end", self.end)

    @classmethod
    def from_dict(cls, values: Any) -> TextLayout:
        """Read what `to_dict` wrote."""
        keys = ("context_length", "causal", "pool", "pad_to")
        return cls(**_entries("text", values, keys, optional=_TOKENIZER_KEYS))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; of the tokenizer, only what is not as CLIP's."""
        values: dict[str, Any] = {
            "context_length": self.context_length,
            "causal": self.causal,
            "pool": self.pool,
            "pad_to": self.pad_to,
        }
        as_clip = TextLayout()
        for key in _TOKENIZER_KEYS:
            if getattr(self, key) != getattr(as_clip, key):
                values[key] = getattr(self, key)
        return values

    def tokenizer_options(self) -> dict[str, Any]:
        """Return what `ztcir_sdk.tokenizer.Tokenizer` is made with."""
        keys = ("context_length", "pad_to", *_TOKENIZER_KEYS)
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Dimensions:
    """Sizes of what passes between the graphs."""

    embed: int
    """D, width of image and query embeddings."""
    patch: int
    """d_v, width of patch features."""
    patches: int
    """N, patches of a picture."""
    text: int
    """d_t, width of the text encoder and of a pseudo-word."""
    vsi_layers: int
    """Lv, layers of the text encoder that see the patches; 0 for none."""
    vsi: int
    """d_vsi, width of their keys and values."""

    def __post_init__(self) -> None:
        for key, value in self.to_dict().items():
            _whole(f"dimensions.{key}", value, least=0 if key.startswith("vsi") else 1)

    @classmethod
    def from_dict(cls, values: Any) -> Dimensions:
        """Read what `to_dict` wrote."""
        keys = ("embed", "patch", "patches", "text", "vsi_layers", "vsi")
        return cls(**_entries("dimensions", values, keys))

    def to_dict(self) -> dict[str, int]:
        """Return JSON values."""
        return {
            "embed": self.embed,
            "patch": self.patch,
            "patches": self.patches,
            "text": self.text,
            "vsi_layers": self.vsi_layers,
            "vsi": self.vsi,
        }


@dataclass(frozen=True)
class GraphVariant:
    """One graph in one precision."""

    file: str
    """Relative to the bundle, with forward slashes."""
    precision: str
    """For example "fp32", "fp16" or "int8"."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    check: Mapping[str, Any] | None = None
    """What the export measured of it, if it did."""

    def __post_init__(self) -> None:
        check_file_name("file", self.file)
        if not isinstance(self.precision, str) or not re.fullmatch(r"[a-z0-9_-]+", self.precision):
            raise _wrong("precision", self.precision, "a word such as fp32")
        if self.check is not None:
            _json_object("check", self.check)
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if not names or len(names) != len(set(names)):
                raise _wrong(side, names, "a list of different names")

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "graphs") -> GraphVariant:
        """Read what `to_dict` wrote; `where` it stands is said in errors."""
        keys = ("file", "precision", "inputs", "outputs")
        entries = _entries(where, values, keys, optional=("check",))
        with _under(where):
            for side in ("inputs", "outputs"):
                if not isinstance(entries[side], list):
                    raise _wrong(side, entries[side], "a list")
                entries[side] = tuple(_tensor(side, spec) for spec in entries[side])
            return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `check` only where there is one."""
        values: dict[str, Any] = {"file": self.file, "precision": self.precision}
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            values[side] = [
                {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
                for spec in specs
            ]
        if self.check is not None:
            values["check"] = dict(self.check)
        return values


@dataclass(frozen=True)
class Precision:
    """What a bundle runs when it is asked for one precision."""

    graphs: Mapping[str, str]
    """Graph -> precision of the variant that it runs in: this one, or another that had to do."""
    check: Mapping[str, Any] | None = None
    """What the export measured of these variants together, if it did."""

    def __post_init__(self) -> None:
        _json_object("graphs", self.graphs)
        for graph, precision in self.graphs.items():
            _words(f"graphs.{graph}", precision)
        if self.check is not None:
            _json_object("check", self.check)

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "precisions") -> Precision:
        """Read what `to_dict` wrote; `where` it stands is said in errors."""
        entries = _entries(where, values, ("graphs",), optional=("check",))
        with _under(where):
            return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `check` only where there is one."""
        values: dict[str, Any] = {"graphs": dict(self.graphs)}
        if self.check is not None:
            values["check"] = dict(self.check)
        return values


@dataclass(frozen=True)
class FileRecord:
    """Checksum and size of a bundle's file."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise _wrong("sha256", self.sha256, "64 hexadecimal digits")
        _whole("bytes", self.bytes, least=0)

    @classmethod
    def from_dict(cls, values: Any, *, where: str = "files") -> FileRecord:
        """Read what `to_dict` wrote; `where` it stands is said in errors."""
        entries = _entries(where, values, ("sha256", "bytes"))
        with _under(where):
            return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"sha256": self.sha256, "bytes": self.bytes}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's ``bundle.json``.

    Raises:
        BundleError: an entry is of a wrong kind, or contradicts another.
    """

    name: str
    ztcir: str
    """Version that made it."""
    created: str
    """ISO 8601, with its offset from UTC."""
    model_card: Mapping[str, Any]
    """Free form: backbone, stages, data and licences, measured quality, limits."""
    methods: tuple[str, ...]
    """What it can answer, of `METHODS`."""
    prompts: Mapping[str, str]
    """Method -> template, such as "a photo of $ that {text}"."""
    placeholder: Placeholder
    text: TextLayout
    preprocessing: Preprocessing
    dimensions: Dimensions
    tokenizer: str
    """File of the tokenizer."""
    graphs: Mapping[str, Mapping[str, GraphVariant]]
    """Graph, of `GRAPHS` -> precision -> variant."""
    image_tower: str
    """Fingerprint (hex) of image-tower weights and preprocessing: what made a gallery's vectors."""
    files: Mapping[str, FileRecord]
    """Every file but this one, external tensor data too."""
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    """Precision that may be asked for -> what then runs; empty for those that all graphs have."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if isinstance(self.format, bool) or self.format != FORMAT:
            raise _wrong("format", self.format, str(FORMAT))
        for key in ("name", "ztcir"):
            _words(key, getattr(self, key))
        if not isinstance(self.image_tower, str) or not re.fullmatch("[0-9a-f]+", self.image_tower):
            raise _wrong("image_tower", self.image_tower, "a fingerprint in hexadecimal digits")
        try:
            offset = datetime.datetime.fromisoformat(self.created).utcoffset()
        except (TypeError, ValueError):
            offset = None
        if offset is None:
            raise _wrong("created", self.created, "a time such as 2026-11-24T09:00:00+00:00")
        _json_object("model_card", self.model_card)
        for file in self.files:
            check_file_name("files", file)
        self._check_graphs()
        self._check_precisions()
        self._check_methods()

    def _check_graphs(self) -> None:
        _known("graphs", self.graphs, GRAPHS)
        for graph, variants in self.graphs.items():
            if not variants:
                raise _wrong(f"graphs.{graph}", {}, "a variant or more")
            for precision, variant in variants.items():
                where = f"graphs.{graph}.{precision}"
                if variant.precision != precision:
                    raise _wrong(f"{where}.precision", variant.precision, repr(precision))
                if variant.file not in self.files:
                    raise _wrong(f"{where}.file", variant.file, "one of the files")
                self._check_names(graph, variant, where)
        check_file_name("tokenizer", self.tokenizer)
        if self.tokenizer not in self.files:
            raise _wrong("tokenizer", self.tokenizer, "one of the files")

    def _check_names(self, graph: str, variant: GraphVariant, where: str) -> None:
        inputs, outputs = ([spec.name for spec in s] for s in (variant.inputs, variant.outputs))
        if unknown := set(inputs) - _INPUTS[graph]:
            raise _wrong(f"{where}.inputs", inputs, f"without {sorted(unknown)[0]}")
        needed = set(_OUTPUTS[graph])
        if graph in _TAKER:
            taker, tensors = _TAKER[graph]
            for other in self.graphs.get(taker, {}).values():
                needed |= {spec.name for spec in other.inputs} & tensors
        if missing := needed - set(outputs):
            raise _wrong(f"{where}.outputs", outputs, f"with {sorted(missing)[0]}")

    def _check_precisions(self) -> None:
        for name, precision in self.precisions.items():
            where = f"precisions.{name}.graphs"
            if set(precision.graphs) != set(self.graphs):
                raise _wrong(where, list(precision.graphs), "a precision for each of the graphs")
            for graph, chosen in precision.graphs.items():
                if chosen not in self.graphs[graph]:
                    has = ", ".join(self.graphs[graph])
                    raise _wrong(f"{where}.{graph}", chosen, f"one of {has}")

    def _check_methods(self) -> None:
        _known("methods", self.methods, METHODS)
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise _wrong("methods", list(self.methods), "a list of different methods")
        _known("prompts", self.prompts, _PROMPT_SLOTS)
        for method in self.methods:
            for graph in METHODS[method]:
                if graph not in self.graphs:
                    raise _wrong("graphs", list(self.graphs), f"with the {graph} for {method}")
            if method in _PROMPT_SLOTS and method not in self.prompts:
                raise _wrong("prompts", list(self.prompts), f"with one for {method}")
        for method, prompt in self.prompts.items():
            _words(f"prompts.{method}", prompt)
            for slot in ("$", "{text}"):
                if prompt.count(slot) != (slot in _PROMPT_SLOTS[method]):
                    needs = " and ".join(_PROMPT_SLOTS[method])
                    raise _wrong(f"prompts.{method}", prompt, f"a template with {needs} once")

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Read what `to_dict` wrote.

        Raises:
            BundleError: the format is a newer one, or the manifest is malformed.
        """
        if not isinstance(values, dict):
            raise _wrong("the manifest", values, "an object")
        found = values.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise BundleError(
                f"it was made by a newer ztcir ({values.get('ztcir', 'unknown version')}, format "
                f"{found}): upgrade ztcir."
            )
        entries = _entries("", values, _KEYS, optional=("precisions",))
        entries.setdefault("precisions", {})
        for key in ("prompts", "graphs", "files", "model_card", "precisions"):
            _json_object(key, entries[key])
        if not isinstance(entries["methods"], list):
            raise _wrong("methods", entries["methods"], "a list")
        _known("methods", entries["methods"], METHODS)
        entries["methods"] = tuple(entries["methods"])
        entries["placeholder"] = Placeholder.from_dict(entries["placeholder"])
        entries["text"] = TextLayout.from_dict(entries["text"])
        entries["dimensions"] = Dimensions.from_dict(entries["dimensions"])
        _json_object("preprocessing", entries["preprocessing"])
        try:
            entries["preprocessing"] = Preprocessing.from_dict(entries["preprocessing"])
        except (TypeError, ValueError) as error:
            raise _wrong("preprocessing", entries["preprocessing"], "a transform") from error
        for graph, variants in entries["graphs"].items():
            _json_object(f"graphs.{graph}", variants)
        entries["graphs"] = {
            graph: {
                precision: GraphVariant.from_dict(variant, where=f"graphs.{graph}.{precision}")
                for precision, variant in variants.items()
            }
            for graph, variants in entries["graphs"].items()
        }
        entries["precisions"] = {
            name: Precision.from_dict(precision, where=f"precisions.{name}")
            for name, precision in entries["precisions"].items()
        }
        entries["files"] = {
            file: FileRecord.from_dict(record, where=f"files.{file}")
            for file, record in entries["files"].items()
        }
        return cls(**entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values, complete and in a fixed order.

        `precisions` only where there are any.
        """
        values: dict[str, Any] = {
            "format": self.format,
            "name": self.name,
            "ztcir": self.ztcir,
            "created": self.created,
            "model_card": dict(self.model_card),
            "methods": list(self.methods),
            "prompts": dict(self.prompts),
            "placeholder": self.placeholder.to_dict(),
            "text": self.text.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "dimensions": self.dimensions.to_dict(),
            "tokenizer": self.tokenizer,
            "graphs": {
                graph: {precision: variant.to_dict() for precision, variant in variants.items()}
                for graph, variants in self.graphs.items()
            },
            "image_tower": self.image_tower,
            "files": {file: record.to_dict() for file, record in self.files.items()},
        }
        if self.precisions:
            values["precisions"] = {
                name: precision.to_dict() for name, precision in self.precisions.items()
            }
        return values


_KEYS = (
    *("format", "name", "ztcir", "created", "model_card", "methods", "prompts", "placeholder"),
    *("text", "preprocessing", "dimensions", "tokenizer", "graphs", "image_tower", "files"),
)


@contextlib.contextmanager
def _under(where: str) -> Iterator[None]:
    """Say in errors from the block where the entry stands."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{where}.{error}") from error.__cause__


def _wrong(where: str, value: Any, expected: str) -> BundleError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return BundleError(f"{where} is {shown}, not {expected}: export the bundle again.")


def _entries(
    where: str, values: Any, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a copy of an object that has these keys and no others."""
    _json_object(where, values)
    place = f"{where}." if where else ""
    for key in required:
        if key not in values:
            raise BundleError(f"{place}{key} is missing: export the bundle again.")
    for key in values:
        if key not in required and key not in optional:
            raise BundleError(f"{place}{key} is no known entry: export the bundle again.")
    return dict(values)


def _json_object(where: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(where, value, "an object")


def _whole(where: str, value: Any, *, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(where, value, f"a whole number of at least {least}")


def _words(where: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, value, "a text")


def _known(where: str, names: Iterable[Any], known: Iterable[str]) -> None:
    choices = list(known)
    for name in names:
        if name not in choices:
            raise _wrong(where, name, f"one of {', '.join(choices)}")


def check_file_name(where: str, file: Any) -> None:
    """Refuse a name that leads out of the bundle, on any system, or to the manifest itself.

    Raises:
        BundleError: the name of a file, which stands at `where`, is such a one.
    """
    if (
        not isinstance(file, str)
        or any(part in ("", ".", "..") for part in file.split("/"))
        or any(character in '\\:*?"<>|' or ord(character) < 32 for character in file)
        or PurePosixPath(file).name == MANIFEST
    ):
        raise _wrong(where, file, "a file inside the bundle")


def _tensor(where: str, values: Any) -> TensorSpec:
    entries = _entries(where, values, ("name", "dtype", "shape"))
    name, dtype, shape = entries["name"], entries["dtype"], entries["shape"]
    _words(f"{where}.name", name)
    if dtype not in _DTYPES:
        raise _wrong(f"{where}.{name}.dtype", dtype, f"one of {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or not all(
        (isinstance(edge, str) and edge)
        or (isinstance(edge, int) and not isinstance(edge, bool) and edge > 0)
        for edge in shape
    ):
        raise _wrong(f"{where}.{name}.shape", shape, "a list of sizes and names")
    return TensorSpec(name, dtype, tuple(shape))
