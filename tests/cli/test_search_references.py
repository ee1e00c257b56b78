"""What `ztcir search` takes as a reference, refuses before it works, and prints of odd names."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from places import ROOT
from tiny_bundle import write_tiny_bundle

from cli.main import main

NAMES = (
    "Screenshot 2026-11-28 at 10.15.00\u202fAM.png",  # macOS
    "no\u00a0break.png",
    "全角\u3000空白.png",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "soft\u00adhyphen.png",
    "Ünïcödé ελληνικά кириллица.png",
    "a'b\"c $HOME; rm.png",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder with a bundle, photos of odd names, and their index."""
    folder = tmp_path_factory.mktemp("place")
    write_tiny_bundle(folder / "tiny")
    (folder / "photos").mkdir()
    for number, name in enumerate(NAMES):
        colour = (40 * number % 256, 255 - 30 * number, 90)
        Image.new("RGB", (40, 30), colour).save(folder / "photos" / name)
    Image.new("RGB", (40, 30), "red").save(folder / "ref.png")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run("index", "photos").exit_code == 0
        yield folder
    finally:
        os.chdir(before)


def run(command: str, *arguments: str, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [command, *arguments, "--bundle", "tiny"], input=input)


def test_a_reference_comes_from_standard_input(place: Path) -> None:
    piped = run("search", "-", "red", "--json", input=(place / "ref.png").read_bytes())
    assert piped.exit_code == 0, piped.stderr
    by_path = run("search", "ref.png", "red", "--json")
    assert json.loads(piped.stdout)["hits"] == json.loads(by_path.stdout)["hits"]


def test_a_file_address_is_a_path(place: Path) -> None:
    by_address = run("search", (place / "ref.png").as_uri(), "red", "--json")
    by_path = run("search", "ref.png", "red", "--json")
    assert json.loads(by_address.stdout)["hits"] == json.loads(by_path.stdout)["hits"]
    elsewhere = run("search", "file://server/ref.png", "red")
    assert (elsewhere.exit_code, elsewhere.stdout) == (2, "")
    assert "is on another machine" in elsewhere.stderr


@pytest.fixture
def server(place: Path) -> Iterator[str]:
    data = (place / "ref.png").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/gone.png":
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            if self.path == "/ref.png":
                self.wfile.write(data)
            elif self.path == "/large.png":
                self.wfile.write(b"x" * 5000)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_address[1]}"
        one.shutdown()
        thread.join()


