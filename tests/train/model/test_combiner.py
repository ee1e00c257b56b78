"""The combiner against NumPy, what it is fitted to, and its place in the model and its graphs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import erf, softmax
from tiny_training import PARTS, SHALLOW, VIT, fit, tiny_model, write_collection
from torch import Tensor

from export.graphs import export_graph, graph_modules, sample_inputs
from export.parity import check_parity, randomised
from train.model import ComposedModel, load_model, prompt_ids
from train.model.combiner import Combiner

Array = NDArray[np.float64]

COMBINED = dataclasses.replace(PARTS, combiner_width=6, combiner_captions=5)
TEXTS = ("make it red", "the same at night", "x")


def combiner(injected: int = 4, captions: int = 3) -> Combiner:
    """Return a combiner with random weights, in float64."""
    torch.manual_seed(0)
    made = Combiner(8, 6, injected, 5, captions).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    made.remember(unit(captions))
    return made


def unit(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 8, generator=generator).double(), dim=-1)


def normalised(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def plain(made: Combiner, queries: Tensor, described: Tensor, scale: Tensor) -> Array:
    """The formula of the class, written out."""
    state = {name: value.detach().numpy() for name, value in made.state_dict().items()}

    def linear(name: str, x: Array) -> Array:
        return np.asarray(x @ state[f"{name}.weight"].T + state[f"{name}.bias"])

    def norm(name: str, x: Array) -> Array:
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        scaled = (x - x.mean(axis=-1, keepdims=True)) / spread
        return np.asarray(scaled * state[f"{name}.weight"] + state[f"{name}.bias"])

    q, r, a = queries.numpy(), described.numpy(), scale.numpy()[:, None]
    known = np.concatenate([norm("norm_query", q), norm("norm_reference", r)], axis=-1)
    hidden = linear("inner", known)
    hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
    image = normalised(linear("image", r))
    q = normalised(q + a * (linear("out_gate", hidden) * image + linear("out_residual", hidden)))
    near = softmax(np.exp(state["sharpness"]) * q @ state["captions"].T, axis=-1)
    recalled = normalised(near @ state["captions"])
    return normalised(q + a * linear("out_caption", hidden) * recalled)


@pytest.mark.parametrize("injected", [0, 4])
def test_it_computes_its_formula(injected: int) -> None:
    made = combiner(injected)
    queries, described = unit(4), torch.randn(4, 6 + 2 * injected).double()
    scale = torch.tensor([0.0, 0.5, 1.0, 1.5]).double()
    with torch.no_grad():
        mixed = made(queries, described, scale)
    np.testing.assert_allclose(mixed.numpy(), plain(made, queries, described, scale), atol=1e-12)
    np.testing.assert_allclose(mixed[0], queries[0], atol=1e-12)
    assert not np.allclose(mixed[2], queries[2], atol=1e-2)


def test_an_image_is_described_by_its_word_and_the_means_of_its_keys_and_values() -> None:
    made = combiner()
    words, keys, values = (torch.randn(2, *shape).double() for shape in ((1, 6), *[(2, 7, 2)] * 2))
    with torch.no_grad():
        described = made.describe(words, keys, values)
    np.testing.assert_allclose(described[:, 6:10], keys.mean(2).reshape(2, 4))
    np.testing.assert_allclose(described[:, 10:], values.mean(2).reshape(2, 4))
    np.testing.assert_allclose(described[:, :6], made.norm_word(words[:, 0]).detach())


def test_the_estimate_of_an_image_is_the_best_linear_one() -> None:
    made = combiner()
    described, weight = torch.randn(500, 14).double(), torch.randn(8, 14).double()
    embeds = described @ weight.T + 0.7
    made.fit(described, embeds)
    with torch.no_grad():
        found = made.image(described)
    assert ((found - embeds) ** 2).mean() < 1e-4 * embeds.var()


def test_captions_beyond_its_number_are_left_out_and_missing_ones_have_no_weight() -> None:
    made, same = combiner(captions=3), combiner(captions=6)
    made.remember(unit(9))
    np.testing.assert_allclose(made.captions, unit(9)[:3])
    same.load_state_dict({**made.state_dict(), "captions": same.captions})
    same.remember(unit(9)[:3])
    same.sharpness.data.fill_(6.0)  # zero is then far from the nearest caption
    made.sharpness.data.fill_(6.0)
    queries, described, scale = unit(9)[:3], torch.randn(3, 14).double(), torch.ones(3).double()
    with torch.no_grad():
        np.testing.assert_allclose(
            made(queries, described, scale), same(queries, described, scale), atol=1e-6
        )


@pytest.fixture(scope="module", params=[VIT, SHALLOW])
def model(request: pytest.FixtureRequest) -> ComposedModel:
    layers = (0, 1) if request.param == VIT else ()
    return tiny_model(request.param, dataclasses.replace(COMBINED, vsi_layers=layers))


@torch.no_grad()
def encode(model: ComposedModel, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, *model.backbone.image_size, generator=generator)
    reference = model.learn_token(*model.encode_image(pixels))
    index = torch.tensor([0, 1, 1])
    return model.encode_query(prompt_ids(TEXTS), index, torch.full((3,), scale), *reference)


def test_it_mixes_composed_queries_alone(model: ComposedModel) -> None:
    own, model.combiner = model.combiner, None
    try:
        without = {scale: encode(model, scale) for scale in (0.0, 1.0)}
    finally:
        model.combiner = own
    torch.testing.assert_close(encode(model, 0.0), without[0.0], atol=1e-6, rtol=0)
    assert (encode(model, 1.0) - without[1.0]).abs().max() > 1e-2


def test_a_strength_can_be_multiplied_into_its_weights(model: ComposedModel) -> None:
    expected, before = encode(model, 0.4), model.parts()
    model.load_state_dict(model.parts(strength=0.8), strict=False)
    try:
        found = encode(model, 0.5)
    finally:
        model.load_state_dict(before, strict=False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_its_graph_gives_what_pytorch_gives(tmp_path: Path) -> None:
    model = tiny_model(SHALLOW, dataclasses.replace(COMBINED, vsi_layers=(0,)))
    [text_encoder] = [graph for graph in graph_modules(model) if graph.name == "text_encoder"]
    inputs = sample_inputs(model, "text_encoder", references=3, texts=4, length=9, seed=0)
    path = tmp_path / "text_encoder.onnx"
    export_graph(text_encoder, inputs, path)
    with randomised(model):
        before = encode(model, 1.0)
    assert (before - encode(model, 1.0)).abs().max() > 1e-3  # its zeros are made random
    check_parity(model, text_encoder, path)


def test_stage_two_trains_it(tmp_path: Path) -> None:
    data = write_collection(tmp_path)
    fit("map", tmp_path / "map", data, VIT, parts=COMBINED)
    fit("compose", tmp_path / "compose", data, str(tmp_path / "map"), combiner_lr=1e-2)
    first, _ = load_model(tmp_path / "map", need="map")
    last, _ = load_model(tmp_path / "compose" / "last", need="compose")
    before, trained = first.parts(), last.parts()
    moved = {name for name in trained if not trained[name].equal(before[name])}
    assert {
        f"combiner.{name}"
        for name in ("image.weight", "out_gate.weight", "out_residual.weight", "captions")
    } <= moved
    assert {name.split(".")[0] for name in moved} <= {"adapters", "combiner"}
    norms = trained["combiner.captions"].norm(dim=-1)
    torch.testing.assert_close(norms, norms.round(), atol=1e-4, rtol=0)  # captions, or none
    assert norms.sum() >= 1
