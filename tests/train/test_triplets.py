"""Triplets from attributes: the targets are exactly right, and the splits do not overlap."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_caption_triplets import write_collection

from cli.triplets import triplets as triplets_command
from train.data import Item, read_catalogue, split_development
from train.triplets import TripletReport, synthesise, write_triplets
from ztcir_sdk.errors import UsageError, ZtcirError
from ztcir_sdk.evaluation.triplets import Triplet, read_triplets
from ztcir_sdk.names import UNKNOWN_VALUE


@st.composite
def catalogues(draw: st.DrawFn) -> list[Item]:
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["Men", "Women", "Unisex", UNKNOWN_VALUE]),
                st.sampled_from(["Tshirts", "Casual Shoes", "Ring"]),
                st.sampled_from(["Black", "Navy Blue", "Multi", UNKNOWN_VALUE]),
                st.sampled_from([None, "plain", "striped"]),
                st.sampled_from(["Acme shirt", "acme  SHIRT", "Bolt shoe", "Ring of Gold", ""]),
            ),
            max_size=40,
        )
    )
    return [Item(f"i{number}", *row) for number, row in enumerate(rows)]


def small_catalogue() -> list[Item]:
    return [
        Item(f"{gender}-{kind}-{colour}-{copy}", gender, kind, colour, None, f"{kind} {copy}")
        for gender in ("Men", "Women")
        for kind in ("Tshirts", "Heels", "Belts")
        for colour in ("Black", "Red", "Off White")
        for copy in range(20 if colour == "Black" else 2)
    ]


def values(item: Item) -> dict[str, str | None]:
    return {
        "colour": item.colour,
        "type": item.type,
        "gender": item.gender,
        "pattern": item.pattern,
    }


@given(catalogues(), st.integers(0, 1000), st.booleans())
def test_targets_are_all_items_that_differ_only_in_the_changed_attribute(
    items: list[Item], seed: int, held_out: bool
) -> None:
    by_id = {item.id: item for item in items}
    try:
        made = synthesise(items, seed=seed, limit=30, held_out=held_out)
    except ZtcirError:
        made = []
        known = [item for item in items if UNKNOWN_VALUE not in values(item).values()]
        for one in known:  # then no two items may differ in one attribute that both have
            for other in known:
                apart = [k for k in values(one) if values(one)[k] != values(other)[k]]
                assert len(apart) != 1 or None in (values(one)[apart[0]], values(other)[apart[0]])
    for triplet in made:
        reference = values(by_id[triplet.reference])
        wanted = values(by_id[triplet.targets[0]])
        assert wanted[triplet.kind] != reference[triplet.kind]
        expected = {**reference, triplet.kind: wanted[triplet.kind]}
        assert sorted(triplet.targets) == sorted(i.id for i in items if values(i) == expected)
        assert triplet.reference not in triplet.targets
        assert UNKNOWN_VALUE not in reference.values()
        assert UNKNOWN_VALUE not in expected.values()
        assert triplet.text
    assert len({triplet.id for triplet in made}) == len(made)


@given(catalogues(), st.integers(0, 1000))
def test_an_equal_seed_gives_equal_triplets_and_a_smaller_limit_the_first_ones(
    items: list[Item], seed: int
) -> None:
    try:
        made = synthesise(items, seed=seed, limit=12)
    except ZtcirError:
        return
    assert synthesise(items, seed=seed, limit=12) == made
    assert synthesise(items, seed=seed, limit=5) == made[:5]
    assert len(synthesise(items, seed=seed, limit=None)) == len(items)


def test_kinds_are_balanced_and_common_values_do_not_dominate() -> None:
    items = small_catalogue()
    made = synthesise(items, seed=0, limit=3000)
    assert Counter(t.kind for t in made) == {"colour": 1000, "type": 1000, "gender": 1000}
    colours = Counter(t.reference.split("-")[2] for t in made)
    assert 0.35 < colours["Black"] / 3000 < 0.75  # 83 % of the items


def test_noise_replaces_the_targets_of_its_share_by_one_wrong_item() -> None:
    items = small_catalogue()
    clean = synthesise(items, seed=4, limit=200)
    noisy = synthesise(items, seed=4, limit=200, noise=0.25)
    spoilt = [(c, n) for c, n in zip(clean, noisy, strict=True) if c != n]
    assert len(spoilt) == 50
    for right, wrong in spoilt:
        assert (right.id, right.text, right.reference) == (wrong.id, wrong.text, wrong.reference)
        assert len(wrong.targets) == 1
        assert not {*wrong.targets} & {*right.targets, right.reference}
    assert synthesise(items, seed=4, limit=200, noise=0.25) == noisy


def test_noise_without_any_wrong_item_is_an_error() -> None:
    items = [
        Item(str(n), "Men", "Ring", colour, None, "") for n, colour in enumerate(["Red", "Tan"])
    ]
    with pytest.raises(ZtcirError, match="cannot get a wrong target"):
        synthesise(items, seed=0, limit=3, noise=1.0)


@pytest.mark.parametrize(
    ("items", "options", "sentence"),
    [
        ([], {}, "no triplet can be made"),
        (small_catalogue(), {"limit": -1}, "must not be negative"),
        (small_catalogue(), {"noise": 1.5}, "from 0 to 1"),
        ([*small_catalogue(), small_catalogue()[0]], {}, "two items with the id 'Men-Tshirts"),
    ],
)
def test_invalid_arguments_of_synthesise_are_errors(
    items: list[Item], options: dict[str, float], sentence: str
) -> None:
    with pytest.raises(ZtcirError, match=re.escape(sentence)):
        synthesise(items, seed=0, **{"limit": 3, **options})  # type: ignore[arg-type]


@given(catalogues(), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_no_product_name_is_in_both_parts_of_the_development_split(
    items: list[Item], fraction: float, seed: int
) -> None:
    training, development = split_development(items, fraction, seed=seed)
    assert sorted(i.id for i in training + development) == sorted(i.id for i in items)
    named = [
        {" ".join(i.caption.lower().split()) for i in part if i.caption}
        for part in (training, development)
    ]
    assert not named[0] & named[1]
    again = split_development(items[::-1], fraction, seed=seed)
    assert {i.id for i in again[1]} == {i.id for i in development}


def test_the_development_split_holds_its_fraction_of_the_names() -> None:
    items = [Item(str(n), "Men", "Ring", "Red", None, f"name {n}") for n in range(200)]
    assert len(split_development(items, 0.1, seed=0)[1]) == 20
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_development(items, 1.0, seed=0)


ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])).filter(str.strip)


@given(st.lists(st.builds(Triplet, ids, texts, ids, texts, st.lists(ids, min_size=1).map(tuple))))
def test_written_triplets_are_read_unchanged(
    tmp_path_factory: pytest.TempPathFactory, made: list[Triplet]
) -> None:
    path = tmp_path_factory.mktemp("triplets") / "t.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # waiting for the disk takes seconds
        write_triplets(path, made)
    if made:
        assert read_triplets(path) == made
    else:
        with pytest.raises(ZtcirError, match="has no triplets"):
            read_triplets(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["t.jsonl"]


def test_a_line_has_the_fields_of_a_triplet(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_triplets(path, synthesise(small_catalogue(), seed=0, limit=4))
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(list(r) == ["id", "kind", "reference", "text", "targets"] for r in records)
    assert all(isinstance(r["targets"], list) for r in records)


def test_a_failed_write_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    made = synthesise(small_catalogue(), seed=0, limit=4)
    write_triplets(path, made)
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ztcir_sdk.files.os.fsync", full_disk)
    with pytest.raises(ZtcirError, match="No space left on device"):
        write_triplets(path, made[:1])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.jsonl"]


GOOD = '{"id": 1, "kind": "colour", "reference": 2, "text": "in red", "targets": [3, "4"]}'


def test_whole_number_ids_become_strings(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(GOOD + "\n\n", encoding="utf-8")
    assert read_triplets(path) == [Triplet("1", "colour", "2", "in red", ("3", "4"))]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (GOOD.replace('"text"', '"words"'), "the entry 'text' is missing"),
        (GOOD.replace('[3, "4"]', "[]"), "'targets' is [], not a list of one or more item ids"),
        (GOOD.replace('[3, "4"]', '"3"'), "'targets' is '3', not a list of"),
        (
            GOOD.replace('[3, "4"]', "[null]"),
            "'targets[0]' is None, not an id",
        ),
        (GOOD.replace('"reference": 2', '"reference": true'), "'reference' is True, not an id"),
        (GOOD.replace('"in red"', '"  "'), "'text' is '  ', not a text that is not empty"),
        (GOOD.replace('"colour"', "7"), "'kind' is 7, not a text"),
    ],
)
def test_an_invalid_line_is_an_error_that_names_it(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ZtcirError) as caught:
        read_triplets(path)
    assert f"{path}, line 3" in str(caught.value)
    assert complaint in str(caught.value)


def test_unreadable_files_are_errors_that_name_them(tmp_path: Path) -> None:
    with pytest.raises(ZtcirError, match="No such file"):
        read_triplets(tmp_path / "none.jsonl")
    with pytest.raises(ZtcirError, match=r"none\.csv does not exist"):
        read_catalogue(tmp_path / "none.csv")
    with pytest.raises(ZtcirError, match="Cannot write"):
        write_triplets(tmp_path / "no" / "t.jsonl", [])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for read in (read_triplets, read_catalogue):
        with pytest.raises(ZtcirError, match="UTF-8"):
            read(tmp_path / "bytes")


CSV = """split,id,gender,articleType,baseColour,caption,weave
train,1,Men,Tshirts,Red,Acme Red,striped
train,2,Men,Tshirts,NA,Acme,
val,3,Women,Tshirts,Red,Acme Women,plain
train,4,,Tshirts, Navy  Blue ,Bolt,plain
"""


def test_a_catalogue_is_read_by_split_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text(CSV, encoding="utf-8")
    assert read_catalogue(path, "train") == [
        Item("1", "Men", "Tshirts", "Red", None, "Acme Red"),
        Item("2", "Men", "Tshirts", UNKNOWN_VALUE, None, "Acme"),
        Item("4", UNKNOWN_VALUE, "Tshirts", "Navy Blue", None, "Bolt"),
    ]
    assert len(read_catalogue(path)) == 4
    woven = read_catalogue(path, "val", columns={"pattern": "weave", "gender": ""})
    assert woven == [Item("3", "", "Tshirts", "Red", "plain", "Acme Women")]
    with pytest.raises(UsageError, match=r"no column 'shade'; it has split, id, gender"):
        read_catalogue(path, columns={"colour": "shade"})
    with pytest.raises(UsageError, match="'size' is not a field of an item"):
        read_catalogue(path, columns={"size": "size"})
    with pytest.raises(ZtcirError, match="no row of split 'test'"):
        read_catalogue(path, "test")


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_a_catalogue_may_be_any_table(tmp_path: Path, suffix: str) -> None:
    header, *lines = CSV.splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    path = tmp_path / f"metadata.{suffix}"
    if suffix == "tsv":
        path.write_text(CSV.replace(",", "\t"), encoding="utf-8")
    else:
        typed = [{**row, "id": int(row["id"]), "gender": row["gender"] or None} for row in rows]
        pq.write_table(pa.Table.from_pylist(typed), path)
    (tmp_path / "metadata.csv").write_text(CSV, encoding="utf-8")
    for split in ("train", None):
        assert read_catalogue(path, split) == read_catalogue(tmp_path / "metadata.csv", split)


def test_the_report_has_counts_and_examples(tmp_path: Path) -> None:
    made = synthesise(small_catalogue(), seed=0, limit=90)
    report = TripletReport.of(made).to_dict()
    assert report == json.loads(json.dumps(report))
    assert report["count"] == 90
    assert report["per_kind"] == {"colour": 30, "type": 30, "gender": 30}
    sizes = [len(t.targets) for t in made]
    assert report["targets_per_query"]["max"] == max(sizes)
    assert len(report["examples"]) == 20
    assert report["wording_families"]["colour"] >= 10


def write_small_catalogue(path: Path) -> None:
    rows = ["split,id,gender,articleType,baseColour,caption"]
    rows += [
        f"train,{number},{i.gender},{i.type},{i.colour},{i.gender} {i.caption}"
        for number, i in enumerate(small_catalogue())
    ]
    path.write_text("\n".join(rows), encoding="utf-8")


def test_the_command_writes_development_triplets_to_a_second_file(tmp_path: Path) -> None:
    source, output = tmp_path / "metadata.csv", tmp_path / "t.jsonl"
    write_small_catalogue(source)
    call = ["--from", "attributes", "--csv", str(source), "-o", str(output), "--count", "60"]
    done = CliRunner().invoke(triplets_command, [*call, "--development", "0.4", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)  # nothing but the object is on standard output
    apart = tmp_path / "t.development.jsonl"
    assert {name: part["count"] for name, part in report["files"].items()} == {
        str(output): 60,
        str(apart): 24,
    }
    seen = [
        {name for t in read_triplets(path) for name in (t.reference, *t.targets)}
        for path in (output, apart)
    ]
    assert not seen[0] & seen[1]

    first = output.read_bytes()
    done = CliRunner().invoke(triplets_command, [*call, "--development", "0.4"])
    assert done.exit_code == 0
    assert output.read_bytes() == first
    assert "60 triplets" in done.stdout
    assert "examples:" in done.stdout

    table = tmp_path / "metadata.tsv"
    table.write_text(source.read_text(encoding="utf-8").replace(",", "\t"), encoding="utf-8")
    call = ["--from", "attributes", "--csv", str(table), "-o", str(output), "--count", "60"]
    done = CliRunner().invoke(triplets_command, [*call, "--development", "0.4"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert output.read_bytes() == first


def test_the_command_rejects_wrong_columns(tmp_path: Path) -> None:
    source = tmp_path / "metadata.csv"
    write_small_catalogue(source)
    call = ["--from", "attributes", "--csv", str(source), "-o", str(tmp_path / "t.jsonl")]
    done = CliRunner().invoke(triplets_command, [*call, "--columns", "colour"])
    assert done.exit_code == 2
    assert "is not a list such as colour=baseColour" in done.stderr
    done = CliRunner().invoke(triplets_command, [*call, "--columns", "colour=shade"])
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "t.jsonl").exists()
    done = CliRunner().invoke(triplets_command, [*call, "--columns", "gender="])
    assert done.exit_code == 0
    assert {t.kind for t in read_triplets(tmp_path / "t.jsonl")} == {"colour", "type"}


def test_the_examples_of_the_help_run_without_torch(tmp_path: Path) -> None:
    write_small_catalogue(tmp_path / "catalogue.csv")
    (tmp_path / "photos").mkdir()
    write_collection(tmp_path / "photos")
    lines = [line.strip() for line in (triplets_command.help or "").splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("ztcir triplets")]
    assert len(examples) == 4
    program = f"""
import sys
sys.modules["torch"] = sys.modules["webdataset"] = None  # importing them raises ImportError
from cli.main import main
for example in {examples}:
    main(example, standalone_mode=False)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert written == {
        "catalogue.csv", "triplets.jsonl", "requests.jsonl", "out.jsonl", "out.development.jsonl",
        "sheet.png",
    }  # fmt: skip
