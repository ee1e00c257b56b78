"""The contact sheet: its layout, its frames, and images that cannot be opened."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ztcir_sdk.errors import UsageError
from ztcir_sdk.pages.contact_sheet import RIGHT, UNKNOWN, WRONG, SheetCell, SheetRow, contact_sheet

Rgb = tuple[int, int, int]
Box = tuple[int, int, int, int]

INKS: list[Rgb] = [(20, 40, 250), (250, 10, 250), (10, 250, 250), (250, 250, 0), (90, 0, 160)]
REFERENCE: Rgb = (120, 70, 10)
CELL = (60, 80)
FRAME = 4


def patch(ink: Rgb, size: tuple[int, int] = CELL) -> Image.Image:
    return Image.new("RGB", size, ink)


def pixels(sheet: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(sheet)


def box_of(sheet: Image.Image, ink: Rgb) -> Box:
    """Return the box of the pixels of exactly this colour: left, top, right, bottom."""
    rows, columns = np.nonzero((pixels(sheet) == ink).all(axis=-1))
    assert rows.size, f"nothing on the sheet has the colour {ink}"
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def frame_of(sheet: Image.Image, box: Box) -> set[Rgb]:
    """Return the colours of the frame pixels around an image."""
    left, top, right, bottom = box
    array = pixels(sheet)
    ring = [
        array[top - FRAME : top, left - FRAME : right + FRAME],
        array[bottom : bottom + FRAME, left - FRAME : right + FRAME],
        array[top:bottom, left - FRAME : left],
        array[top:bottom, right : right + FRAME],
    ]
    return {tuple(int(v) for v in p) for part in ring for p in part.reshape(-1, 3)}  # type: ignore[misc]


def sheet_of(*rights: bool | None, **settings: int) -> tuple[Image.Image, list[Box]]:
    cells = [SheetCell(patch(INKS[n]), f"0.{n}", right) for n, right in enumerate(rights)]
    row = SheetRow(patch(REFERENCE), "make it red", cells)
    sheet = contact_sheet([row], cell=CELL, **settings)  # type: ignore[arg-type]
    return sheet, [box_of(sheet, INKS[n]) for n in range(len(rights))]


def test_frames_mark_right_and_wrong_hits() -> None:
    sheet, boxes = sheet_of(True, False, None, True)
    for box, colour in zip(boxes, (RIGHT, WRONG, UNKNOWN, RIGHT), strict=True):
        left, top, right, bottom = box
        assert (right - left, bottom - top) == CELL
        # right and wrong have a mark in the upper right corner, drawn in white over the frame
        below = (left, top + 25, right, bottom)
        edges = {
            tuple(int(v) for v in pixels(sheet)[y, x])
            for y in range(below[1], bottom + FRAME)
            for x in (*range(left - FRAME, left), *range(right, right + FRAME))
        }
        assert edges == {colour}
        assert colour in frame_of(sheet, box)
    assert frame_of(sheet, boxes[2]) == {UNKNOWN}
    assert RIGHT not in frame_of(sheet, boxes[1])
    assert WRONG not in frame_of(sheet, boxes[0])


def test_right_and_wrong_differ_without_colour() -> None:
    sheet, (right, wrong, unknown) = sheet_of(True, False, None)

    def mark(box: Box) -> npt.NDArray[np.bool_]:
        corner = pixels(sheet)[box[1] - FRAME : box[1] + 18, box[2] - 18 : box[2] + FRAME]
        white: npt.NDArray[np.bool_] = (corner == 255).all(axis=-1)
        return white

    assert mark(right).any()
    assert mark(wrong).any()
    assert (mark(right) != mark(wrong)).any()
    assert not mark(unknown).any()


def test_the_reference_is_left_of_its_hits_which_keep_their_order() -> None:
    sheet, boxes = sheet_of(None, None, None, None)
    reference = box_of(sheet, REFERENCE)
    assert reference[2] - reference[0] == CELL[0] * 3 // 2
    assert reference[2] + 20 < boxes[0][0]
    for before, after in itertools.pairwise(boxes):
        assert before[2] + 2 * FRAME < after[0]
        assert before[1] == after[1]
    assert boxes[-1][2] + FRAME < sheet.width


def test_hits_wrap_to_further_lines_in_reading_order() -> None:
    sheet, boxes = sheet_of(True, True, False, False, True, per_line=2)
    columns = [box[0] for box in boxes]
    lines = [box[1] for box in boxes]
    assert columns == [columns[0], columns[1]] * 2 + [columns[0]]
    assert lines[0] == lines[1] < lines[2] == lines[3] < lines[4]
    assert lines[2] > boxes[0][3] + 2 * FRAME
    assert boxes[-1][3] + FRAME < sheet.height


def test_a_line_has_ten_hits_by_default() -> None:
    row = [SheetCell(patch((n * 20, 3, 9)), "", None) for n in range(12)]
    sheet = contact_sheet([SheetRow(patch(REFERENCE), "x", row)])
    tops = [box_of(sheet, (n * 20, 3, 9))[1] for n in range(12)]
    assert len(set(tops[:10])) == 1
    assert tops[10] == tops[11] > tops[0]


def test_rows_follow_each_other() -> None:
    rows = [
        SheetRow(patch(ink), "text", [SheetCell(patch((n, n, n)))]) for n, ink in enumerate(INKS)
    ]
    sheet = contact_sheet(rows, cell=CELL)
    boxes = [box_of(sheet, ink) for ink in INKS]
    for before, after in itertools.pairwise(boxes):
        assert before[3] + FRAME < after[1]
        assert before[0] == after[0]


def ink_below(sheet: Image.Image, box: Box) -> bool:
    strip = pixels(sheet)[box[3] + FRAME + 1 : box[3] + FRAME + 40, box[0] : box[2]]
    return bool((strip.max(axis=-1) < 140).any())


def test_texts_and_captions_are_written_below_their_images() -> None:
    cells = [SheetCell(patch(INKS[0]), "0.83"), SheetCell(patch(INKS[1]), "")]
    sheet = contact_sheet([SheetRow(patch(REFERENCE), "make it red", cells)], cell=CELL)
    silent = contact_sheet([SheetRow(patch(REFERENCE), "", cells)], cell=CELL)
    assert ink_below(sheet, box_of(sheet, REFERENCE))
    assert not ink_below(silent, box_of(silent, REFERENCE))
    assert ink_below(sheet, box_of(sheet, INKS[0]))
    assert not ink_below(sheet, box_of(sheet, INKS[1]))


def test_a_long_text_is_wrapped_then_cut_and_stays_in_its_column() -> None:
    long = SheetRow(patch(REFERENCE), "a text without end " * 200, [SheetCell(patch(INKS[0]))])
    short = SheetRow(patch(REFERENCE), "red", [SheetCell(patch(INKS[0]))])
    sheet, plain = (contact_sheet([row], cell=CELL) for row in (long, short))
    assert sheet.width == plain.width
    assert plain.height < sheet.height < plain.height + 200
    left, _, right, bottom = box_of(sheet, REFERENCE)
    below = (pixels(sheet)[bottom + FRAME + 1 :].max(axis=-1) < 120).any(axis=0)
    assert below[left:right].any()
    assert not below[: left - FRAME - 1].any()
    assert not below[right + FRAME + 1 :].any()


def test_a_title_is_written_above_the_rows() -> None:
    rows = [SheetRow(patch(REFERENCE), "text", [SheetCell(patch(INKS[0]))])]
    bare, titled = contact_sheet(rows), contact_sheet(rows, title="Three queries")
    added = titled.height - bare.height
    assert added > 20
    assert (pixels(titled)[20 : 20 + added].max(axis=-1) < 100).any()
    assert (pixels(titled)[20 + added :] == pixels(bare)[20:]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_images_keep_their_aspect_ratio(width: int, height: int) -> None:
    row = SheetRow(patch(REFERENCE), "x", [SheetCell(patch(INKS[0], (width, height)))])
    sheet = contact_sheet([row], cell=CELL)
    left, top, right, bottom = box_of(sheet, INKS[0])
    assert (right - left == CELL[0]) or (bottom - top == CELL[1])
    ratio = min(CELL[0] / width, CELL[1] / height)
    assert abs((right - left) - max(1, width * ratio)) <= 1
    assert abs((bottom - top) - max(1, height * ratio)) <= 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_any_text_can_be_written(title: str, text: str, caption: str) -> None:
    row = SheetRow(patch(REFERENCE), text, [SheetCell(patch(INKS[0]), caption, True)])
    assert contact_sheet([row], title=title, cell=CELL).mode == "RGB"


@pytest.mark.parametrize(
    "text", ["\ud800\udfff", "\0\r\n\t\x1b[0m", "日本語 ع א 👩‍👩‍👧", "x" * 2_000_000]
)
def test_awkward_texts_can_be_written(text: str) -> None:
    row = SheetRow(patch(REFERENCE), text, [SheetCell(patch(INKS[0]), text)])
    contact_sheet([row], title=text, cell=CELL)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_images_of_any_mode_are_shown(mode: str) -> None:
    grey = Image.new("L", CELL, 90).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    cells = [SheetCell(grey), SheetCell(patch(INKS[0]))]
    sheet = contact_sheet([SheetRow(patch(REFERENCE), "x", cells)], cell=CELL)
    left, top, right, bottom = box_of(sheet, INKS[0])
    pitch = CELL[0] + 2 * FRAME + 12
    shown = pixels(sheet)[top:bottom, left - pitch : right - pitch].astype(int)
    assert np.abs(shown - 90).max() <= 2


def test_transparency_is_filled_with_white() -> None:
    clear = Image.new("RGBA", CELL, (255, 0, 0, 0))
    clear.paste((*INKS[0], 255), (0, 0, CELL[0], 4))
    sheet = contact_sheet([SheetRow(patch(REFERENCE), "x", [SheetCell(clear)])], cell=CELL)
    left, _, right, bottom = box_of(sheet, INKS[0])
    assert (pixels(sheet)[bottom + 8, left:right] == 255).all()


def test_a_photo_is_shown_upright(tmp_path: Path) -> None:
    lying = Image.new("RGB", (80, 60), INKS[0])
    exif = lying.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to view
    lying.save(tmp_path / "lying.png", exif=exif)
    sheet = contact_sheet(
        [SheetRow(patch(REFERENCE), "x", [SheetCell(tmp_path / "lying.png")])], cell=CELL
    )
    left, top, right, bottom = box_of(sheet, INKS[0])
    assert (right - left, bottom - top) == CELL


def test_images_that_cannot_be_opened_become_grey_cells(tmp_path: Path) -> None:
    patch(INKS[1], (300, 400)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.effect_noise((300, 400), 90).save(tmp_path / "noise.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "noise.jpg").read_bytes()[:2000])
    (tmp_path / "words.jpg").write_text("no image at all")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    # the header of a 20 000 x 20 000 image, which must not be decoded
    huge = bytearray(whole)
    huge[16:24] = (20_000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(bytes(huge))
    names = ["gone.jpg", "cut.png", "cut.jpg", "words.jpg", "empty.jpg", "folder.jpg", "huge.png"]
    cells = [SheetCell(tmp_path / name, "0.5", True) for name in names]
    cells.append(SheetCell(str(tmp_path / "good.png"), "0.4", False))
    cells.append(SheetCell(Image.new("RGB", (0, 5)), "0.3", None))
    sheet = contact_sheet([SheetRow(tmp_path / "gone.jpg", "x", cells)], cell=CELL, per_line=20)

    good = box_of(sheet, INKS[1])
    pitch = CELL[0] + 2 * FRAME + 12
    for place in range(len(cells)):
        left = good[0] + (place - len(names)) * pitch
        content = pixels(sheet)[good[1] : good[3], left : left + CELL[0]].reshape(-1, 3)
        if place == len(names):
            assert (content[-1] == INKS[1]).all()
            continue
        assert tuple(content[-1]) == (224, 226, 230)
        assert (content.max(axis=-1) < 150).any(), "the cell does not say why it is grey"


def test_a_query_without_hits_is_shown() -> None:
    sheet = contact_sheet([SheetRow(patch(REFERENCE), "x", [])], cell=CELL)
    _, top, right, bottom = box_of(sheet, REFERENCE)
    assert (pixels(sheet)[top:bottom, right + 60 :].max(axis=-1) < 140).any(), "says nothing"
    assert contact_sheet([]).mode == "RGB"
    assert contact_sheet([], title="nothing").height > contact_sheet([]).height


@pytest.mark.parametrize(("per_line", "cell"), [(0, CELL), (-3, CELL), (5, (39, 80)), (5, (80, 0))])
def test_an_impossible_layout_is_refused(per_line: int, cell: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="per_line"):
        contact_sheet([], per_line=per_line, cell=cell)
