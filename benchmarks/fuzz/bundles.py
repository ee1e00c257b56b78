"""Manifests and tokenizers of bundles, with entries changed by chance."""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz.mutations import mutated_bytes, mutated_json
from ztcir_sdk.bundle import MANIFEST, Bundle, Manifest
from ztcir_sdk.errors import ZtcirError
from ztcir_sdk.tokenizer import Tokenizer

__all__ = ["make_manifest", "make_tokenizer", "read_manifest", "read_tokenizer"]

TEXTS = ("make it red", "x" * 2000, "é\u3000ß 'll 12", "$ <start_of_text> \U0001f600")


@cache
def _bundle() -> Bundle:
    return Bundle.embedded()


def make_manifest(rng: random.Random) -> bytes:
    """Return a ``bundle.json``."""
    values = json.loads((_bundle().path / MANIFEST).read_text(encoding="utf-8"))
    changed = mutated_json(rng, values)
    text = json.dumps(changed).encode()
    return mutated_bytes(rng, text, (text, b"[" * 20_000)) if rng.random() < 0.2 else text


def read_manifest(file: Path, rng: random.Random) -> str:
    """Load the bundle of a manifest, whose other files are links; return the outcome."""
    folder = file.parent / "bundle"
    folder.mkdir()
    for entry in _bundle().path.iterdir():
        if entry.name != MANIFEST:
            (folder / entry.name).symlink_to(entry)
    shutil.copyfile(file, folder / MANIFEST)
    try:
        bundle = Bundle.load(folder, verify=False)
        json.dumps(bundle.manifest.to_dict(), allow_nan=False)
        Manifest.from_dict(bundle.manifest.to_dict())
        for file_name in bundle.manifest.files:
            inside = os.path.normpath(folder / file_name)
            assert inside.startswith(f"{folder}{os.sep}"), file_name
    except ZtcirError:
        return "refused"
    return "read"


@cache
def _tokenizer() -> dict[str, Any]:
    """Return a small tokenizer with the steps of the embedded one."""
    whole = json.loads(_bundle().tokenizer_path.read_text(encoding="utf-8"))
    vocabulary = whole["model"]["vocab"]
    kept = dict(list(vocabulary.items())[:512])
    for name in ("<start_of_text>", "<end_of_text>"):
        kept[name] = len(kept)
    whole["model"]["vocab"] = {name: number for number, name in enumerate(kept)}
    whole["model"]["merges"] = []
    return dict(whole)


def make_tokenizer(rng: random.Random) -> bytes:
    """Return a ``tokenizer.json``."""
    values = mutated_json(rng, _tokenizer())
    if isinstance(values, dict) and rng.random() < 0.5:
        values.update(rng.choice(_HOSTILE_PARTS))
    text = json.dumps(values).encode()
    return mutated_bytes(rng, text, (text,)) if rng.random() < 0.2 else text


_HOSTILE_PARTS: tuple[dict[str, Any], ...] = (
    {
        "padding": {
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    },
    {
        "truncation": {
            "direction": "Right",
            "max_length": 0,
            "strategy": "LongestFirst",
            "stride": 9,
        }
    },
    {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}]
            * 9,
        }
    },
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    {"pre_tokenizer": {"type": "Metaspace", "replacement": "", "prepend_scheme": "first"}},
    {"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]], "byte_fallback": True}},
    {"model": {"type": "BPE", "vocab": {"a": 2**31, "b": -1}, "merges": ["a b"]}},
    {
        "added_tokens": [
            {
                "id": 2**40,
                "content": "",
                "single_word": False,
                "lstrip": True,
                "rstrip": True,
                "normalized": True,
                "special": True,
            }
        ]
    },
)


def read_tokenizer(file: Path, rng: random.Random) -> str:
    """Load a tokenizer and encode texts; return the outcome."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = Tokenizer.from_file(file)
            for text in TEXTS:
                assert len(tokenizer.encode(text)) <= 77
    except ZtcirError:
        return "refused"
    return "read"
