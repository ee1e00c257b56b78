"""``bundle.json``: what a bundle holds, as declared schemas; every error names an entry.

Precisions. ``graphs`` holds the variants of each graph, by precision; the SHA-256 of a variant's
file is in ``files``. ``precisions`` lists the precisions that can be requested and, for each, the
variant that every graph runs in: a graph whose int8 variant is not accurate enough runs in fp32
under "int8". A bundle without that entry offers the precisions that all of its graphs have.
`Bundle.variant` returns the variant of a precision, `Bundle.sha256` the checksum of its file.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from ztcir_sdk.bundle.limits import MAX_FILE_BYTES, MAX_FILES, MAXIMA, why_unusable
from ztcir_sdk.errors import BundleError
from ztcir_sdk.names import (
    GRAPHS,
    IMAGE_ENCODER,
    METHODS,
    PLACEHOLDER_ID,
    PLACEHOLDER_MARK,
    PROMPTS,
    TEXT_ENCODER,
    TEXT_SLOT,
    TOKEN_LEARNER,
)
from ztcir_sdk.preprocess import Preprocessing
from ztcir_sdk.runtime.protocol import TensorSpec
from ztcir_sdk.schema import EntryError, NaturalNumber, PositiveNumber, Text, from_json, to_json
from ztcir_sdk.tokenizer import CLEANINGS, END_OF_TEXT, START_OF_TEXT

FORMAT = 1
MANIFEST = "bundle.json"
TOKENIZER = "tokenizer.json"
_RETIRED = frozenset({"unknown_strength", "part_strength", "refused_weight"})
"""Entries of earlier bundles that are not read any more; `neutral_text` does better."""
_PROMPT_SLOTS = {
    method: tuple(slot for slot in (PLACEHOLDER_MARK, TEXT_SLOT) if slot in prompt)
    for method, prompt in PROMPTS.items()
}
"""Prompted method -> the slots that its template must have."""

REFERENCE_TENSORS = ("pseudo_tokens", "vsi_keys", "vsi_values")
"""Outputs of the token learner that the text encoder takes; the last two only with VSI."""

_INPUTS = {
    IMAGE_ENCODER: {"pixel_values"},
    TOKEN_LEARNER: {"image_embeds", "patch_features"},
    TEXT_ENCODER: {"input_ids", "reference_index", "adapter_scale", *REFERENCE_TENSORS},
}
"""Graph -> the inputs that it may have."""
_OUTPUTS = {
    IMAGE_ENCODER: {"image_embeds"},
    TOKEN_LEARNER: {"pseudo_tokens"},
    TEXT_ENCODER: {"query_embeds"},
}
"""Graph -> the outputs that it must have."""
_NEXT_GRAPH = {IMAGE_ENCODER: TOKEN_LEARNER, TOKEN_LEARNER: TEXT_ENCODER}
"""Graph -> the graph that takes its outputs."""
_FROM_PREVIOUS = {
    TOKEN_LEARNER: _INPUTS[TOKEN_LEARNER],
    TEXT_ENCODER: set(REFERENCE_TENSORS),
}
"""Graph -> its inputs that are outputs of the previous graph."""

_DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")

_Object = Mapping[str, Any]


class ManifestError(BundleError, EntryError):
    """An entry of a manifest is missing, unknown or wrong."""

    def __str__(self) -> str:
        return f"{super().__str__()}: export the bundle again."


class _Entry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the manifest; the checks that follow the types raise `BundleError`."""


class Placeholder(_Entry, frozen=True):
    """How a prompt's ``$`` appears in ``input_ids``."""

    id: int
    tokens: PositiveNumber
    """n, pseudo-words of one reference."""

    def __post_init__(self) -> None:
        if self.id != PLACEHOLDER_ID:
            expected = f"{PLACEHOLDER_ID}, which no text can produce"
            raise ManifestError.wrong("id", self.id, expected)
        _check_most(self, "tokens")


