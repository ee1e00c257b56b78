"""The page of answers, and the command line of the benchmarks."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmark_data import run_cli, write_images
from click.testing import CliRunner
from PIL import Image
from test_eval_circo import query
from test_eval_circo import write_root as write_circo
from tiny_bundle import TinyModel, tiny_parts, write_tiny_bundle

from cli import eval_benchmarks, output
from cli.main import main
from ztcir_sdk.bundle import Bundle
from ztcir_sdk.encoder import Encoder
from ztcir_sdk.evaluation.benchmarks.benchmark import Benchmark, Outcome
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.images import BenchmarkImage, locate
from ztcir_sdk.evaluation.benchmarks.queries import Annotations, Part, Query
from ztcir_sdk.evaluation.benchmarks.registry import BENCHMARKS, load_benchmark
from ztcir_sdk.evaluation.benchmarks.report import Answer, AnswerHit, RankedPart, spread_evenly
from ztcir_sdk.evaluation.ranking import rank_blocks
from ztcir_sdk.pages.benchmark_page import benchmark_page


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIRCO with three queries."""
    queries = [
        query(0, 1, [2, 3], "negation", caption='with <b>bold</b> & "quoted" words'),
        query(1, 4, [5], "addition"),
        query(2, 6, [7], "negation", "addition"),
    ]
    return write_circo(tmp_path_factory.mktemp("circo") / "root", queries, range(1, 40))


def sections(page: str) -> list[str]:
    return re.findall(r"<section.*?</section>", page, re.DOTALL)


def test_a_page_shows_queries_with_their_hits(root: Path, bundle: Path, tmp_path: Path) -> None:
    page_file = tmp_path / "page.html"
    result = run_cli("circo", root, bundle, tmp_path, "--json", "--html", page_file)
    page = page_file.read_text()
    assert f"wrote {page_file}" in result.stderr
    assert len(sections(page)) == 3
    for section in sections(page):
        assert section.count("data:image/jpeg;base64,") == 1 + 10
        assert section.count('<li class="right">') + section.count('<li class="wrong">') in (9, 10)
    # self-contained, and texts from the annotations are escaped
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<b>bold" not in page
    assert html.escape("<b>bold</b> &") in page
    values = json.loads(result.stdout)
    assert values["methods"]["composed"]["all"]


