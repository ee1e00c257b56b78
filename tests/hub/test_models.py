"""Models by name, against a local stand-in of the hub."""

from __future__ import annotations

import base64
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_bundle import TinyModel, write_tiny_bundle

from cli.main import main
from ztcir_sdk import Bundle, Retriever, UsageError, ZtcirError
from ztcir_sdk.bundle import Manifest
from ztcir_sdk.errors import BundleError
from ztcir_sdk.hub import HubName, list_models, load_model, pull_model, push_model, remove_model
from ztcir_sdk.hub.card import hub_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"


LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "other", "unknown"}
PIPELINES = {"image-feature-extraction", "zero-shot-image-classification", "image-to-image"}


def wrong_card(content: str) -> list[str]:
    """Return what the hub would refuse in a card's metadata."""
    import yaml

    if not content.startswith("---\n"):
        return []
    head = yaml.safe_load(content.split("---\n")[1])
    wrong = [] if head["license"] in LICENCES else ["license"]
    wrong += [] if head["pipeline_tag"] in PIPELINES else ["pipeline_tag"]
    wrong += [] if all(isinstance(tag, str) for tag in head["tags"]) else ["tags"]
    name = head.get("license_name")
    if (head["license"] == "other") != (name is not None and name == name.lower()):
        wrong.append("license_name")
    return wrong


