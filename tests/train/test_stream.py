"""Stage I from a stream of shards: all images are read once per epoch, and runs resume."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from test_collections import cc3m_sample, ids, write_shard
from test_distributed import assert_same_run, launch
from tiny_runs import PARTS, write_backbone
from tiny_training import saved_every

import train.stages.fit_map
from cli.main import main
from train.data import (
    DataError,
    ShardStream,
    TrainingImage,
    endless,
    is_held_out,
    read_collection,
    read_held_out,
    read_sources,
)
from train.model import CheckpointError
from train.settings import Compute, MapTraining, StageSettings
from train.stages.fit_map import fit_map
from train.stages.word_bank import WordBank, default_words

SAMPLES = 20  # a shard
STEPS = 8  # more than an epoch
CONFIG = MapTraining(batch_size=16)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a backbone and four shards, with empty captions and a broken image."""
    folder = tmp_path_factory.mktemp("stream")
    write_backbone(folder)
    for shard in range(4):
        members = []
        for place in range(SAMPLES):
            number = shard * 10_000 + place
            members += cc3m_sample(number, "" if place % 3 == 0 else None)
        if shard == 2:
            members[3] = (members[3][0], members[3][1][:100])  # the second picture
        write_shard(folder / f"{shard:05d}.tar", members)
    return folder


@pytest.fixture(scope="module")
def shards(workplace: Path) -> list[str]:
    return [str(path) for path in sorted(workplace.glob("*.tar"))]


@pytest.fixture(scope="module")
def development(shards: list[str]) -> list[TrainingImage]:
    return read_held_out(shards, 50)


def run(
    workplace: Path,
    out: Path,
    images: Sequence[TrainingImage] | ShardStream,
    development: list[TrainingImage],
    *,
    word_bank: WordBank | None = None,
    **options: Any,
) -> Path:
    fit_map(
        str(workplace / "clip"),
        images,
        development,
        CONFIG,
        PARTS,
        StageSettings(
            out,
            workplace / "cache",
            compute=Compute(precision="fp32", device="cpu"),
            **{"steps": STEPS, **options},
        ),
        word_bank=word_bank,
    )
    return out


@pytest.fixture(scope="module")
def unbroken(workplace: Path, shards: list[str], development: list[TrainingImage]) -> Path:
    return run(workplace, workplace / "unbroken", ShardStream(shards, buffer=8), development)


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_held_out_images_are_never_trained_on(
    shards: list[str], development: list[TrainingImage], tmp_path: Path
) -> None:
    held_out = set(ids(development))
    everything = set(ids(read_sources(shards)[0]))
    epoch = len(everything) - len(held_out)
    assert 2 <= len(held_out) < len(everything) / 4
    length = tmp_path / "length"
    stream = ShardStream(shards, buffer=8)
    two = ids(list(islice(endless(stream, 0, length), 2 * epoch)))
    assert set(two[:epoch]) == set(two[epoch:]) == everything - held_out
    assert two[:epoch] != two[epoch:]
    assert json.loads(length.read_text())["images"] == epoch
    assert len(read_held_out(shards, 2)) == 2


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("told", [True, False])
def test_a_stream_resumes_at_any_image(
    shards: list[str], tmp_path: Path, told: bool, world: int
) -> None:
    """With and without a known length of the epoch, which may differ between processes."""
    for rank in range(world):

        def rest(start: int, length: str, rank: int = rank) -> list[str]:
            stream = ShardStream(shards, rank=rank, world=world)
            return ids(list(islice(endless(stream, start, tmp_path / f"{length}-{rank}"), 20)))

        stream = ShardStream(shards, rank=rank, world=world)
        whole = ids(list(islice(endless(stream, 0, tmp_path / f"length-{rank}"), 200)))
        for start in (0, 1, 30, 74, 75, 76, 151, 170):
            assert rest(start, "length" if told else f"fresh-{start}") == whole[start : start + 20]


def test_the_epoch_length_of_other_shards_is_not_used(shards: list[str], tmp_path: Path) -> None:
    """A run that is killed before its first checkpoint leaves only that file."""
    length = tmp_path / "length"
    list(islice(endless(ShardStream(shards[:2]), 0, length), 60))
    whole = ids(list(islice(endless(ShardStream(shards), 0, tmp_path / "fresh"), 170)))
    for damage in ("", "{", "[]", '{"images": 7}', None):
        if damage is not None and damage:
            length.write_text(damage)
        assert ids(list(islice(endless(ShardStream(shards), 150, length), 20))) == whole[150:]


def test_no_image_is_in_two_processes(shards: list[str], tmp_path: Path) -> None:
    """In any epoch: an image must not be its own negative."""
    seen = [
        set(ids(list(islice(endless(ShardStream(shards, rank=rank, world=3), 0, length), 200))))
        for rank, length in ((rank, tmp_path / str(rank)) for rank in range(3))
    ]
    assert not any(one & other for one, other in itertools.combinations(seen, 2))
    everything, _ = read_sources(shards)
    assert len(set.union(*seen)) == len(everything) - len(read_held_out(shards, 50))