def test_sections_can_be_sorted_and_filtered_by_category(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    page_file = tmp_path / "page.html"
    run_cli("circo", root, bundle, tmp_path, "--html", page_file)
    page = page_file.read_text()
    first = [re.search(r'data-category="(\w+)"', one)[1] for one in sections(page)]  # type: ignore[index]
    assert first == sorted(first) == ["addition", "negation", "negation"]
    both = [html.unescape(re.search(r'data-categories="(.*?)"', one)[1])  # type: ignore[index]
            for one in sections(page)]  # fmt: skip
    assert [json.loads(one) for one in both] == [
        ["addition"],
        ["negation"],
        ["negation", "addition"],
    ]
    assert "<option>addition</option><option>negation</option>" in page
    assert 'value="category"' in page
    assert 'value="rank"' in page


def test_the_content_policy_allows_the_pages_own_script(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    page_file = tmp_path / "page.html"
    run_cli("circo", root, bundle, tmp_path, "--html", page_file)
    page = page_file.read_text()
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_frames_and_words_show_the_verdict(tmp_path: Path) -> None:
    write_images(tmp_path, "abc")
    images = [BenchmarkImage(one, tmp_path / f"{one}.png") for one in "abc"]
    gone = BenchmarkImage("gone", tmp_path / "gone.png")
    hits = (
        AnswerHit(images[0], 0.9, "reference"),
        AnswerHit(images[1], 0.8, "wrong"),
        AnswerHit(images[2], 0.7, "right"),
        AnswerHit(gone, 0.6, "unknown"),
    )
    [section] = sections(benchmark_page("t", "s", [Answer("7", ("x",), "text", images[0], hits)]))
    assert re.findall(r'<li class="(\w+)">', section) == ["reference", "wrong", "right", "unknown"]
    assert [word in section for word in ("✓ right", "✗ wrong", "the reference")] == [True] * 3
    assert 'data-rank="3"' in section
    assert "not found" in section
    nothing = benchmark_page("t", "s", [Answer("7", ("x",), "text", images[0], hits[:2])])
    assert 'data-rank="1000000"' in nothing


def test_the_page_of_mapped_shows_its_prompt(root: Path, bundle: Path, tmp_path: Path) -> None:
    page_file = tmp_path / "page.html"
    run_cli("circo", root, bundle, tmp_path, "--method", "mapped", "--html", page_file)
    page = page_file.read_text()
    assert page.count("<h2>a photo of $</h2>") == 3
    assert "method mapped, &quot;a photo of $&quot;" in page
    assert '<li class="reference">' not in page  # "mapped" searches for it


def test_the_number_of_queries_on_a_page_is_an_option(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    page_file = tmp_path / "page.html"
    run_cli("circo", root, bundle, tmp_path, "--html", page_file, "--html-queries", 2)
    assert len(sections(page_file.read_text())) == 2
    assert spread_evenly(1000, 5) == [0, 250, 500, 749, 999]
    assert spread_evenly(3, 60) == [0, 1, 2]
    assert spread_evenly(3, 0) == []


# the command line


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_registered_benchmark_has_a_command(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    shown = " ".join(CliRunner().invoke(main, ["eval", name, "--help"]).stdout.split())
    assert BENCHMARKS[name] in shown
    assert " ".join(benchmark.help.split()) in shown
    assert benchmark.split_help in shown
    assert f"ztcir eval {name} --root {benchmark.title}" in shown
    assert ("--output" in shown) == ("test" in benchmark.splits)


def test_a_module_and_a_line_make_a_benchmark(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, tmp_path: Path
) -> None:
    def read(root: Path, split: str) -> Annotations[Query]:
        gallery = list(locate(root, "abc").values())
        return Annotations(
            {split: Part([Query(gallery[0], "red", "1", (gallery[0],))], gallery)}, gallery
        )

    def score(run: EmbeddingRun, annotations: Annotations[Query], method: Method) -> Outcome:
        [part] = annotations.parts.values()
        ranking = rank_blocks(run.encode(part.queries, method), run.blocks(part.gallery), 3)
        return Outcome([RankedPart(part, ranking)], {("all",): part.recalls(ranking, [1, 3])})

    module = ModuleType("fifth")
    fifth = Benchmark("fifth", "Fifth", "A test.", "Nothing to download.", read, score)
    monkeypatch.setattr(module, "BENCHMARK", fifth, raising=False)
    monkeypatch.setitem(sys.modules, "ztcir_sdk.evaluation.benchmarks.fifth", module)
    monkeypatch.setitem(BENCHMARKS, "fifth", "Measure R@1 and R@3.")

    write_images(tmp_path, "abc")
    result = run_cli("fifth", tmp_path, bundle, tmp_path / "cache", "--method", "image", "--json")
    assert json.loads(result.stdout)["methods"] == {"image": {"all": {"R@1": 1, "R@3": 1}}}
    assert "Measure R@1 and R@3." in CliRunner().invoke(main, ["eval", "--help"]).stdout


def test_the_list_of_commands_imports_no_benchmark() -> None:
    code = (
        "import sys; from cli.main import main; main(['eval', '--help'], standalone_mode=False); "
        "assert not any('.benchmarks.' in one and 'registry' not in one for one in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, summary in BENCHMARKS.items():
        assert f"{name} {summary}" in " ".join(done.stdout.split())


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_download_help_needs_no_other_option(benchmark: str) -> None:
    result = CliRunner().invoke(main, ["eval", benchmark, "--download-help"])
    assert result.exit_code == 0
    assert "https://" in result.stdout
    assert "--root" in result.stdout
    missing = CliRunner().invoke(main, ["eval", benchmark])
    assert missing.exit_code == 2
    assert "--root" in missing.stderr


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_missing_root_is_one_sentence(benchmark: str, bundle: Path, tmp_path: Path) -> None:
    result = run_cli(benchmark, tmp_path / "nowhere", bundle, tmp_path, exit_code=1)
    assert result.stdout == ""
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert "--download-help" in line


def test_json_names_bundle_split_and_machine(root: Path, bundle: Path, tmp_path: Path) -> None:
    result = run_cli("circo", root, bundle, tmp_path, "--json", "--method", "all")
    values = json.loads(result.stdout)
    loaded = Bundle.load(bundle)
    assert list(values["methods"]) == list(loaded.manifest.methods)
    assert values["bundle"]["fingerprint"] == loaded.fingerprint
    assert (values["benchmark"], values["split"]) == ("circo", "val")
    assert (values["queries"], values["gallery"]) == (3, 39)
    assert {"date", "machine", "versions"} <= set(values)


def test_missing_images_are_listed_one_on_a_line(root: Path, bundle: Path, tmp_path: Path) -> None:
    broken = write_circo(tmp_path / "root", [query(0, 1, [2], "negation")], range(1, 10))
    images = broken / "COCO2017_unlabeled" / "unlabeled2017"
    for one in (3, 4):
        (images / f"{one:012d}.jpg").unlink()
    result = run_cli("circo", broken, bundle, tmp_path, exit_code=1)
    lines = result.stderr.strip().splitlines()
    assert lines[:2] == [f"missing: {images / f'{one:012d}.jpg'}" for one in (3, 4)]
    assert lines[-1].startswith("Error: 2 of 9 images are missing")


def test_a_single_unusable_image_is_named_once(root: Path, bundle: Path, tmp_path: Path) -> None:
    broken = write_circo(tmp_path / "root", [query(0, 1, [2], "negation")], range(1, 10))
    file = broken / "COCO2017_unlabeled" / "unlabeled2017" / f"{3:012d}.jpg"
    file.write_bytes(b"")
    [line] = run_cli("circo", broken, bundle, tmp_path, exit_code=1).stderr.strip().splitlines()
    assert line.startswith("Error: 1 of 9 images are broken, so nothing is measured")
    file.unlink()
    [line] = run_cli("circo", broken, bundle, tmp_path, exit_code=1).stderr.strip().splitlines()
    assert line.startswith("Error: 1 of 9 images are missing")


def test_a_long_list_of_unusable_images_is_cut_and_counted(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_benchmarks, "LISTED", 2)
    root = write_circo(tmp_path / "root", [query(0, 1, [2], "negation")], range(1, 10))
    for file in sorted((root / "COCO2017_unlabeled" / "unlabeled2017").iterdir())[:5]:
        file.unlink()
    lines = run_cli("circo", root, bundle, tmp_path, exit_code=1).stderr.strip().splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["missing"] * 2
    assert lines[2] == "and 3 more"
    assert len(lines) == 4


def test_a_log_gets_a_line_of_progress_now_and_then(
    root: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = run_cli("circo", root, bundle, tmp_path / "quiet")
    assert quiet.stderr == ""  # it took less than a minute
    monkeypatch.setattr(output, "LOG_SECONDS", 0.0)
    lines = run_cli("circo", root, bundle, tmp_path / "log").stderr.splitlines()
    assert "Checking images: 39 of 39" in lines
    assert "Encoding images: 39 of 39" in lines
    assert "Encoding queries: composed: 3 of 3" in lines


def image_only(folder: Path) -> Path:
    """A bundle without a text graph."""
    parts = tiny_parts(TinyModel())
    kept = "image_encoder"
    changes: dict[str, Any] = {
        "graphs": {kept: parts["graphs"][kept]},
        "files": {file: data for file, data in parts["files"].items()
                  if "learner" not in file and "text" not in file},
        "methods": ("image",),
        "prompts": {},
    }  # fmt: skip
    return Bundle.write(folder, **{**parts, **changes}).path


def test_a_bundle_without_a_text_graph(root: Path, tmp_path: Path) -> None:
    bundle = image_only(tmp_path / "image-only")
    result = run_cli("circo", root, bundle, tmp_path, exit_code=1)
    assert "cannot answer 'composed': choose from image" in result.stderr
    alone = run_cli("circo", root, bundle, tmp_path, "--method", "image", "--json")
    every = run_cli("circo", root, bundle, tmp_path, "--method", "all", "--json")
    assert json.loads(alone.stdout)["methods"] == json.loads(every.stdout)["methods"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "image", "--weight", "0.3"], "--weight needs --method sum"),
        (["--method", "sum", "--prompt", "$ {text}"], "--prompt needs --method composed"),
        (["--method", "sum", "--weight", "3"], "from 0 to 1"),
        (["--prompt", "a photo"], "needs a $"),
        (["--method", "best"], "best"),
        (["--split", "train"], "train"),
    ],
)
def test_a_wrong_call_is_refused(
    root: Path, bundle: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = run_cli("circo", root, bundle, tmp_path, *options, exit_code=2)
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "file/page.html"], "cannot be written"),
        (["--html", "absent/page.html"], "cannot be written"),
        (["--split", "test", "--out", "file/below"], "cannot be created"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_encoded(
    root: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    result = run_cli("circo", root, bundle, tmp_path / "cache", *options, exit_code=1)
    assert message in result.stderr
    assert not (tmp_path / "cache").exists()


def test_the_weight_mixes_text_and_image(root: Path, bundle: Path, tmp_path: Path) -> None:
    def scores(*options: object) -> Any:
        result = run_cli("circo", root, bundle, tmp_path, "--json", *options)
        return json.loads(result.stdout)["methods"]

    text, image = scores("--method", "text")["text"], scores("--method", "image")["image"]
    assert scores("--method", "sum", "--weight", 1)["sum"] == text
    assert scores("--method", "sum", "--weight", 0)["sum"] == image


def test_the_weight_is_in_the_json_and_on_the_page(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"

    def weight(*options: object) -> Any:
        return json.loads(run_cli("circo", root, bundle, tmp_path, "--json", *options).stdout)[
            "weight"
        ]

    assert weight("--method", "sum", "--html", page) == 0.5
    assert "method sum, weight 0.5: " in page.read_text()
    assert weight("--method", "all", "--weight", 0.3) == 0.3
    assert weight("--method", "image") is None


def test_another_bundle_of_the_same_image_tower_reuses_its_images(
    root: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a training of the adapters, only queries are encoded again."""
    run_cli("circo", root, bundle, tmp_path / "cache", "--method", "text")
    parts = tiny_parts(TinyModel())
    card = {"backbone": "tiny", "limits": ["other"]}
    other = Bundle.write(tmp_path / "other", **{**parts, "model_card": card})
    monkeypatch.setattr(
        Encoder, "encode_images", lambda self, images: pytest.fail("images are encoded again")
    )
    texts: list[int] = []
    encode = Encoder.encode_queries

    def counted(self: Encoder, questions: Any, *rest: Any) -> Any:
        texts.append(questions.count)
        return encode(self, questions, *rest)

    monkeypatch.setattr(Encoder, "encode_queries", counted)
    run_cli("circo", root, other.path, tmp_path / "cache", "--method", "text")
    assert sum(texts) == 2  # two of the three captions are the same


def test_images_of_any_shape_become_thumbnails(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (900, 300), (9, 99, 199)).save(path)
    image = BenchmarkImage("large", path)
    page = benchmark_page("t", "s", [Answer("1", ("x",), "", image, ())])
    [data] = re.findall(r"base64,([^\"]+)", page)
    thumbnail = Image.open(io.BytesIO(base64.b64decode(data)))
    assert thumbnail.size == (144, 48)
