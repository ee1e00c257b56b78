"""Words that several packages share, each defined once. Imports nothing, so `--help` stays fast."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "AUTOMATIC",
    "BACKENDS",
    "CATALOGUE_COLUMNS",
    "COMPOSED_PROMPT",
    "DEFAULT_BUNDLE",
    "DEFAULT_METHOD",
    "DEFAULT_WEIGHT",
    "EVERY_METHOD",
    "GPU_BACKENDS",
    "GRAPHS",
    "INDEX_SUFFIX",
    "MAPPED_PROMPT",
    "MAX_IMAGES",
    "MAX_STRENGTH",
    "MAX_TEXTS",
    "METHODS",
    "METRICS",
    "MILVUS_SCHEME",
    "NEAR_DUPLICATE",
    "ORACLE",
    "PLACEHOLDER_ID",
    "PLACEHOLDER_MARK",
    "PRECISIONS",
    "PROMPTED_METHODS",
    "PROMPTS",
    "PROMPT_PRESETS",
    "STANDS_OUT",
    "STORAGES",
    "TABLE_SUFFIXES",
    "TAR_SUFFIXES",
    "TENSORRT_PACKAGES",
    "TEXT_METHODS",
    "TEXT_SLOT",
    "TRAINING_PRECISIONS",
    "UNKNOWN_VALUE",
    "is_known",
    "is_milvus_address",
    "is_plain_tar",
    "is_tar",
    "tar_suffix",
]

IMAGE_ENCODER, TOKEN_LEARNER, TEXT_ENCODER = "image_encoder", "token_learner", "text_encoder"
GRAPHS = (IMAGE_ENCODER, TOKEN_LEARNER, TEXT_ENCODER)
"""The graphs of a bundle, in the order in which a query passes through them."""

METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "composed": GRAPHS,
        "mapped": GRAPHS,
        "stage1": GRAPHS,
        "image": (IMAGE_ENCODER,),
        "text": (IMAGE_ENCODER, TEXT_ENCODER),
        "sum": (IMAGE_ENCODER, TEXT_ENCODER),
    }
)
"""Search method -> the graphs that it needs."""

EVERY_METHOD = "all"
"""Evaluation only: every method of a bundle."""

DEFAULT_METHOD = "composed"
"""Search method where neither the search nor the bundle names one."""

METRICS = ("R@1", "R@5", "R@10", "mAP@10")
"""Measures of `ztcir eval triplets`, as a model card and the documentation show them."""

DEFAULT_WEIGHT = 0.5
"""Weight of the text in method "sum" where neither the search nor the bundle gives one."""

PROMPTED_METHODS = ("composed", "stage1")
"""Methods whose prompt has the modification text beside the pseudo-word."""

TEXT_METHODS = (*PROMPTED_METHODS, "text", "sum")
"""Methods that use the modification text."""

MAX_STRENGTH = 2.0
"""Largest strength of a text: twice the angle that it was trained to turn the query by."""

ORACLE = "oracle"
"""Evaluation only: the target's own attributes as text; the upper bound for composing."""

DEFAULT_BUNDLE = "fashion-lite"
"""Name of the embedded bundle that is used by default, and of the backbone that it has."""

AUTOMATIC = "auto"
"""The value of an option that ztcir chooses itself."""

GPU_BACKENDS = ("onnx-tensorrt", "tensorrt")
"""ONNX Runtime's TensorRT provider, and TensorRT itself."""

BACKENDS = (AUTOMATIC, "onnx", *GPU_BACKENDS)
"""Automatic choice, ONNX Runtime, and what runs on GPUs alone."""

NEAR_DUPLICATE = 0.97
"""Cosine of two images from which they count as the same; `python -m benchmarks.answers`."""

STANDS_OUT = 3.5
"""Standard deviations above an index's scores from which a hit is an answer; the same command."""

TENSORRT_PACKAGES: Mapping[str, str] = MappingProxyType(
    {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
)
"""Import name of a package with TensorRT's API -> its product name."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Precisions of exported graphs."""

STORAGES = ("f32", "f16", "i8")
"""How an index stores its vectors: float32, float16, or int8 with what int8 lacks beside it."""

TRAINING_PRECISIONS = ("fp32", "bf16", "fp16")
"""Precisions of matrix products in training; weights are always fp32."""

MAX_IMAGES = 32
MAX_TEXTS = 64
"""Maximum rows of one run of a graph; larger batches are split."""

PLACEHOLDER_MARK = "$"
"""Position of the pseudo-word in a template; in a text it is an ordinary dollar sign."""

PLACEHOLDER_ID = -1
"""Pseudo-word in ``input_ids``. No vocabulary has this id, so no text can produce it."""

TEXT_SLOT = "{text}"
"""Position of the text in a template."""

MAPPED_PROMPT = f"a photo of {PLACEHOLDER_MARK}"
COMPOSED_PROMPT = f"{MAPPED_PROMPT} that {TEXT_SLOT}"

PROMPTS: Mapping[str, str] = MappingProxyType(
    {"composed": COMPOSED_PROMPT, "stage1": COMPOSED_PROMPT, "mapped": MAPPED_PROMPT}
)
"""Method -> default prompt template; the other methods have none."""

PROMPT_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "searle": COMPOSED_PROMPT,
        "lincir": COMPOSED_PROMPT,
        "pic2word": f"{MAPPED_PROMPT} , {TEXT_SLOT}",
    }
)
"""Method of a paper -> the template of its published code; `ztcir eval` takes it by this name."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""File name suffixes of tar archives, in lower case."""

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
"""File name suffixes of tables, in lower case."""

INDEX_SUFFIX = ".ztcir"
"""Suffix of an index's folder."""

MILVUS_SCHEME = "milvus://"
"""Start of an address of an index in Milvus."""

UNKNOWN_VALUE = "NA"
"""Value of an unknown attribute."""

_UNKNOWN_VALUES = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown"})

CATALOGUE_COLUMNS: Mapping[str, str] = MappingProxyType(
    {"gender": "gender", "type": "articleType", "colour": "baseColour"}
)
"""Attribute -> its default column in a catalogue."""


def is_known(value: str) -> bool:
    """Return whether an attribute has a value: not empty, "NA", "unknown" or similar."""
    return value.strip().lower() not in _UNKNOWN_VALUES


def is_milvus_address(index: object) -> bool:
    """Return whether an index is named by an address of Milvus, and not by a folder."""
    return isinstance(index, str) and index.lower().startswith(MILVUS_SCHEME)


def tar_suffix(name: str) -> str | None:
    """Return the suffix of a tar archive's name, such as ".tar.gz"; None for other files."""
    return next((suffix for suffix in TAR_SUFFIXES if name.lower().endswith(suffix)), None)


def is_tar(name: str) -> bool:
    """Return whether a file name has the suffix of a tar archive."""
    return tar_suffix(name) is not None


def is_plain_tar(name: str) -> bool:
    """Return whether a file name has the suffix of a tar archive that is not compressed."""
    return tar_suffix(name) == TAR_SUFFIXES[0]