def test_a_web_address_is_only_fetched_where_it_is_allowed(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("search", f"{server}/ref.png", "red")
    assert refused.exit_code == 2
    assert "add --allow-url" in refused.stderr
    fetched = run("search", f"{server}/ref.png", "red", "--json", "--allow-url")
    by_path = run("search", "ref.png", "red", "--json")
    assert json.loads(fetched.stdout)["hits"] == json.loads(by_path.stdout)["hits"]
    gone = run("search", f"{server}/gone.png", "red", "--allow-url")
    assert (gone.exit_code, "HTTP 404" in gone.stderr) == (1, True)
    monkeypatch.setattr("ztcir_sdk.decoding.reference_source.MAX_BYTES", 1000)
    large = run("search", f"{server}/large.png", "red", "--allow-url")
    assert large.exit_code == 1
    assert "use a smaller image" in large.stderr


def test_a_server_that_is_down_is_a_sentence(place: Path) -> None:
    result = run("search", "http://127.0.0.1:9/ref.png", "red", "--allow-url")
    assert result.exit_code == 1
    assert "cannot be downloaded" in result.stderr


def test_images_and_text_may_come_in_any_order(place: Path) -> None:
    swapped = run("search", "make it red", "ref.png", "--json")
    assert swapped.exit_code == 0, swapped.stderr
    usual = run("search", "ref.png", "make", "it", "red", "--json")  # not quoted: one text
    assert json.loads(swapped.stdout) == json.loads(usual.stdout)
    both = json.loads(run("search", "ref.png", f"photos/{NAMES[1]}", "--json").stdout)
    assert both["images"] == ["ref.png", f"photos/{NAMES[1]}"]
    assert both["texts"] == []


def names(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return [Path(hit["path"]).name for hit in json.loads(result.stdout)["hits"]]


def test_words_alone_and_an_image_alone_are_queries(place: Path) -> None:
    words = run("search", "a red dress", "--json", "-k", "20")
    assert len(names(words)) == len(NAMES)
    assert json.loads(words.stdout)["reference"] is None
    alone = names(run("search", "ref.png", "--json"))
    assert alone == names(run("search", "ref.png", "--method", "image", "--json"))
    pages = run("search", "a red dress", "--html", "words.html", "--grid", "words.png")
    assert pages.exit_code == 0, pages.stderr
    assert "a red dress" in (place / "words.html").read_text(encoding="utf-8")


def test_weights_and_unwanted_things_change_the_answer(place: Path) -> None:
    both = ("search", "ref.png", f"photos/{NAMES[2]}", "in red", "--json")
    first = run(*both, "--weights", "9,1,1")
    second = run(*both, "--weights", "1,9,1")
    assert names(first) != names(second)
    assert len(names(run(*both, "--unlike", f"photos/{NAMES[3]}"))) == len(NAMES) - 2
    without = run("search", "ref.png", "in red", "--not", "stripes", "--json")
    assert json.loads(without.stdout)["not"] == ["stripes"]
    plain = run("search", "ref.png", "in red", "--json")
    assert json.loads(without.stdout)["hits"] != json.loads(plain.stdout)["hits"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "query is empty"),
        (["--not", "red"], "query is empty"),
        (["ref.png", "red", "--weights", "1"], "2 in all"),
        (["ref.png", "--weights", "x"], "1 in all"),
        (["ref.png", "--weights", "-1"], "must be above 0"),
        (["missing.png", "red"], "missing.png does not exist"),
        (["red/blue"], "write --image 'red/blue'"),
        (["red", "--batch", "queries.csv"], "give no other query"),
        (["--weights", "1", "--batch", "queries.csv"], "give no other query"),
        (["--open", "--batch", "queries.csv"], "give no other query"),
    ],
)
def test_a_wrong_query_is_a_sentence(place: Path, arguments: list[str], sentence: str) -> None:
    result = run("search", *arguments)
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr
    assert result.stdout == ""


def test_a_batch_prints_a_line_for_each_query(place: Path) -> None:
    (place / "queries.csv").write_text(
        "id,image,text,not\na,ref.png,in red,\nb,,a shirt,red\nc,missing.png,in red,\nd,,,\n"
    )
    result = run("search", "--batch", "queries.csv", "-k", "3")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    assert (
        lines[0]["hits"]
        == json.loads(run("search", "ref.png", "in red", "-k", "3", "--json").stdout)["hits"]
    )
    assert len(lines[1]["hits"]) == 3
    assert "missing.png does not exist" in lines[2]["error"]
    assert "query is empty" in lines[3]["error"]
    assert result.exit_code == 1
    assert "2 of 4 queries failed" in result.stderr
    (place / "good.jsonl").write_text('{"image": ["ref.png", 2], "text": "in red"}\n')
    assert run("search", "--batch", "good.jsonl").exit_code == 1  # 2 is no image
    (place / "good.jsonl").write_text('{"image": [["ref.png", 2]], "text": "in red"}\n')
    good = run("search", "--batch", "good.jsonl", "-k", "3")
    assert good.exit_code == 0, good.stderr
    assert json.loads(good.stdout)["hits"] == lines[0]["hits"]
    # an address, as in an argument
    address = (place / "ref.png").as_uri()
    (place / "addresses.csv").write_text(
        f"image,text\n{address},in red\nhttp://localhost:1/x.png,in red\n"
    )
    result = run("search", "--batch", "addresses.csv", "-k", "3")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["hits"] == lines[0]["hits"]
    assert "--allow-url" in second["error"]


