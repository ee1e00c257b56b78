"""The page in headless Chromium, with real clicks on drawings; axe finds nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ztcir_sdk import Query, Retriever
from ztcir_sdk.demo import file_names
from ztcir_sdk.drawings.drawings import demo_gallery, draw
from ztcir_sdk.serve.app import create_app
from ztcir_sdk.serve.settings import ServeSettings

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TOKEN = "a secret token"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 drawings."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    folder.mkdir()
    gallery = demo_gallery(per_combination=1)
    for name, drawing in zip(file_names(gallery), gallery, strict=True):
        draw(drawing).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def address(photos: Path) -> Iterator[Callable[..., str]]:
    """Serve the drawings; return the address."""
    retriever = Retriever.from_pretrained(threads=1)
    for price, one in enumerate(files(photos)):
        metadata = {
            "colour": one.name.split("-")[0],
            "price": price,
            "stock": price % 4 == 0,
            "seller": {"city": ("Rome", "Oslo")[price % 2]},
            "size": ("S", 5)[price % 2],
        }
        one.with_suffix(".json").write_text(json.dumps(metadata))
    retriever.index(photos, to=photos.parent / "photos.ztcir")
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**settings: Any) -> str:
        app = create_app(retriever, photos.parent / "photos.ztcir", ServeSettings(**settings))
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.02)
        return f"http://127.0.0.1:{listening.getsockname()[1]}/"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def page(address: Callable[..., str]) -> Iterator[Any]:
    """The page, opened, with a list of what went wrong in it."""
    with playwright.sync_playwright() as driver:
        path = os.environ.get("CHROMIUM") or driver.chromium.executable_path  # playwright's own
        if not Path(path).exists():
            path = shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            pytest.skip("there is no Chromium: run `playwright install chromium`, or set $CHROMIUM")
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page.set_default_timeout(60_000)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.home = address()
        page.goto(page.home)
        page.wait_for_selector(".card")
        yield page
        assert page.wrong == []
        browser.close()


@pytest.fixture(autouse=True)
def fresh(page: Any) -> None:
    """Start each test at the whole gallery."""
    page.goto("about:blank")
    page.goto(page.home)
    page.wait_for_selector(".card")


def files(photos: Path) -> list[Path]:
    return sorted(path for path in photos.iterdir() if path.suffix != ".json")


def names(page: Any) -> list[str]:
    return [one.get_attribute("title") for one in page.query_selector_all(".card .picture")]


def settle(page: Any) -> None:
    """Wait for the answer to what was just done."""
    page.wait_for_function("document.querySelector('.grid').getAttribute('aria-busy') === 'false'")


def opened_elsewhere(page: Any, link: str) -> Any:
    """Open a link in a browser without history; close its `context` at the end."""
    other = page.context.browser.new_context(bypass_csp=True).new_page()
    other.goto(link)
    other.wait_for_selector(".card")
    settle(other)
    return other


def use(page: Any, name: str) -> None:
    page.click(f'.card .picture[aria-label="Search from {name}"]')
    page.wait_for_selector(f'#pictures img[alt="Reference: {name}"]')
    settle(page)


def test_a_click_and_words_find_the_changed_thing(page: Any) -> None:
    assert page.inner_text("#status") == "40 pictures"
    use(page, "red striped t shirt 01")
    assert "red striped t shirt 01" not in names(page)
    page.fill("#text", "make it blue")
    page.wait_for_function("document.querySelector('#title').textContent.includes('make it blue')")
    settle(page)
    assert any(name.startswith("blue") for name in names(page)[:3])
    assert "t shirt" in names(page)[0]
    assert page.inner_text("#status").startswith("40 searched in ")


def test_typing_asks_the_text_graph_alone_and_shows_the_last_text(page: Any) -> None:
    use(page, "red striped t shirt 01")
    uploads: list[str] = []
    page.on("request", lambda request: uploads.append(request.url))
    at_once = """(text) => {
      const field = document.querySelector("#text");
      for (const letter of text) {
        field.value += letter;
        field.dispatchEvent(new InputEvent("input", { bubbles: true }));
      }
    }"""
    page.evaluate(at_once, "in blue")
    page.wait_for_timeout(200)
    settle(page)
    assert not [url for url in uploads if url.endswith("/references")]
    # the first key, and the last of those that follow at once
    assert len([url for url in uploads if url.endswith("/search")]) == 2
    typed = names(page)
    page.reload()
    page.wait_for_selector(".card")
    settle(page)
    assert names(page) == typed


def test_steps_lead_back_and_a_link_restores_the_search(page: Any) -> None:
    use(page, "red striped t shirt 01")
    page.fill("#text", "as a dress")
    settle(page)
    found, link = names(page), page.url
    use(page, found[0])
    assert page.locator("#trail button").count() == 3
    page.go_back()
    page.wait_for_selector('#pictures img[alt="Reference: red striped t shirt 01"]')
    settle(page)
    assert names(page) == found
    assert page.input_value("#text") == "as a dress"
    other = opened_elsewhere(page, link)
    assert names(other) == found
    other.context.close()


def test_what_is_unwanted_leaves(page: Any) -> None:
    page.fill("#text", "a jacket")
    settle(page)
    before = names(page)
    page.click("#tune")
    page.fill("#not", before[0].split()[0])
    page.press("#not", "Enter")
    settle(page)
    assert not names(page)[0].startswith(before[0].split()[0])
    page.click('#unwanted button[aria-label^="Allow"]')
    settle(page)
    assert names(page) == before
    page.hover(".card")
    page.click(f'.card .not[aria-label="Not like {before[0]}"]')
    settle(page)
    assert before[0] not in names(page)


def test_a_picture_is_uploaded_dropped_and_pasted(page: Any, photos: Path) -> None:
    page.set_input_files("#file", photos / "red-striped-t-shirt-01.jpg")
    page.wait_for_selector('#pictures li:not(.busy) img[alt^="Reference: red striped"]')
    settle(page)
    uploaded = names(page)
    assert "red striped t shirt 01" not in uploaded
    script = """async ([event, url]) => {
      const blob = await (await fetch(url)).blob();
      const data = new DataTransfer();
      data.items.add(new File([blob], "x.jpg", { type: "image/jpeg" }));
      const made = event === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(made);
    }"""
    for event in ("drop", "paste"):
        page.goto("about:blank")
        page.goto(page.home)
        page.wait_for_selector(".card")
        picture = page.locator('.card [aria-label="Search from brown jacket 01"] img')
        source = picture.first.get_attribute("src")
        page.evaluate(script, [event, source])
        page.wait_for_selector("#pictures img")
        page.wait_for_function("document.querySelector('#status').textContent.includes('searched')")
        assert len(names(page)) >= 39
    page.set_input_files(
        "#file", {"name": "x.png", "mimeType": "image/png", "buffer": io.BytesIO(b"no").read()}
    )
    page.wait_for_selector("#problem:not([hidden])")
    assert "not an image" in page.inner_text("#problem")


def slide(page: Any, name: str, key: str) -> None:
    """Move the slider of a weight to an end."""
    page.focus(f'#weights [aria-label="Weight of {name}"]')
    page.keyboard.press(key)
    page.wait_for_timeout(100)
    settle(page)


def test_a_picture_that_stays_among_the_results_is_not_loaded_again(page: Any) -> None:
    page.fill("#text", "a dress")
    settle(page)
    page.evaluate("document.querySelectorAll('.card').forEach((one) => (one.seen = true))")
    before = set(names(page))
    page.fill("#text", "a red dress")
    page.wait_for_function("document.querySelector('#title').textContent.includes('red dress')")
    settle(page)
    after = names(page)
    seen = page.evaluate("[...document.querySelectorAll('.card')].map((one) => !!one.seen)")
    assert seen == [name in before for name in after]
    scores = [float(one.inner_text() or "nan") for one in page.query_selector_all(".card .score")]
    assert scores == sorted(scores, reverse=True)  # of this answer, not of the one before


def test_several_pictures_and_texts_count_by_their_weights(page: Any, photos: Path) -> None:
    chosen = [photos / "red-dress-01.jpg", photos / "black-trousers-01.jpg"]
    page.set_input_files("#file", chosen)
    page.wait_for_function("document.querySelectorAll('#pictures li:not(.busy)').length === 2")
    settle(page)
    page.click("#tune")
    slide(page, "black trousers 01", "Home")
    slide(page, "red dress 01", "End")
    retriever, index = Retriever.from_pretrained(threads=1), photos.parent / "photos.ztcir"

    def expected(query: Query) -> list[str]:
        hits = retriever.search_many([query], index=index, k=5)[0]
        return [Path(hit.path).stem.replace("-", " ") for hit in hits]

    pictures = [(chosen[0], 2.0), (chosen[1], 0.1)]
    assert names(page)[:5] == expected(Query(images=pictures))
    page.fill("#text", "in blue")
    page.fill("#and", "with stripes")
    page.press("#and", "Enter")
    page.wait_for_selector('#weights [aria-label="Weight of with stripes"]')
    slide(page, "with stripes", "End")
    assert "“in blue” + “with stripes”" in page.inner_text("#title")
    found = names(page)
    texts = [("in blue", 1.0), ("with stripes", 2.0)]
    assert found[:5] == expected(Query(images=pictures, texts=texts))
    page.reload()  # the address has the weights too
    page.wait_for_selector(".card")
    settle(page)
    assert names(page) == found
    assert page.input_value('#weights [aria-label="Weight of with stripes"]') == "2"
    with page.expect_file_chooser() as chooser:
        page.click("#add")
    chooser.value.set_files(photos / "white-boot-01.jpg")
    page.wait_for_function("document.querySelectorAll('#pictures li:not(.busy)').length === 3")
    page.click('#pictures [aria-label="Remove the reference white boot 01"]')
    settle(page)
    assert names(page) == found
    page.fill("#text", "")  # one text is left, which counts alone
    settle(page)
    assert page.locator("#weights li").count() == 2


def test_a_link_restores_an_uploaded_picture_that_the_service_has_forgotten(
    page: Any, address: Callable[..., str], tmp_path: Path
) -> None:
    other = page.context.browser.new_context(bypass_csp=True).new_page()
    other.goto(address(references=1))
    other.wait_for_selector(".card")
    drawing = draw(demo_gallery(per_combination=1, seed=5)[0])
    drawing.save(tmp_path / "mine.jpg")
    other.set_input_files("#file", tmp_path / "mine.jpg")
    other.wait_for_selector('#pictures li:not(.busy) img[alt="Reference: mine"]')
    other.fill("#text", "in blue")
    other.wait_for_function("document.querySelector('#title').textContent.includes('in blue')")
    settle(other)
    found, link = names(other), other.url
    use(other, found[0])  # the service remembers one picture: now another
    other.goto("about:blank")
    other.goto(link)
    other.wait_for_function("document.querySelector('#status').textContent.includes('searched')")
    settle(other)
    assert names(other) == found
    assert other.locator("#problem").is_hidden()
    other.wait_for_function("document.querySelector('#pictures img').naturalWidth > 0")
    other.context.close()


def test_the_large_view_has_everything_by_keyboard(page: Any) -> None:
    page.fill("#text", "a dress")
    settle(page)
    first, second = names(page)[:2]
    page.focus(f'.card .zoom[aria-label="Large view of {first}"]')
    page.keyboard.press("Enter")
    page.wait_for_selector("#large[open]")
    assert page.inner_text("#large-name") == first
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#large-name") == second
    page.keyboard.press("Escape")
    assert page.locator("#large[open]").count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(page: Any, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 900})
    try:
        use(page, "red striped t shirt 01")
        page.fill("#text", "make it blue")
        page.click("#tune")
        page.fill("#and", "as a dress")
        page.press("#and", "Enter")
        page.wait_for_selector("#weights li")
        page.fill("#not", "stripes")
        page.press("#not", "Enter")
        settle(page)
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        page.focus(".card .zoom")
        page.keyboard.press("Enter")
        results = axe.Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})
        page.emulate_media(color_scheme="light")


def test_filters_of_the_metadata_narrow_the_gallery_and_the_search(page: Any, photos: Path) -> None:
    def wait_for(total: int) -> None:
        page.wait_for_function(
            "n => document.querySelector('#status').textContent === `${n} pictures`", arg=total
        )

    page.click("#tune")
    page.select_option('#filters select[aria-label="colour"]', "blue")
    blue = [one for one in files(photos) if one.name.startswith("blue")]
    wait_for(len(blue))
    assert all(name.startswith("blue") for name in names(page))
    page.fill("#text", "a red dress")
    settle(page)
    found = names(page)
    assert sorted(found) == sorted(one.stem.replace("-", " ") for one in blue)
    assert page.inner_text("#status").startswith("40 filtered and searched in ")
    page.reload()  # the address restores filters too, and shows them
    page.wait_for_selector(".card")
    settle(page)
    assert names(page) == found
    assert page.input_value('#filters select[aria-label="colour"]') == "blue"
    assert page.inner_text("#title").endswith(", colour blue")
    page.select_option('#filters select[aria-label="colour"]', "")
    page.fill("#text", "")
    wait_for(40)
    page.type('#filters [aria-label="price, at least"]', "10")
    page.type('#filters [aria-label="price, at most"]', "12")  # the field keeps the keys' focus
    wait_for(3)
    expected = [one.stem.replace("-", " ") for one in files(photos)[10:13]]
    assert sorted(names(page)) == expected
    use(page, expected[0])
    assert sorted(names(page)) == expected[1:]  # what is filtered stays filtered from step to step
    page.fill('#filters [aria-label="price, at least"]', "100")
    page.wait_for_selector("#results .empty")
    assert "Nothing fits" in page.inner_text("#results")


@pytest.mark.parametrize(
    ("field", "choice", "count"),
    [("stock", "true", 10), ("stock", "false", 30), ("seller.city", "Oslo", 20), ("size", "5", 20)],
)
def test_a_choice_that_is_no_text_and_one_of_a_nested_field_narrow_too(
    page: Any, field: str, choice: str, count: int
) -> None:
    page.click("#tune")
    page.select_option(f'#filters select[aria-label="{field}"]', choice)
    page.wait_for_function(
        "n => document.querySelector('#status').textContent === `${n} pictures`", arg=count
    )
    page.reload()
    page.wait_for_selector(".card")
    settle(page)
    assert page.inner_text("#status") == f"{count} pictures"
    assert page.input_value(f'#filters select[aria-label="{field}"]') == choice


def test_a_part_of_a_name_narrows_the_gallery_and_the_link_keeps_it(page: Any) -> None:
    page.click("#tune")
    page.fill('#filters [aria-label="path contains"]', "dress")
    page.wait_for_function("document.querySelector('#status').textContent === '4 pictures'")
    assert all("dress" in name for name in names(page))
    page.reload()
    page.wait_for_selector(".card")
    settle(page)
    assert page.input_value('#filters [aria-label="path contains"]') == "dress"
    assert all("dress" in name for name in names(page))
    page.fill('#filters [aria-label="path contains"]', "'; DROP TABLE items; --")
    page.wait_for_selector("#results .empty")
    assert page.locator("#problem").is_hidden()


def test_what_was_asked_before_still_counts_when_more_is_asked(page: Any, photos: Path) -> None:
    use(page, "red striped t shirt 01")
    page.fill("#text", "as a dress")
    settle(page)
    hit = names(page)[0]
    use(page, hit)
    assert page.inner_text("#former").startswith("as a dress")
    similar = names(page)
    with page.expect_request("**/api/v1/search") as asked:
        page.fill("#text", "make it blue")
    assert "former_text" in asked.value.post_data
    settle(page)
    carried, link = names(page), page.url
    retriever = Retriever.from_pretrained(threads=1, index=photos.parent / "photos.ztcir")
    first, picked = (
        retriever.reference(photos / f"{name.replace(' ', '-')}.jpg")
        for name in ("red striped t shirt 01", hit)
    )
    expected = first.refine(picked, asked="as a dress").search("make it blue")
    assert carried[:10] == [Path(one.path).stem.replace("-", " ") for one in expected]
    other = opened_elsewhere(page, link)
    assert names(other) == carried
    other.click('#former button[aria-label="Forget as a dress"]')
    settle(other)
    other.wait_for_selector("#former .chip", state="detached")
    assert "after=" not in other.url
    other.fill("#text", "")
    settle(other)
    assert names(other) == similar
    other.context.close()


def test_copies_are_shown_once_and_what_does_not_stand_out_is_left_out(page: Any) -> None:
    page.fill("#text", "a red dress")
    settle(page)
    every = names(page)
    page.click("#tune")
    for switch, field in (("#fits", "threshold"), ("#once", "unique")):
        with page.expect_request("**/api/v1/search") as asked:
            page.check(switch)
        assert f'name="{field}"' in asked.value.post_data
        settle(page)
    assert len(names(page)) < len(every)
    page.reload()
    page.wait_for_selector(".card")
    settle(page)
    assert page.is_checked("#fits")
    assert page.is_checked("#once")
    assert len(names(page)) < len(every)


def test_the_page_says_how_a_text_was_read(page: Any) -> None:
    use(page, "red striped t shirt 01")
    page.fill("#text", "not stripd")
    page.wait_for_selector("#reading:not([hidden])")
    reading = page.inner_text("#reading")
    assert "“stripd” as “striped”" in reading
    assert "Taken out of the query: striped" in reading
    corrected = names(page)
    with page.expect_request("**/api/v1/search") as asked:
        page.click("#reading button")
    assert "as_typed" in asked.value.post_data
    settle(page)
    page.wait_for_function("document.querySelector('#reading').innerText.includes('Searched as')")
    assert names(page) != corrected
    page.click("#reading button")  # and back
    page.wait_for_function("document.querySelector('#reading').innerText.includes('Taken out')")
    settle(page)
    assert names(page) == corrected
    page.fill("#text", "könnte ich das bitte in blau haben")
    page.wait_for_function(
        "document.querySelector('#reading').innerText.includes('Read as “blue”')"
    )
    page.fill("#text", "in blue")
    page.wait_for_selector("#reading", state="hidden")


def test_a_bundle_that_adds_image_and_text_has_the_slider_too(page: Any, photos: Path) -> None:
    def as_sum(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "default_method": "sum"})

    page.route("**/api/v1/info", as_sum)
    try:
        page.reload()
        page.wait_for_selector(".card")
        use(page, "red striped t shirt 01")
        page.fill("#text", "as a dress")
        settle(page)
        page.click("#tune")
        with page.expect_request("**/api/v1/search") as asked:
            page.fill("#strength", "1.6")
        sent = asked.value.post_data
        assert 'name="weight"\r\n\r\n0.8' in sent
        assert "strength" not in sent
    finally:
        page.unroute("**/api/v1/info")


def test_back_restores_a_number_that_was_just_typed_over(page: Any) -> None:
    least, most = (f'#filters [aria-label="price, at {end}"]' for end in ("least", "most"))
    page.click("#tune")
    page.select_option('#filters select[aria-label="colour"]', "blue")
    page.fill(least, "2")
    settle(page)
    use(page, names(page)[0])
    page.fill(most, "30")
    page.select_option('#filters select[aria-label="colour"]', "")
    page.fill(least, "7")
    settle(page)
    page.go_back()  # the field that was typed in keeps the focus
    page.wait_for_function("document.querySelectorAll('#pictures img').length === 0")
    settle(page)
    assert (page.input_value(least), page.input_value(most)) == ("2", "")
    assert page.input_value('#filters select[aria-label="colour"]') == "blue"
    page.go_forward()
    page.wait_for_selector("#pictures img")
    settle(page)
    assert (page.input_value(least), page.input_value(most)) == ("7", "30")
    page.focus(least)
    page.keyboard.press("End")
    page.keyboard.type("5")  # drawn again at each key, the field keeps what is typed
    settle(page)
    assert page.input_value(least) == "75"
    assert "price from 75" in page.inner_text("#title") or "price 75" in page.inner_text("#title")


def test_a_problem_is_seen_far_down_the_page_and_said_for_an_answer_of_a_proxy(
    page: Any, photos: Path
) -> None:
    page.route("**/api/v1/references", lambda route: route.fulfill(status=413, body=""))
    page.set_viewport_size({"width": 390, "height": 500})
    try:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.set_input_files("#file", files(photos)[0])
        page.wait_for_selector("#problem:not([hidden])")
        assert "too large" in page.inner_text("#problem")
        page.wait_for_function(
            "document.querySelector('#problem').getBoundingClientRect().top >= 0"
        )
    finally:
        page.unroute("**/api/v1/references")
        page.set_viewport_size({"width": 1280, "height": 900})


def test_strength_goes_from_the_picture_to_the_words_by_keyboard(page: Any) -> None:
    use(page, "red striped t shirt 01")
    assert page.is_disabled("#strength")  # without words it says nothing
    page.fill("#text", "as a dress")
    settle(page)
    as_trained = names(page)
    page.click("#tune")
    page.focus("#strength")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#strength-value').textContent === '0.0'")
    page.wait_for_function("location.hash.includes('strength=0')")
    page.wait_for_timeout(100)
    settle(page)
    assert "t shirt" in names(page)[0]
    assert "dress" in as_trained[0]


def test_a_search_needs_no_pointer(page: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("a handbag")
    page.wait_for_function("document.querySelector('#title').textContent.includes('a handbag')")
    settle(page)
    first = names(page)[0]
    page.focus(".card .picture")
    page.keyboard.press("Enter")
    page.wait_for_selector(f'#pictures img[alt="Reference: {first}"]')
    page.focus("#trail button")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#text').value === 'a handbag'")


def test_a_token_is_asked_for(page: Any, address: Callable[..., str]) -> None:
    other = page.context.browser.new_context(bypass_csp=True).new_page()
    other.goto(address(token=TOKEN))
    other.wait_for_selector("#login[open]")
    other.fill("#token", "wrong")
    other.click("#login .primary")
    other.wait_for_function("document.querySelector('#login-problem').textContent")
    other.fill("#token", TOKEN)
    other.click("#login .primary")
    other.wait_for_selector(".card")
    other.context.close()


def test_a_page_of_a_named_origin_asks_with_a_token_and_shows_pictures(
    page: Any, address: Callable[..., str]
) -> None:
    origin = page.home.rstrip("/")
    guarded = address(token=TOKEN, cors_origins=(origin,))
    ask = """async ([home, token]) => {
      const form = new FormData();
      form.append("text", "a red dress");
      const headers = { authorization: `Bearer ${token}` };
      const answer = await fetch(`${home}api/v1/search`, { method: "POST", body: form, headers });
      const body = await answer.json();
      return [answer.status, body.error?.kind ?? body.hits[0].id];
    }"""
    status, identifier = page.evaluate(ask, [guarded, TOKEN])
    assert status == 200
    assert page.evaluate(ask, [guarded, "wrong"]) == [401, "token"]
    show = """(url) => new Promise((done) => {
      const image = new Image();
      image.onload = () => done(true);
      image.onerror = () => done(false);
      image.src = url;
    })"""
    thumbnail = f"api/v1/items/{identifier}/thumbnail"
    assert page.evaluate(show, address(cors_origins=(origin,)) + thumbnail)
    assert not page.evaluate(show, address() + thumbnail)