class TextLayout(_Entry, frozen=True):
    """How texts are laid out for the text encoder."""

    context_length: Annotated[int, Meta(ge=3, description="a whole number of at least 3")]
    """Maximum number of tokens of a text, start and end included."""
    causal: bool
    """Whether no token attends to a later one, so that padding after end-of-text has no effect."""
    pool: Text
    """Position that gives the embedding: "eot"."""
    pad_to: int | None
    """Tokens that every text is padded to; None: the longest text of a batch."""
    pad_id: NaturalNumber = 0
    """Token that pads a text after its end."""
    clean: str = "lower"
    """Cleaning of texts: "lower" as for CLIP, "canonicalize" as for SigLIP (no punctuation)."""
    start: Text | None = START_OF_TEXT
    """Token that begins every text; None for none."""
    end: Text = END_OF_TEXT
    """Token that ends every text."""

    def __post_init__(self) -> None:
        if self.pad_to is not None and self.pad_to < self.context_length:
            expected = f"a whole number of at least {self.context_length}"
            raise ManifestError.wrong("pad_to", self.pad_to, expected)
        if self.pad_to is None and not self.causal:
            expected = "a length, which an encoder that is not causal needs"
            raise ManifestError.wrong("pad_to", None, expected)
        _check_known("clean", [self.clean], CLEANINGS)
        _check_most(self, "context_length", "pad_to", "pad_id")

    def tokenizer_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `ztcir_sdk.tokenizer.Tokenizer`."""
        keys = ("context_length", "pad_to", "pad_id", "clean", "start", "end")
        return {key: getattr(self, key) for key in keys}


class Dimensions(_Entry, frozen=True):
    """Sizes of the tensors that pass between the graphs."""

    embed: PositiveNumber
    """D, width of image and query embeddings."""
    patch: PositiveNumber
    """d_v, width of patch features."""
    patches: PositiveNumber
    """N, patches of an image."""
    text: PositiveNumber
    """d_t, width of the text encoder and of a pseudo-word."""
    vsi_layers: NaturalNumber
    """Lv, layers of the text encoder that attend to the patches; 0 for none."""
    vsi: NaturalNumber
    """d_vsi, width of their keys and values."""

    def __post_init__(self) -> None:
        _check_most(self, "embed", "patch", "patches", "text", "vsi_layers", "vsi")


class GraphVariant(_Entry, frozen=True):
    """One graph in one precision."""

    file: str
    """Relative to the bundle, with forward slashes."""
    precision: Annotated[str, Meta(pattern=r"^[a-z0-9_-]+\Z", description="a word such as fp32")]
    """For example "fp32", "fp16" or "int8"."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    check: _Object | None = None
    """What the export measured of it, if it did."""

    def __post_init__(self) -> None:
        check_file_name("file", self.file)
        for side, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if not names or len(names) != len(set(names)):
                raise ManifestError.wrong(side, names, "a list of different names")
            for spec in specs:
                _check_known(f"{side}.{spec.name}.dtype", [spec.dtype], _DTYPES)
                if len(spec.shape) > 8 or not all(
                    0 < edge <= MAXIMA["edge"] if isinstance(edge, int) else edge
                    for edge in spec.shape
                ):
                    expected = "a list of sizes and names"
                    raise ManifestError.wrong(f"{side}.{spec.name}.shape", spec.shape, expected)


class Precision(_Entry, frozen=True):
    """What a bundle runs for one requested precision."""

    graphs: Mapping[str, Text]
    """Graph -> precision of the variant that it runs in: the requested one, or a substitute."""
    check: _Object | None = None
    """What the export measured of these variants together, if it did."""


class FileRecord(_Entry, frozen=True):
    """Checksum and size of a bundle's file."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits")]
    bytes: NaturalNumber


class DefaultAnswer(_Entry, frozen=True):
    """How a bundle answers where a search names no method."""

    method: str
    """One of the bundle's methods."""
    weight: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] | None = None
    """Weight of the text in method "sum", also where that method is named without a weight."""

    def __post_init__(self) -> None:
        if self.weight is not None and self.method != "sum":
            raise ManifestError.wrong("weight", self.weight, 'only with the method "sum"')


class Prototypes(_Entry, frozen=True):
    """Mean images of what has the same attributes, which composed queries are pulled towards.

    See `ztcir_sdk.encoder.rules.pull` for the formula. Queries of texts with one of the
    `Manifest.detail_words` are not pulled.
    """

    file: str
    """N vectors of width `Dimensions.embed`, float16, little-endian, one after another."""
    weight: Annotated[float, Meta(gt=0, le=1, description="a number above 0, at most 1")]
    temperature: Annotated[float, Meta(ge=0.001, le=10, description="a number from 0.001 to 10")]


