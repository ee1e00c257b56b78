"""A bundle's vocabulary: from the checkpoint's configuration, or added to a bundle later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from exported import Exported, write_run, ztcir
from tiny_bundle import write_tiny_bundle

from export.vocabulary import with_vocabulary
from ztcir_sdk import Bundle, Retriever, UnknownWord, UsageError

pytestmark = pytest.mark.usefixtures("export_cache")


def test_the_words_of_a_checkpoint_are_in_its_bundle_and_not_in_its_card(
    vit: Exported, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", vit.model, "compose")
    path = tmp_path / "run" / "last" / "config.json"
    config = json.loads(path.read_text())
    config["training"] = {"epochs": 3, "vocabulary": ["red", "make", "it", "red"]}
    path.write_text(json.dumps(config))
    result = ztcir("export", tmp_path / "run", "--to", tmp_path / "b", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.manifest.vocabulary in bundle.manifest.files
    assert bundle.vocabulary is not None
    assert bundle.vocabulary.words == ("red", "make", "it")
    assert bundle.manifest.model_card["stages"]["compose"] == {"epochs": 3}
    assert vit.bundle.vocabulary is None  # a checkpoint that records none

    for wrong, sentence in (
        ({"red": 1}, "must be a list of words"),
        (["Red"], "cannot have 'Red'"),
    ):
        config["training"]["vocabulary"] = wrong
        path.write_text(json.dumps(config))
        refused = ztcir("export", tmp_path / "run", "--to", tmp_path / "other")
        assert refused.exit_code in (1, 2)
        assert sentence in refused.stderr
        assert not (tmp_path / "other").exists()


def test_a_vocabulary_is_added_to_a_bundle_and_nothing_else_changes(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    added = with_vocabulary(plain, tmp_path / "added", ["red", "blue"])
    before, after = plain.manifest.to_dict(), added.manifest.to_dict()
    assert before.keys() | {"vocabulary"} == after.keys()
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {"vocabulary", "files"}
    assert set(added.manifest.files) == {*plain.manifest.files, "vocabulary.txt"}
    assert Retriever(added).unknown_words("erd") == (UnknownWord("erd", "red", True),)

    replaced = with_vocabulary(added, added.path, ["shirt"], overwrite=True)
    assert Bundle.load(added.path).fingerprint == replaced.fingerprint
    assert Retriever(replaced).unknown_words("shirt") == ()
    assert Retriever(replaced).unknown_words("dress") == (UnknownWord("dress", None),)
    with pytest.raises(UsageError, match="already a bundle"):
        with_vocabulary(plain, added.path, ["red"])
    shutil.rmtree(plain.path)  # the copy stands by itself
    assert Bundle.load(added.path).vocabulary is not None