class Hub:
    """A hub with the files of some repositories; it counts what is asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}  # "org/repo/file" -> content
        self.asked: list[str] = []
        self.commits: list[dict[str, bytes]] = []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            headers.setdefault("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_GET(self) -> None:
            state.asked.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            if len(parts) > 4 and parts[2] == "resolve":
                name = "/".join([*parts[:2], *parts[4:]])
                if name in state.files:
                    data = state.files[name]
                    etag = f'"{hash(data)}"'
                    self.answer(data, ETag=etag, X_Repo_Commit=COMMIT)
                    return
            self.answer(b"{}", 404, X_Error_Code="EntryNotFound")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append(self.path)
            kind = "application/json"
            if self.path.endswith("/validate-yaml"):
                errors = [{"message": one} for one in wrong_card(json.loads(body)["content"])]
                found = {"errors": errors, "warnings": []}
                self.answer(json.dumps(found).encode(), 400 if errors else 200, Content_Type=kind)
            elif self.path.endswith("/repos/create"):
                made = {"url": "https://huggingface.co/org/new", "name": "org/new", "id": "org/new"}
                self.answer(json.dumps(made).encode(), Content_Type=kind)
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in files
                ]
                self.answer(json.dumps({"files": modes}).encode(), Content_Type=kind)
            elif "/commit/" in self.path:
                added: dict[str, bytes] = {}
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        value = entry["value"]
                        added[value["path"]] = base64.b64decode(value["content"])
                state.commits.append(added)
                committed = {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"https://huggingface.co/org/new/commit/{COMMIT}",
                }
                self.answer(json.dumps(committed).encode(), Content_Type=kind)
            else:
                self.answer(b"{}", 404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("ZTCIR_MODELS", str(tmp_path / "models"))
        monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_nobody")
        monkeypatch.delenv("ZTCIR_OFFLINE", raising=False)
        yield state
        server.shutdown()
        thread.join()


def offer(hub: Hub, bundle: Bundle, name: str = "org/repo") -> None:
    for file in bundle.path.rglob("*"):
        if file.is_file():
            hub.files[f"{name}/{file.relative_to(bundle.path).as_posix()}"] = file.read_bytes()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "tiny", TinyModel())


def test_a_model_of_the_hub_is_downloaded_once(hub: Hub, bundle: Bundle) -> None:
    offer(hub, bundle)
    hub.files["org/repo/evil.py"] = b"not listed in the manifest"
    retriever = Retriever.from_pretrained("hf://org/repo", threads=1)
    assert retriever.bundle.fingerprint == bundle.fingerprint
    assert not [path for path in hub.asked if "evil" in path]
    before = len(hub.asked)
    for name in bundle.manifest.files:
        asked = [path for path in hub.asked if path.endswith(f"/{name}")]
        assert len(asked) == 2  # its size, then itself
    assert load_model("hf://org/repo@main").path == retriever.bundle.path
    assert len(hub.asked) == before  # on this machine already
    assert [entry.name for entry in list_models()][1:] == ["hf://org/repo@main"]
    names = {path.name for path in retriever.bundle.path.iterdir()}
    assert not {".cache", "evil.py"} & names


def test_what_is_downloaded_is_checked(hub: Hub, bundle: Bundle) -> None:
    offer(hub, bundle)
    hub.files["org/repo/text_encoder.onnx"] = b"x" * len(hub.files["org/repo/text_encoder.onnx"])
    with pytest.raises(BundleError, match="text_encoder"):
        load_model("hf://org/repo")
    assert len(list_models()) == 1  # nothing was kept
    hub.files["org/repo/bundle.json"] = b"{}"
    with pytest.raises(BundleError):
        load_model("hf://org/repo")


def test_an_update_that_fails_keeps_what_was_there(
    hub: Hub, bundle: Bundle, tmp_path: Path
) -> None:
    offer(hub, bundle)
    first = pull_model("hf://org/repo")
    other = write_tiny_bundle(tmp_path / "other", TinyModel(seed=1))
    offer(hub, other)
    del hub.files["org/repo/token_learner.onnx"]
    with pytest.raises(ZtcirError, match=r"token_learner\.onnx of hf://org/repo@main"):
        pull_model("hf://org/repo")
    assert load_model("hf://org/repo").fingerprint == first.fingerprint
    offer(hub, other)
    assert pull_model("hf://org/repo").fingerprint == other.fingerprint


def test_nothing_is_downloaded_offline(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(hub, bundle)
    monkeypatch.setenv("ZTCIR_OFFLINE", "1")
    with pytest.raises(ZtcirError, match="ZTCIR_OFFLINE is set"):
        load_model("hf://org/repo")
    assert hub.asked == []
    monkeypatch.setenv("ZTCIR_OFFLINE", "0")
    pull_model("hf://org/repo")
    monkeypatch.setenv("ZTCIR_OFFLINE", "1")
    assert load_model("hf://org/repo").fingerprint == bundle.fingerprint


def test_a_hub_that_does_not_answer_is_a_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZtcirError, match=r"bundle.json of hf://org/none@main .*does not exist"):
        load_model("hf://org/none")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ZtcirError, match="check the network"):
        load_model("hf://org/none")


@pytest.mark.parametrize(
    "name",
    ["hf://org", "hf://", "hf://org/../x", "hf://o/r@", "hf://o/r@..", "hf://a--b/c", "hf:///x"],
)
def test_a_malformed_name_is_a_sentence(name: str) -> None:
    with pytest.raises(UsageError, match="not a model of the hub"):
        load_model(name)


def test_a_name_that_is_nothing_lists_what_there_is(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="choose from fashion-lite"):
        load_model("no-such-model")
    assert load_model(bundle.path).fingerprint == bundle.fingerprint
    assert load_model(str(bundle.path)).fingerprint == bundle.fingerprint
    assert str(HubName.parse("hf://o/r@v1/x")) == "hf://o/r@v1/x"


def test_a_bundle_is_pushed_with_its_card(hub: Hub, bundle: Bundle) -> None:
    assert push_model(bundle, "hf://org/new").endswith(COMMIT)
    [added] = hub.commits
    assert set(added) == {"README.md", "bundle.json", *bundle.manifest.files}
    assert added["bundle.json"] == (bundle.path / "bundle.json").read_bytes()
    for file, data in added.items():
        hub.files[f"org/new/{file}"] = data
    assert pull_model("hf://org/new").fingerprint == bundle.fingerprint


def test_a_card_that_the_author_changed_is_pushed(hub: Hub, bundle: Bundle) -> None:
    (bundle.path / "README.md").write_text("# Mine\n\nfrom_pretrained('hf://ORG/REPO')\n")
    push_model(bundle, "hf://org/new@v1")
    card = hub.commits[0]["README.md"].decode()
    assert card == "# Mine\n\nfrom_pretrained('hf://org/new@v1')\n"


@pytest.mark.parametrize("card", [{}, {"data": [{"licence": "MIT"}]}, None])
def test_the_hub_takes_the_card(
    hub: Hub, card: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import ModelCard, constants

    monkeypatch.setattr(constants, "ENDPOINT", os.environ["HF_ENDPOINT"])

    manifest = Bundle.embedded(verify=False).manifest
    if card is not None:
        manifest = Manifest.from_dict({**manifest.to_dict(), "model_card": card})
    text = hub_card(manifest, "hf://org/new")
    read = ModelCard(text, ignore_metadata_errors=False)
    read.validate()  # the stand-in refuses what the hub would
    data: Any = read.data
    assert data.library_name == "ztcir"
    assert data.pipeline_tag == "image-feature-extraction"
    assert "composed-image-retrieval" in data.tags
    assert data.license == ("other" if card is None else "mit" if card else "unknown")
    assert 'from_pretrained("hf://org/new")' in read.text
    if card is None:
        assert "| `composed` | 0." in read.text


def test_the_card_says_data_weights_and_limits() -> None:
    manifest = Bundle.embedded(verify=False).manifest
    card = hub_card(manifest)
    assert card.startswith("---\nlibrary_name: ztcir\n")
    for part in ("## Data", "## Weights", "## Limits", "Fashion Product Images", "MIT"):
        assert part in card


def test_the_card_shows_what_int8_was_measured_at() -> None:
    manifest = Bundle.embedded(verify=False).manifest
    check = manifest.precisions["int8"].check
    assert check is not None
    assert check == manifest.model_card["int8"]
    card = hub_card(manifest)
    assert (
        "## Precision int8\n\nCompared with fp32 on 400 pictures, 200 queries:\n\n| figure |"
        in card
    )
    for name, value in check["top10_overlap"].items():
        assert f"| top10 overlap | {name} | {value:.3g} |" in card
    for name, value in check["mAP@10"].items():
        assert f"| mAP@10 | {name} | {value:.3g} |" in card
    assert "| times as fast | text_encoder | 1.42 |" in card
    assert "`image_encoder` stays in fp32 (int8-static-8" in card


def test_the_card_shows_a_check_of_another_form_as_it_is() -> None:
    values = Bundle.embedded(verify=False).manifest.to_dict()
    values["precisions"]["int8"]["check"] = {"top10_overlap": 0.96}
    assert '```json\n{\n "top10_overlap": 0.96\n}\n```' in hub_card(Manifest.from_dict(values))


def test_the_card_shows_what_an_adaptation_gained_as_a_table() -> None:
    scores = {"R@1": 0.25, "R@10": 0.5, "mAP@10": 0.125}
    quality = {
        "what": "held-out photos",
        "queries": 900,
        "gallery": 120,
        "methods": {"sum": scores, "composed": {**scores, "mAP@10": 0.25}},
        "sum_weight": 0.6,
        "best_plain": "sum",
        "gain": 0.125,
        "standard_error": 0.01,
        "triplets": {"tag-colours": 300},
    }
    card = {"quality": quality, "adapted_from": {"bundle": "fashion-lite", "image_tower": "x"}}
    manifest = Bundle.embedded(verify=False).manifest
    text = hub_card(Manifest.from_dict({**manifest.to_dict(), "model_card": card}))
    assert "from the backbone of the bundle `fashion-lite`" in text
    assert "## Quality\n\nMeasured with 900 queries on 120 images (held-out photos)." in text
    assert "weight of the text that is best here: 0.6." in text
    assert "mAP@10 of `composed` is +0.125 ± 0.010 (standard error) beside `sum`" in text
    table = (
        "| method | R@1 | R@10 | mAP@10 |\n| --- | ---: | ---: | ---: |\n"
        "| `sum` | 0.250 | 0.500 | 0.125 |\n| `composed` | 0.250 | 0.500 | 0.250 |\n"
    )
    assert "\n\n" + table in text
    assert "```json" not in text


@pytest.mark.parametrize("quality", [0.4, {"mAP@10": 0.4}, {"methods": {"sum": {"R@2": 1}}}])
def test_the_card_shows_quality_of_another_form_as_it_is(quality: object) -> None:
    manifest = Bundle.embedded(verify=False).manifest
    card = {"quality": quality}
    text = hub_card(Manifest.from_dict({**manifest.to_dict(), "model_card": card}))
    assert f"```json\n{json.dumps(quality, indent=1)}\n```" in text


def test_commands_take_a_bundle_by_its_name(
    hub: Hub, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(hub, bundle)
    monkeypatch.chdir(tmp_path)

    def findings(name: str) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["doctor", "--bundle", name, "--json"])
        return {one["name"]: one for one in json.loads(done.stdout)["findings"]}

    def measured(name: str) -> Any:
        done = CliRunner().invoke(main, ["bench", "--bundle", name, "--repeat", "1", "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["bundle"]["name"]

    for name, found in (
        ("hf://org/repo", bundle.name),
        ("fashion-lite", "fashion-lite"),
        (str(bundle.path), bundle.name),
    ):
        assert findings(name)["bundle"]["detail"].startswith(f"{found}, ")
        assert measured(name) == found
    assert "it does not exist" in findings("hf://org/none")["bundle"]["cure"]
    bundle.path.rename("fashion-lite")  # a folder comes before a name
    assert findings("fashion-lite")["bundle"]["detail"].startswith(f"{bundle.name}, ")


def test_a_backbone_to_adapt_is_taken_from_a_bundle_of_the_hub(hub: Hub) -> None:
    pytest.importorskip("torch", reason="the backbone is read back with the train extra")
    from export.adapt.backbones import find_backbone

    offer(hub, Bundle.embedded())
    found = find_backbone("hf://org/repo").bundle
    assert found is not None
    assert found.path == HubName.parse("hf://org/repo").folder


def test_the_command_lists_pulls_and_removes(hub: Hub, bundle: Bundle, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["models", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    offer(hub, bundle)
    pulled = json.loads(run("pull", "hf://org/repo", "--json"))
    assert run("path", "hf://org/repo").strip() == pulled["path"]
    listed = json.loads(run("list", "--json"))["models"]
    assert [one["embedded"] for one in listed] == [True, False]
    run("remove", "hf://org/repo")
    assert not Path(pulled["path"]).exists()
    refused = CliRunner().invoke(main, ["models", "remove", "fashion-lite"])
    assert refused.exit_code == 2
    assert "only downloaded models" in refused.stderr
    with pytest.raises(UsageError, match="not on this machine"):
        remove_model("hf://org/repo")
