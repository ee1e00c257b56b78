"""Checkpoints: they are read as written, survive kills and full disks, and damage is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_runs import write_backbone
from tiny_training import PARTS, VIT, assert_equal_tensors, tiny_model, unflushed

import train.model.checkpoint
from train.model import (
    BackboneConfig,
    CheckpointError,
    ComposedModel,
    check_stage,
    create_backbone,
    describe_model,
    find_checkpoint,
    load_backbone,
    load_model,
    load_optimizer_tensors,
    optimizer_tensors,
    own_weights,
    read_checkpoint,
    write_checkpoint,
)

ROW = torch.arange(6.0)


@pytest.fixture(scope="module", autouse=True)
def _unflushed() -> Iterator[None]:
    with unflushed():
        yield


def write(folder: Path, mark: int) -> None:
    tensors = {"model": {"w": ROW + mark, "b": ROW[:1]}, "optimizer": {"0.step": ROW.sum()}}
    write_checkpoint(folder, {"mark": mark}, tensors)


def mark_of(folder: Path) -> int | None:
    """Return the mark of the complete checkpoint in a folder; None without one."""
    found = find_checkpoint(folder)
    if found is None:
        return None
    config, tensors = read_checkpoint(found)
    assert tensors.keys() == {"model", "optimizer"}
    assert torch.equal(tensors["model"]["w"], ROW + config["mark"])
    return int(config["mark"])


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is written is read --------------------------------------------------------------------

names = st.text("abc.:/ é", min_size=1, max_size=6)
tensors_of = st.sampled_from(
    [
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.randn(2, 3, 4).transpose(0, 2),  # not contiguous
        torch.tensor([[1, -2], [3, 4]]),
        torch.tensor([True, False]),
        torch.randn(3).bfloat16(),
        torch.randn(3, requires_grad=True),
        torch.tensor([torch.nan, torch.inf]),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), json_values, max_size=4),
    st.dictionaries(
        st.sampled_from(["model", "backbone", "optimizer"]),
        st.dictionaries(names, tensors_of, max_size=3),
    ),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, Any],
    groups: dict[str, dict[str, torch.Tensor]],
) -> None:
    folder = tmp_path_factory.mktemp("round") / "deep" / "last"
    groups = {name: {k: t.clone() for k, t in some.items()} for name, some in groups.items()}
    write_checkpoint(folder, config, groups)
    read_config, read = read_checkpoint(folder)
    assert read_config == config
    assert read.keys() == groups.keys()
    for group, tensors in groups.items():
        assert read[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[group][name].dtype == tensor.dtype
            assert torch.equal(read[group][name].nan_to_num(), tensor.detach().nan_to_num())
    assert left_behind(folder.parent) == ["last"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    write(tmp_path / "last", 1)
    assert left_behind(tmp_path / "last") == [
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
    ]
    assert json.loads((tmp_path / "last" / "config.json").read_text()) == {"mark": 1}


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last", {"mark": 1}, {"backbone": {"w": ROW}})
    write(tmp_path / "last", 2)
    assert mark_of(tmp_path / "last") == 2
    assert left_behind(tmp_path) == ["last"]


def test_the_folder_of_a_run_stands_for_its_best_checkpoint(tmp_path: Path) -> None:
    for name, mark in (("last", 1), ("best", 2), ("clip", 3)):
        write(tmp_path / name, mark)
        assert read_checkpoint(tmp_path)[0] == {"mark": mark}
    assert read_checkpoint(tmp_path / "last")[0] == {"mark": 1}


def test_an_optimizer_resumes_from_its_tensors(tmp_path: Path) -> None:
    def begin() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        groups = [{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.2}]
        return layer, torch.optim.AdamW(groups)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(ROW.reshape(2, 3)).square().sum().backward()
        optimizer.step()

    unbroken, optimizer = begin()
    step(unbroken, optimizer)
    tensors = {"model": unbroken.state_dict(), "optimizer": optimizer_tensors(optimizer)}
    write_checkpoint(tmp_path / "last", {}, tensors)
    step(unbroken, optimizer)

    _, read = read_checkpoint(tmp_path / "last")
    resumed, optimizer = begin()
    resumed.load_state_dict(read["model"])
    load_optimizer_tensors(optimizer, read["optimizer"])
    step(resumed, optimizer)
    assert torch.equal(resumed.weight, unbroken.weight)
    assert torch.equal(resumed.bias, unbroken.bias)


# --- kills --------------------------------------------------------------------------------------


class Killed(BaseException):
    """An error that no `except` of the code under test catches."""


@contextmanager
def killed_at(moment: int) -> Iterator[Callable[[], int]]:
    """Stop at the given file operation, half done if possible; counts the operations."""
    count = 0

    def operation(really: Callable[..., Any], halfway: Callable[..., None]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                halfway(*args)
                raise Killed
            return really(*args, **options)

        return act

    def nothing(*_: Any) -> None:
        pass

    def half_a_file(*args: Any) -> None:
        Path(args[-1]).write_bytes(b"\x10\x00")

    def half_a_folder(folder: Path) -> None:
        for path in sorted(folder.iterdir() if folder.is_dir() else [])[:2]:
            path.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.model.checkpoint.save_file", operation(save_file, half_a_file))
        patch.setattr("ztcir_sdk.files.os.fsync", operation(nothing, nothing))
        patch.setattr("shutil.rmtree", operation(shutil.rmtree, half_a_folder))
        patch.setattr(Path, "rename", operation(Path.rename, nothing))
        patch.setattr(Path, "mkdir", operation(Path.mkdir, nothing))
        patch.setattr(Path, "write_text", operation(Path.write_text, nothing))
        yield lambda: count


def write_and_be_killed(folder: Path, mark: int, moment: int) -> bool:
    """Return whether the write ended before the kill."""
    with killed_at(moment):
        try:
            write(folder, mark)
        except Killed:
            return False
    return True


def test_two_kills_in_a_row_lose_nothing(tmp_path: Path) -> None:
    with killed_at(-1) as operations:
        write(tmp_path / "counted", 1)
        write(tmp_path / "counted", 2)
        moments = range(1, operations() // 2 + 3)
    assert len(moments) > 10
    ends = 0
    for first in moments:
        for second in moments:
            folder = tmp_path / f"{first}-{second}" / "last"
            write(folder, 1)
            known = {1}
            for mark, moment in ((2, first), (3, second)):
                done = write_and_be_killed(folder, mark, moment)
                found = mark_of(folder)
                assert found in ({mark} if done else {*known, mark}), (first, second)
                known = {found} if found is not None else set()
                ends += done
            write(folder, 4)
            assert mark_of(folder) == 4
            assert left_behind(folder.parent) == ["last"]
    assert 0 < ends < 2 * len(moments) ** 2


def test_a_kill_during_the_first_write_leaves_none_or_all_of_it(tmp_path: Path) -> None:
    seen = set()
    for moment in range(1, 20):
        folder = tmp_path / str(moment) / "last"
        done = write_and_be_killed(folder, 1, moment)
        seen.add((done, mark_of(folder)))
    assert seen == {(False, None), (False, 1), (True, 1)}


# --- a full disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["save_file", "fsync", "write_text"])
def test_a_full_disk_leaves_the_previous_checkpoint(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "last", 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"save_file": train.model.checkpoint, "fsync": os, "write_text": Path}[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, full)
        with pytest.raises(
            CheckpointError, match=r"No space left on device.*is untouched; free"
        ) as error:
            write(tmp_path / "last", 2)
    assert str(tmp_path / "last") in str(error.value)
    assert mark_of(tmp_path / "last") == 1
    assert left_behind(tmp_path) == ["last"]
    write(tmp_path / "last", 3)
    assert mark_of(tmp_path / "last") == 3


def test_a_disk_that_fills_up_while_tensors_are_written_leaves_the_previous_checkpoint(
    tmp_path: Path,
) -> None:
    """The system itself refuses to write, as it does if the disk is full."""
    resource = pytest.importorskip("resource", reason="Windows has no limit of a file's size")
    write(tmp_path / "last", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written.*is untouched"):
            write_checkpoint(tmp_path / "last", {}, {"model": {"w": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert mark_of(tmp_path / "last") == 1
    assert left_behind(tmp_path) == ["last"]


# --- damage -------------------------------------------------------------------------------------


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"is not a checkpoint, because it holds no config\.json"
    ):
        read_checkpoint(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"There is no folder .*nowhere; name a checkpoint or run"
    ):
        read_checkpoint(tmp_path / "nowhere")


def test_an_exported_bundle_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is an exported bundle, not a checkpoint; name a"):
        read_checkpoint(tmp_path)


def test_a_run_without_a_checkpoint_is_to_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no checkpoint yet; repeat its command"):
        read_checkpoint(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["config.json", "model.safetensors"]), st.floats(0, 0.999))
def test_truncated_files_are_reported_as_damaged(
    tmp_path_factory: pytest.TempPathFactory, file: str, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut") / "last"
    write(folder, 1)
    whole = (folder / file).read_bytes().rstrip()
    (folder / file).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cannot be read .* it is damaged"):
        read_checkpoint(folder)


@pytest.mark.parametrize("content", [b"\xff" * 40, b"", b"\x00" * 40, b"not a tensor file at all"])
def test_files_with_other_content_are_reported_as_damaged(content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "last", 1)
    (tmp_path / "last" / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"kind": "map"}', "{}", "9" * 5000])
def test_any_configuration_is_answered_with_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "config.json").write_text(content)
    with pytest.raises(CheckpointError):
        check_stage(tmp_path, "map")
    with pytest.raises(CheckpointError):
        load_model(tmp_path)


# --- models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> ComposedModel:
    return tiny_model(VIT)


def write_model(folder: Path, model: ComposedModel, /, **changes: Any) -> dict[str, Any]:
    config = {**describe_model(model, "map"), **changes}
    groups = {"model": model.parts()}
    groups |= {name: module.state_dict() for name, module in own_weights(model).items()}
    write_checkpoint(folder, config, groups)
    return config


def test_a_model_comes_back_as_it_was(model: ComposedModel, tmp_path: Path) -> None:
    config = write_model(tmp_path / "last", model, kind="compose")
    read, read_config = load_model(tmp_path, need="compose")
    assert read_config == json.loads(json.dumps(config))
    assert read.config == model.config
    assert not read.training
    assert_equal_tensors({"all": read.state_dict()}, {"all": model.state_dict()})


def test_no_warning_calls_the_weights_of_a_checkpoint_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_backbone(str(write_backbone(tmp_path)))
    assert not caplog.records


def test_a_backbone_comes_from_a_folder_or_by_name(model: ComposedModel, tmp_path: Path) -> None:
    write_model(tmp_path / "last", model)
    backbone, config = load_backbone(str(tmp_path))
    assert config["kind"] == "map"
    assert_equal_tensors(
        {"clip": backbone.clip.state_dict()}, {"clip": model.backbone.clip.state_dict()}
    )
    backbone, config = load_backbone(VIT)
    assert backbone.config == BackboneConfig(VIT, None)
    assert config == {}


@pytest.mark.parametrize(
    ("kind", "need", "known"),
    [
        ("map", "compose", "'map' checkpoint, but a 'compose' checkpoint is needed; run `ztcir tr"),
        ("backbone", "map", "'backbone' checkpoint, but a 'map' checkpoint"),
        ("something", None, "'something' checkpoint"),
        (None, None, "None checkpoint"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(
    kind: str | None, need: str | None, known: str, model: ComposedModel, tmp_path: Path
) -> None:
    write_model(tmp_path / "last", model, kind=kind)
    with pytest.raises(CheckpointError, match=known):
        load_model(tmp_path, need=need)


def test_another_activation_is_refused(model: ComposedModel, tmp_path: Path) -> None:
    write_model(tmp_path / "last", model, quick_gelu=True)
    with pytest.raises(CheckpointError, match="another activation"):
        load_model(tmp_path)


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    config = BackboneConfig(VIT, str(weights))

    def fresh(seed: int) -> ComposedModel:
        torch.manual_seed(seed)
        torch.save(create_backbone(BackboneConfig(VIT)).clip.state_dict(), weights)
        return ComposedModel(create_backbone(config), PARTS)

    model = fresh(0)
    write_checkpoint(tmp_path / "a", describe_model(model, "map"), {"model": model.parts()})
    load_model(tmp_path / "a")
    fresh(1)
    with pytest.raises(CheckpointError, match=r"other weights than .*weights\.pt of tiny-vit has"):
        load_model(tmp_path / "a")
    fresh(0)
    load_model(tmp_path / "a")


@pytest.mark.parametrize("file", ["model", "backbone"])
def test_missing_weights_are_refused(file: str, model: ComposedModel, tmp_path: Path) -> None:
    write_model(tmp_path / "last", model)
    (tmp_path / "last" / f"{file}.safetensors").unlink()
    with pytest.raises(CheckpointError, match="does not fit its own configuration"):
        load_model(tmp_path)


def test_weights_of_another_shape_or_name_are_refused(model: ComposedModel, tmp_path: Path) -> None:
    write_model(tmp_path / "a", model, model={**describe_model(model, "map")["model"], "tokens": 2})
    with pytest.raises(CheckpointError, match=r"1 weights differ, such as token_learner\.queries"):
        load_model(tmp_path / "a")
    parts = {**describe_model(model, "map")["model"], "adapter_bottleneck": 0}
    write_model(tmp_path / "b", model, model=parts)
    with pytest.raises(CheckpointError, match=r"such as adapters\.0\.down\.bias"):
        load_model(tmp_path / "b")
    write_model(tmp_path / "c", model, backbone={"model": "tiny-convnet", "pretrained": None})
    with pytest.raises(CheckpointError, match=r"such as .*visual"):
        load_model(tmp_path / "c")


def test_an_unfinished_backbone_run_is_refused(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "best", {"kind": "backbone", "backbone": VIT}, {"model": {"w": ROW}}
    )
    with pytest.raises(CheckpointError, match="run that is not finished; repeat its command"):
        load_backbone(str(tmp_path))


def test_cut_weights_are_named_before_data_are_read(model: ComposedModel, tmp_path: Path) -> None:
    write_model(tmp_path / "last", model)
    check_stage(tmp_path, "map")
    file = tmp_path / "last" / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cannot be read"):
        check_stage(tmp_path, "map")
