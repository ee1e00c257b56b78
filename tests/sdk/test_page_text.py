"""Text of any script in the images that we draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ztcir_sdk.pages import text as module
from ztcir_sdk.pages.contact_sheet import _wrapped
from ztcir_sdk.pages.text import TextFont


def drawn(text: str) -> np.ndarray:
    image = Image.new("RGB", (400, 60), "white")
    TextFont(24).draw(image, (4, 4), text, (0, 0, 0))
    return np.asarray(image)


@pytest.mark.parametrize("letters", ["αβγδ", "жшщя", "אבגד", "ქართ", "عرب"])
def test_scripts_of_the_shipped_font_need_no_font_of_the_system(
    letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._font_of.cache_clear()
    monkeypatch.setattr(module, "_files", lambda: (module._OWN,))
    seen = {drawn(letter).tobytes() for letter in letters}
    assert len(seen) == len(letters)  # a box would look the same for all
    module._font_of.cache_clear()


def test_what_no_font_has_is_drawn_as_something(monkeypatch: pytest.MonkeyPatch) -> None:
    module._font_of.cache_clear()
    monkeypatch.setattr(module, "_files", lambda: (module._OWN,))
    assert drawn("\U00012000").min() < 128  # cuneiform
    module._font_of.cache_clear()


def test_a_damaged_font_of_the_system_is_passed_over(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    broken = Path(str(tmp_path)) / "broken.ttf"
    broken.write_bytes(b"no font")
    module._font_of.cache_clear()
    module._face.cache_clear()
    monkeypatch.setattr(module, "_files", lambda: (broken, module._OWN))
    assert module._font_of("ж") == 2
    module._font_of.cache_clear()
    module._face.cache_clear()


def test_the_width_is_that_of_what_is_drawn() -> None:
    for text in ("red shoes", "κόκκινα παπούτσια", "mixed жш and latin"):
        columns = np.flatnonzero((drawn(text) < 128).any((0, 2)))
        assert columns[-1] - columns[0] == pytest.approx(TextFont(24).length(text), abs=6)


def test_long_names_break_behind_separators() -> None:
    lines = _wrapped("some-very-long_file.name/with/parts_of_it", TextFont(14), 120, 9)
    assert len(lines) > 2
    assert all(line[-1] in "-_./" for line in lines[:-1])
    assert "".join(lines) == "some-very-long_file.name/with/parts_of_it"