def test_a_sheet_that_its_format_cannot_hold_is_refused_before_the_search(place: Path) -> None:
    result = run("search", "missing.png", "red", "-k", "2000", "--grid", "sheet.webp")
    assert result.exit_code == 2
    assert "16383 pixels" in result.stderr
    assert "missing.png" not in result.stderr


def test_names_are_printed_as_they_are(place: Path) -> None:
    lines = run("search", "ref.png", "red", "-k", "20").stdout.splitlines()
    assert len(lines) == len(NAMES)
    for line in lines:
        assert (place / line.split("\t")[2]).is_file(), line


def test_print0_separates_paths_by_nul(place: Path) -> None:
    result = run("search", "ref.png", "red", "-k", "20", "-0")
    paths = result.stdout_bytes.split(b"\0")
    assert paths.pop() == b""
    assert {Path(os.fsdecode(path)).name for path in paths} == set(NAMES)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 exist on Linux")
def test_a_root_whose_name_is_not_utf8_works_in_every_output(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"f\xff\xfe")
    root.mkdir()
    write_tiny_bundle(tmp_path / "tiny")
    for number in range(3):
        Image.new("RGB", (30, 30), (80 * number, 0, 0)).save(root / f"{number}.png")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "LC_ALL": "C.UTF-8"}

    def ztcir(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "cli", *arguments, "--bundle", "tiny"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    ztcir("index", str(root), "--to", "x.ztcir")
    reference = str(root / "0.png")
    search = ("search", reference, "red", "--index", "x.ztcir")
    assert b"\\udcff\\udcfe" in ztcir(*search).stdout
    hits = json.loads(ztcir(*search, "--json").stdout)["hits"]
    assert all(Path(hit["path"]).is_file() for hit in hits)
    assert all(
        Path(os.fsdecode(one)).is_file() for one in ztcir(*search, "-0").stdout[:-1].split(b"\0")
    )
    ztcir(*search, "--html", "hits.html", "--grid", "hits.png")
    assert (tmp_path / "hits.html").stat().st_size > 1000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove a current folder")
def test_a_current_folder_that_was_deleted_is_a_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        f"import os; os.chdir({os.fspath(gone)!r}); os.rmdir({os.fspath(gone)!r})\n"
        "from cli.main import main; main(['search', 'a.jpg', 'red'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("for example with `cd`.")
    assert "Traceback" not in done.stderr


def test_the_page_links_files_and_shows_metadata(place: Path) -> None:
    (place / "shop").mkdir(exist_ok=True)
    import tarfile

    stream = io.BytesIO()
    Image.new("RGB", (30, 30), "blue").save(stream, "PNG")
    with tarfile.open(place / "shop" / "a.tar", "w") as archive:
        for name, data in (("one.png", stream.getvalue()), ("one.json", b'{"price": "<5>"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    indexed = run("index", "shop/a.tar", "--to", "shop.ztcir")
    assert indexed.exit_code == 0, indexed.stderr
    result = run("search", "ref.png", "red", "--index", "shop.ztcir", "--html", "shop.html")
    assert result.exit_code == 0, result.stderr
    page = (place / "shop.html").read_text(encoding="utf-8")
    assert "<dt>price</dt><dd>&lt;5&gt;</dd>" in page
    assert f'href="{(place / "shop" / "a.tar").as_uri()}"' in page
    assert 'href="#hit-1"' in page


def test_a_server_that_refuses_is_named_without_a_number(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x.jpg"
    done = run("search", address, "red", "--allow-url", "--index", "photos.ztcir")
    assert done.exit_code == 1, done.stderr
    assert "cannot be downloaded (Connection refused)" in done.stderr
    assert "Errno" not in done.stderr


def test_damaged_data_are_named_without_a_number_of_the_decoder(place: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "TIFF", compression="tiff_lzw")
    data = bytearray(stream.getvalue())
    data[300:2000] = bytes(1700)
    done = run("search", "-", "red", "--index", "photos.ztcir", input=bytes(data))
    assert done.exit_code == 1, done.stderr
    assert "is damaged or cut short" in done.stderr
    assert "decoder error" not in done.stderr