def test_a_killed_run_resumes_as_if_it_was_never_killed(
    workplace: Path,
    shards: list[str],
    development: list[TrainingImage],
    unbroken: Path,
    tmp_path: Path,
) -> None:
    """Before the first checkpoint, in both epochs, and after the last step."""
    with saved_every(2):
        for stop in (1, 4, 5, 7, STEPS, None):
            stream = ShardStream(shards, buffer=8)
            run(workplace, tmp_path / "run", stream, development, stop_after=stop)
    assert log_of(tmp_path / "run") == log_of(unbroken)


def test_training_on_a_stream_equals_training_on_the_list_of_its_images(
    workplace: Path,
    shards: list[str],
    development: list[TrainingImage],
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captions, word bank and features are those of the same images."""
    listed = [image for image in read_sources(shards)[0] if not is_held_out(image.item)]
    place = {name: number for number, name in enumerate(ids(listed))}
    drawn = endless(ShardStream(shards, buffer=8), 0, tmp_path / "length")
    order = np.array([place[name] for name in ids(list(islice(drawn, STEPS * CONFIG.batch_size)))])

    class SameOrder:
        size, per_epoch = CONFIG.batch_size, 4

        def __init__(self, *_: object) -> None:
            pass

        def __getitem__(self, step: int) -> np.ndarray:
            return order[step * self.size : (step + 1) * self.size]

    monkeypatch.setattr(train.stages.fit_map, "Batches", SameOrder)
    words = WordBank(default_words(development))
    run(workplace, tmp_path / "listed", listed, development, word_bank=words)
    for one, other in zip(log_of(unbroken), log_of(tmp_path / "listed"), strict=True):
        assert one["alignment"] > 0
        for name in ("loss", "info_nce", "alignment"):
            assert one[name] == pytest.approx(other[name], rel=1e-2)


class InTurn(ShardStream):
    """A stream for one process, in the order in which two processes would read the images."""

    def __iter__(self) -> Iterator[TrainingImage]:
        shares = [ShardStream(self.shards, buffer=8, rank=rank, world=2) for rank in (0, 1)]
        readers = [(image for image in one if not is_held_out(image.item)) for one in shares]
        while any(taken := [list(islice(one, CONFIG.batch_size // 2)) for one in readers]):
            yield from (image for share in taken for image in share)


@pytest.mark.slow
def test_two_processes_read_their_own_shards_and_share_one_loss(
    workplace: Path, shards: list[str], development: list[TrainingImage]
) -> None:
    one = run(workplace, workplace / "in-turn", InTurn(shards), development, steps=3)
    launch(workplace / "two", {"precision": "fp32", "device": "cpu", "shards": shards}, processes=2)
    assert_same_run(one, workplace / "two" / "map", within=2e-5)
    told = json.loads((workplace / "two" / "map" / "run.json").read_text(encoding="utf-8"))
    assert told["config"]["training"]["processes"] == 2


def ztcir(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_trains_on_a_stream(workplace: Path, tmp_path: Path) -> None:
    data = workplace / "{00000..00003}.tar"
    common = ("train", "map", "--backbone", workplace / "clip", "--stream", "--batch-size", 8)
    words = tmp_path / "words.txt"
    words.write_text("car\nbus\nred\nblue\n", encoding="utf-8")
    options = (*common, "--data", data, "--out", tmp_path / "map", "--device", "cpu")
    refused = ztcir(*options)
    assert refused.exit_code == 2
    assert "--stream needs --steps" in refused.stderr
    done = ztcir(*options, "--word-bank", words, "--steps", 10)  # more than an epoch
    assert done.exit_code == 0, (done.output, done.exception)
    skipped = [line for line in done.stderr.splitlines() if "Skipped a broken sample" in line]
    assert len(skipped) == 2  # once to hold some out, once to train
    assert "000020001 (" in skipped[0]
    told = json.loads((tmp_path / "map" / "run.json").read_text(encoding="utf-8"))
    assert told["config"]["training"]["shards"] == 4
    assert told["data"]["training"]["shards"] == 4
    assert set(told["figures"]) == {"dev_self_R@1"}
    other = (*common, "--steps", 11, "--device", "cpu")
    for pattern, said in (
        (workplace, "only shards can be streamed"),
        (workplace / "{00000..00009}.tar", "00004.tar does not exist"),
    ):
        refused = ztcir(*other, "--data", pattern, "--out", tmp_path / "other")
        assert refused.exit_code == 1
        assert said in refused.stderr


def test_shards_are_read_from_a_pipe(workplace: Path, shards: list[str], tmp_path: Path) -> None:
    """The command may be longer than a file name can be."""
    piped = ShardStream([f"pipe:: {'x' * 300}; cat {shards[0]}"], shuffle=False)
    assert ids(list(piped)) == ids(read_sources(shards[:1])[0])
    assert list(islice(endless(piped, 30, tmp_path / "length"), 20))


def test_broken_samples_are_reported_once_and_immediately(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not at the end of the epoch, which may never come."""
    members = [part for number in range(9) for part in cc3m_sample(number)]
    whole = write_shard(tmp_path / "whole.tar", members)
    for number in (1, 2):
        members[3 * number] = (members[3 * number][0], b"<html>gone</html>")
    cut = write_shard(tmp_path / "cut.tar", members)
    with tarfile.open(cut) as tar:
        end = next(
            m.offset_data + -(-m.size // 512) * 512 for m in tar if m.name == "000000007.jpg"
        )
    cut.write_bytes(cut.read_bytes()[:end])
    stream = ShardStream([str(cut), str(whole)], buffer=4)
    drawn = iter(stream)
    seen = [next(drawn)]
    while "cut.tar" not in (said := capsys.readouterr().err):
        seen.append(next(drawn))
    assert "is damaged or cut short" in said
    seen += list(drawn)
    said += capsys.readouterr().err
    assert sorted(ids(seen)) == sorted(f"{n:09d}" for n in [*range(9), 0, 3, 4, 5, 6])
    for name in ("000000001", "000000002", "000000007"):
        assert said.count(f"Skipped a broken sample: {name} (") == 1
    for epoch in range(1, 4):
        stream.set_epoch(epoch)
        assert len(list(stream)) == len(seen)
    assert not capsys.readouterr().err
    assert [name for name, _ in stream.report.skipped].count("000000007") == 1


def test_stage_two_holds_out_the_images_that_a_streamed_stage_one_held_out(
    workplace: Path, shards: list[str], tmp_path: Path
) -> None:
    """So no image that selects the checkpoint has been trained on."""
    held_out = {image.item.id for image in read_held_out(shards, 50)}
    training, selecting = read_collection(shards, streamed=True)
    assert set(ids(selecting)) == held_out
    assert not held_out & set(ids(training))
    with saved_every(2):
        run(workplace, tmp_path / "map", ShardStream(shards), read_held_out(shards, 50), steps=2)
    names = sorted(ids(training))
    triplets = tmp_path / "triplets.jsonl"
    triplets.write_text(
        "".join(
            json.dumps({"reference": one, "text": "make it red", "target": other}) + "\n"
            for one, other in itertools.pairwise([*names[:8], *sorted(held_out)])
        )
    )
    done = ztcir(
        *("train", "compose", "--map", tmp_path / "map", "--out", tmp_path / "compose"),
        *("--data", workplace / "{00000..00003}.tar", "--triplets", triplets, "--device", "cpu"),
        *("--steps", 1, "--batch-size", 4),
    )
    assert done.exit_code == 0, (done.output, done.exception)
    told = json.loads((tmp_path / "compose" / "run.json").read_text(encoding="utf-8"))
    assert told["data"]["training"]["images"] == len(training)


def test_a_run_does_not_resume_with_other_shards(
    workplace: Path, shards: list[str], development: list[TrainingImage], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with saved_every(1):
        run(workplace, out, ShardStream(shards), development, stop_after=1, steps=2)
    swapped = [*shards[:3], str(write_shard(tmp_path / "00009.tar", cc3m_sample(1)))]
    with pytest.raises(CheckpointError, match="different: training"):
        run(workplace, out, ShardStream(swapped), development, steps=2)
    written = out / "last" / "config.json"
    two = written.read_text(encoding="utf-8").replace('"processes": 1', '"processes": 2')
    written.write_text(two, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"in 2 processes, .* now there are 1; start 2 to"):
        run(workplace, out, ShardStream(shards), development, steps=2)


def test_unusable_captions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        "\u043a\u0440\u0430\u0441\u043d\u043e\u0435 \u043f\u043b\u0430\u0442\u044c\u0435",
        "",
        "a dress",
    ]
    members = [part for n in range(120) for part in cc3m_sample(n, f"{said[n % 3]} {n}".strip())]
    shard = write_shard(tmp_path / "a.tar", members)
    read_held_out([str(shard)], 100)
    told = capsys.readouterr().err
    assert "Held-out images: " in told
    assert "in another script than Latin (Cyrillic" in told


def test_a_stream_without_a_usable_image_is_an_error(
    workplace: Path, development: list[TrainingImage], tmp_path: Path
) -> None:
    empty = str(write_shard(tmp_path / "empty.tar", [("a.txt", b"no picture")]))
    with pytest.raises(DataError, match="No usable sample"):
        run(workplace, tmp_path / "run", ShardStream([empty]), development)
    with pytest.raises(DataError, match="too few to hold"):
        read_held_out([empty], 10)
