"""Path patterns: braces and wildcards expand as in a shell, and what exists is taken as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztcir_sdk.errors import UsageError
from ztcir_sdk.path_patterns import expand_paths


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("val-{0000..0002}.tar", ["val-0000.tar", "val-0001.tar", "val-0002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{08..10}.tar", ["08.tar", "09.tar", "10.tar"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("{a,}.tar", ["a.tar", ".tar"]),
        ("{alone}.tar", ["{alone}.tar"]),
        ("{a,b.tar", ["{a,b.tar"]),
        ("a,b}.tar", ["a,b}.tar"]),
        ("C:\\shards\\{0..1}.tar", ["C:\\shards\\0.tar", "C:\\shards\\1.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_expand_as_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in expand_paths([pattern])] == expected


def test_wildcards_expand_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "new").mkdir(parents=True)
    for name in ("02.png", "01.png", "10.png", "new/03.png"):
        (tmp_path / "photos" / name).touch()
    assert expand_paths(["photos/0[12].png"]) == [Path("photos/01.png"), Path("photos/02.png")]
    assert expand_paths(["photos/**/03.png"]) == [Path("photos/new/03.png")]
    with pytest.raises(UsageError, match=r"Nothing matches 'no\*'"):
        expand_paths(["no*"])


def test_a_path_that_exists_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[12]{a,b}").mkdir()
    assert expand_paths(["[12]{a,b}", "[12]{a,b}"]) == [Path("[12]{a,b}")]