class Manifest(_Entry, frozen=True, kw_only=True):
    """A bundle's ``bundle.json``.

    Raises:
        BundleError: an entry contradicts another.
    """

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT, description=str(FORMAT))]
    name: Text
    ztcir: Text
    """Version that made it."""
    created: str
    """ISO 8601, with its offset from UTC."""
    model_card: _Object
    """Free form: backbone, stages, data and licences, measured quality, limits."""
    methods: tuple[str, ...]
    """Search methods that it supports, some of `METHODS`."""
    prompts: Mapping[str, Text]
    """Method -> template, such as "a photo of $ that {text}"."""
    placeholder: Placeholder
    text: TextLayout
    preprocessing: Preprocessing
    dimensions: Dimensions
    tokenizer: str
    """File of the tokenizer."""
    graphs: Mapping[str, Mapping[str, GraphVariant]]
    """Graph, of `GRAPHS` -> precision -> variant."""
    image_tower: Annotated[
        str, Meta(pattern=r"^[0-9a-f]+\Z", description="a fingerprint in hexadecimal digits")
    ]
    """Fingerprint (hex) of image-tower weights and preprocessing: what made a gallery's vectors."""
    files: Mapping[str, FileRecord]
    """Every file but this one, external tensor data too."""
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    """Precision that can be requested -> what then runs; empty for those that all graphs have."""
    vocabulary: str | None = None
    """File of the words that the model was trained on, if they are recorded: UTF-8, one a line."""
    neutral_text: str | None = None
    """Text that is composed in place of one that asks for nothing known ("for a toddler", "with a
    belt"). Then a text is composed without the parts that it speaks of, and what it refuses ("not
    red") is taken out of the query. None: every text is composed as it is."""
    neutral_strength: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Strength of the neutral text where nothing is refused either; see
    `ztcir_sdk.modification.strength`. None: 1."""
    attribute_words: tuple[str, ...] = ()
    """Words for the attributes that the model was trained to change, in lower case."""
    detail_words: tuple[str, ...] = ()
    """Words that descriptions have for details, such as a material or a print, in lower case."""
    detail_weight: Annotated[float, Meta(ge=0, le=1)] | None = None
    """How much the vector of the text alone is added to a composed query where the text has one of
    `detail_words` and refuses nothing; None: the model alone answers it."""
    prototypes: Prototypes | None = None
    """Mean images that composed queries are pulled towards; None: the model alone answers."""
    default: DefaultAnswer | None = None
    """How searches answer that name no method; None for "composed"."""

    def __post_init__(self) -> None:
        try:
            offset = datetime.datetime.fromisoformat(self.created).utcoffset()
        except ValueError:
            offset = None
        if offset is None:
            expected = "a time such as 2026-11-24T09:00:00+00:00"
            raise ManifestError.wrong("created", self.created, expected)
        if len(self.files) > MAX_FILES:
            raise ManifestError.wrong("files", len(self.files), f"at most {MAX_FILES} files")
        for file, record in self.files.items():
            check_file_name("files", file)
            if record.bytes > MAX_FILE_BYTES:
                expected = f"at most {MAX_FILE_BYTES} bytes"
                raise ManifestError.wrong(f"files.{file}", record.bytes, expected)
        self._check_graphs()
        self._check_precisions()
        self._check_methods()

    def _check_graphs(self) -> None:
        _check_known("graphs", self.graphs, GRAPHS)
        for graph, variants in self.graphs.items():
            if not variants:
                raise ManifestError.wrong(f"graphs.{graph}", {}, "a variant or more")
            for precision, variant in variants.items():
                entry = f"graphs.{graph}.{precision}"
                if variant.precision != precision:
                    raise ManifestError.wrong(
                        f"{entry}.precision", variant.precision, repr(precision)
                    )
                if variant.file not in self.files:
                    raise ManifestError.wrong(f"{entry}.file", variant.file, "one of the files")
                self._check_tensor_names(graph, variant, entry)
        check_file_name("tokenizer", self.tokenizer)
        if self.tokenizer not in self.files:
            raise ManifestError.wrong("tokenizer", self.tokenizer, "one of the files")
        if self.vocabulary is not None and self.vocabulary not in self.files:
            raise ManifestError.wrong("vocabulary", self.vocabulary, "one of the files")
        self._check_prototypes()

    def _check_prototypes(self) -> None:
        if self.prototypes is None:
            return
        entry, file = "prototypes.file", self.prototypes.file
        if file not in self.files:
            raise ManifestError.wrong(entry, file, "one of the files")
        size, row = self.files[file].bytes, 2 * self.dimensions.embed
        if not 0 < size <= MAXIMA["prototype_bytes"] or size % row:
            expected = f"whole vectors of {row} bytes, at most {MAXIMA['prototype_bytes']} bytes"
            raise ManifestError.wrong(f"files.{file}.bytes", size, expected)

    def _check_tensor_names(self, graph: str, variant: GraphVariant, entry: str) -> None:
        inputs, outputs = ([spec.name for spec in s] for s in (variant.inputs, variant.outputs))
        if unknown := set(inputs) - _INPUTS[graph]:
            raise ManifestError.wrong(f"{entry}.inputs", inputs, f"without {sorted(unknown)[0]}")
        needed = set(_OUTPUTS[graph])
        if following := _NEXT_GRAPH.get(graph):
            for other in self.graphs.get(following, {}).values():
                needed |= {spec.name for spec in other.inputs} & _FROM_PREVIOUS[following]
        if missing := needed - set(outputs):
            raise ManifestError.wrong(f"{entry}.outputs", outputs, f"with {sorted(missing)[0]}")

    def _check_precisions(self) -> None:
        for name, precision in self.precisions.items():
            entry = f"precisions.{name}.graphs"
            if set(precision.graphs) != set(self.graphs):
                expected = "a precision for each of the graphs"
                raise ManifestError.wrong(entry, list(precision.graphs), expected)
            for graph, chosen in precision.graphs.items():
                _check_known(f"{entry}.{graph}", [chosen], self.graphs[graph])

    def _check_methods(self) -> None:
        _check_known("methods", self.methods, METHODS)
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ManifestError.wrong("methods", list(self.methods), "a list of different methods")
        if self.default is not None:
            _check_known("default.method", [self.default.method], self.methods)
        _check_known("prompts", self.prompts, _PROMPT_SLOTS)
        for method in self.methods:
            for graph in METHODS[method]:
                if graph not in self.graphs:
                    expected = f"with the {graph} for {method}"
                    raise ManifestError.wrong("graphs", list(self.graphs), expected)
            if method in _PROMPT_SLOTS and method not in self.prompts:
                raise ManifestError.wrong("prompts", list(self.prompts), f"with one for {method}")
        for method, prompt in self.prompts.items():
            slots = _PROMPT_SLOTS[method]
            if any(prompt.count(s) != (s in slots) for s in (PLACEHOLDER_MARK, TEXT_SLOT)):
                expected = f"a template with {' and '.join(slots)} once"
                raise ManifestError.wrong(f"prompts.{method}", prompt, expected)

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Read what `to_dict` wrote.

        Raises:
            BundleError: the format is newer, or an entry is missing, unknown or wrong.
        """
        if (problem := why_unusable(values)) is not None:
            raise BundleError(f"{problem}: export the bundle again.")
        if isinstance(values, dict):
            values = {name: one for name, one in values.items() if name not in _RETIRED}
            found = values.get("format")
            if isinstance(found, int) and found > FORMAT:
                raise BundleError(
                    f"it was made by a newer ztcir ({values.get('ztcir', 'unknown version')}, "
                    f"format {found}): upgrade ztcir."
                )
            if isinstance(numbers := values.get("preprocessing"), dict):
                try:
                    values = {**values, "preprocessing": Preprocessing.from_dict(numbers)}
                except (TypeError, ValueError) as error:
                    raise ManifestError.wrong("preprocessing", numbers, "a transform") from error
        try:
            return from_json(values, cls)
        except EntryError as error:
            raise ManifestError(error.entry, error.problem) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values, complete and in a fixed order.

        Entries with their default value are left out: `check`, `precisions`, `vocabulary`,
        `neutral_text`, `neutral_strength`, `attribute_words`, `detail_words`, `detail_weight`,
        `prototypes`, `default`, the tokenizer's.
        """
        values: dict[str, Any] = to_json(self)
        return {**values, "preprocessing": self.preprocessing.to_dict()}


def _check_most(entry: Struct, *names: str) -> None:
    for name in names:
        value = getattr(entry, name)
        if value is not None and value > MAXIMA[name]:
            raise ManifestError.wrong(name, value, f"at most {MAXIMA[name]}")


def _check_known(entry: str, names: Iterable[str], known: Iterable[str]) -> None:
    choices = list(known)
    for name in names:
        if name not in choices:
            raise ManifestError.wrong(entry, name, f"one of {', '.join(choices)}")


def check_file_name(entry: str, file: str) -> None:
    """Check that a name is of a file inside the bundle, on every system, and not the manifest's.

    Raises:
        BundleError: it is not.
    """
    if (
        any(part in ("", ".", "..") for part in file.split("/"))
        or any(character in '\\:*?"<>|' or ord(character) < 32 for character in file)
        or len(file) > 1000
        or PurePosixPath(file).name == MANIFEST
    ):
        raise ManifestError.wrong(entry, file, "a file inside the bundle")
