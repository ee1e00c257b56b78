"""Token learner, injection and adapters against NumPy and open_clip's own blocks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf, softmax
from tiny_training import CONVNET, PARTS, QUICK, VIT, tiny_model
from torch import Tensor

from train.model import (
    BackboneConfig,
    ComposedModel,
    UnsupportedBackboneError,
    create_backbone,
    encode_by_length,
    mapped_ids,
    prompt_ids,
    text_ids,
)
from train.model.attention import attend
from train.model.composing_adapter import ComposingAdapter
from train.model.token_learner import TokenLearner
from train.model.visual_semantic_injection import VisualSemanticInjection
from ztcir_sdk.names import PLACEHOLDER_ID
from ztcir_sdk.tokenizer import TextTruncatedWarning

Array = NDArray[np.float64]

TOWERS = (VIT, CONVNET, QUICK)
TEXTS = ("make it red", "the same at night, but for women", "x", "blue!")


# --- the same mathematics, written out ----------------------------------------------------------


class Weights:
    """A module's weights as float64 arrays, by name below a prefix."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self.state[self.prefix + name].detach().double())

    def below(self, name: str) -> Weights:
        return Weights(self.state, f"{self.prefix}{name}.")

    def linear(self, name: str, x: Array) -> Array:
        product: Array = np.einsum("...i,oi->...o", x, self[f"{name}.weight"])
        return np.asarray(product + self[f"{name}.bias"])

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * self[f"{name}.weight"] + self[f"{name}.bias"])


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(2))))


def plain_attention(queries: Array, keys: Array, values: Array, heads: int) -> Array:
    """softmax(q k^T / sqrt(d)) v in ``heads`` parts; (B, T, d), (B, N, d), (B, N, d)."""
    q, k, v = (x.reshape(*x.shape[:2], heads, x.shape[2] // heads) for x in (queries, keys, values))
    scores = np.einsum("bthd,bnhd->bhtn", q, k) / np.sqrt(q.shape[-1])
    mixed: Array = np.einsum("bhtn,bnhd->bthd", softmax(scores, axis=-1), v)
    return mixed.reshape(queries.shape)


def plain_token(w: Weights, v: Array, patches: Array, depth: int, heads: int) -> Array:
    queries = w["queries"][None] + w.linear("condition", v * np.sqrt(v.shape[-1]))[:, None]
    seen = w.linear("to_patches", w.norm("norm_patches", patches))
    for number in range(depth):
        block = w.below(f"blocks.{number}")
        attended = plain_attention(
            block.linear("to_query", block.norm("norm_query", queries)),
            block.linear("to_key", seen),
            block.linear("to_value", seen),
            heads,
        )
        queries = queries + block.linear("to_out", attended)
        inner = gelu(block.linear("mlp.0", block.norm("norm_mlp", queries)))
        queries = queries + block.linear("mlp.2", inner)
    return w.linear("to_token", w.norm("norm_out", queries))


def plain_injection(w: Weights, i: int, h: Array, at: Array, patches: Array, heads: int) -> Array:
    seen = w.norm("norm_patches", patches)
    attended = plain_attention(
        w.linear(f"to_query.{i}", w.norm(f"norms.{i}", h)),
        w.linear(f"to_keys.{i}", seen),
        w.linear(f"to_values.{i}", seen),
        heads,
    )
    injected = np.tanh(w["gates"][i]) * w.linear(f"to_out.{i}", attended)
    return np.where(at[..., None], h + injected, h)


def plain_adapter(w: Weights, x: Array, scale: Array) -> Array:
    adapted = w.linear("up", gelu(w.linear("down", w.norm("norm", x))))
    return x + scale[:, None, None] * adapted


@torch.no_grad()
def plain_query(
    model: ComposedModel, ids: Tensor, index: Tensor, scale: Tensor, v: Tensor, patches: Tensor
) -> Array:
    """The whole text encoder: open_clip's own blocks at full length, the parts in NumPy."""
    text = model.backbone.text
    w = Weights(model.parts())
    length = model.backbone.context_length
    ids = torch.nn.functional.pad(ids, (0, length - ids.shape[1]))
    at = (ids < 0).numpy()
    embeds, seen = v.double().numpy()[index], patches.double().numpy()[index]
    token_heads, vsi_heads = model.config.token_learner_heads, model.config.vsi_heads
    words = plain_token(
        w.below("token_learner"), embeds, seen, model.config.token_learner_depth, token_heads
    )
    x = text.token_embedding(ids.clamp(min=0)).double().numpy()
    for row, column in zip(*np.nonzero(at), strict=True):
        x[row, column] = words[row, int(at[row, :column].sum())]
    x = x + text.positional_embedding.double().numpy()
    for layer, block in enumerate(text.transformer.resblocks):
        if model.vsi is not None and layer in model.vsi.layers:
            i = model.vsi.layers.index(layer)
            x = plain_injection(w.below("vsi"), i, x, at, seen, vsi_heads)
        x = block(torch.from_numpy(x).float(), attn_mask=text.attn_mask).double().numpy()
        if len(model.adapters):
            x = plain_adapter(w.below(f"adapters.{layer}"), x, scale.double().numpy())
    ends = ids.argmax(-1)
    pooled = text.ln_final(torch.from_numpy(x).float())[torch.arange(len(ids)), ends]
    projection = text.text_projection
    pooled = projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
    return np.asarray((pooled / pooled.norm(dim=-1, keepdim=True)).double())


# --- fixtures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TOWERS)
def model(request: pytest.FixtureRequest) -> ComposedModel:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def vit() -> ComposedModel:
    return tiny_model(VIT)


def images(model: ComposedModel, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.backbone.image_size, generator=generator)


@torch.no_grad()
def encode(
    model: ComposedModel, ids: Tensor, index: Tensor, scale: Tensor, reference: tuple[Tensor, ...]
) -> Tensor:
    return model.encode_query(ids, index, scale, *reference)


def bare(model: ComposedModel) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors of a reference, for texts without a placeholder."""
    with torch.no_grad():
        return model.learn_token(*model.encode_image(images(model, 1)))


def state(module: torch.nn.Module) -> Weights:
    return Weights(module.state_dict())


def shake(module: torch.nn.Module, seed: int = 0) -> None:
    """Move every weight away from where it began."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


# --- the parts ----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(*(st.integers(1, 4) for _ in range(5)), st.integers(0, 1000))
def test_attention(batch: int, texts: int, patches: int, heads: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(batch, length, heads * width, generator=generator, dtype=torch.float64)
        for length in (texts, patches, patches)
    )
    expected = plain_attention(q.numpy(), k.numpy(), v.numpy(), heads)
    np.testing.assert_allclose(attend(q, k, v, heads).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("tokens", [1, 3])
def test_token_learner(depth: int, tokens: int) -> None:
    learner = TokenLearner(6, 5, 10, tokens=tokens, width=8, depth=depth, heads=2).double()
    shake(learner)
    v, patches = torch.randn(4, 6).double(), torch.randn(4, 7, 5).double()
    with torch.no_grad():
        token = learner(v, patches).numpy()
    assert token.shape == (4, tokens, 10)
    expected = plain_token(state(learner), v.numpy(), patches.numpy(), depth, 2)
    np.testing.assert_allclose(token, expected, atol=1e-10)


def test_a_token_learner_of_depth_0_projects_the_embedding_alone() -> None:
    learner = TokenLearner(6, 5, 10, width=8, depth=0, heads=2)
    shake(learner)
    v = torch.randn(2, 6)
    one, other = (learner(v, torch.randn(2, 7, 5)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.allclose(one, learner(v + 0.1, torch.randn(2, 7, 5)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=3))
def test_injection_at_the_placeholders_alone(at: list[list[bool]]) -> None:
    vsi = VisualSemanticInjection(5, 12, (1, 3), width=8, heads=2).double()
    shake(vsi)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(len(at), 5, 12, generator=generator, dtype=torch.float64)
    patches = torch.randn(len(at), 6, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor(at)
    with torch.no_grad():
        keys, values = vsi.project(patches)
        assert keys.shape == values.shape == (len(at), 2, 6, 8)
        for i, layer in enumerate((1, 3)):
            injected = vsi.inject(layer, h, mask, keys, values)
            expected = plain_injection(state(vsi), i, h.numpy(), mask.numpy(), patches.numpy(), 2)
            np.testing.assert_allclose(injected.numpy(), expected, atol=1e-10)
            assert torch.equal(injected[~mask], h[~mask])
            assert not mask.any() or ((injected[mask] - h[mask]).abs().amax(-1) > 1e-3).all()
        assert vsi.inject(2, h, mask, keys, values) is h


def test_a_closed_gate_injects_nothing() -> None:
    vsi = VisualSemanticInjection(5, 12, (0, 1), width=8, heads=2)
    shake(vsi)
    h, at = torch.randn(2, 4, 12), torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        vsi.gates[1] = 0
        keys, values = vsi.project(torch.randn(2, 6, 5))
        assert torch.equal(vsi.inject(1, h, at, keys, values), h)
        assert not torch.allclose(vsi.inject(0, h, at, keys, values), h)


def test_gates_begin_near_zero_and_open() -> None:
    gates = VisualSemanticInjection(5, 12, (0, 2), width=8, heads=2).gates
    assert ((gates.abs() > 0) & (gates.abs() <= 0.2)).all()  # at 0 nothing behind them would learn


def test_adapter() -> None:
    adapter = ComposingAdapter(6, 3).double()
    shake(adapter)
    x, scale = torch.randn(4, 5, 6).double(), torch.tensor([0.0, 0.5, 1.0, -2.0]).double()
    with torch.no_grad():
        adapted = adapter(x, scale)
    expected = plain_adapter(state(adapter), x.numpy(), scale.numpy())
    np.testing.assert_allclose(adapted.numpy(), expected, atol=1e-12)
    assert torch.equal(adapted[0], x[0])
    assert not torch.allclose(adapted[2], x[2])


def test_a_new_adapter_changes_nothing() -> None:
    x = torch.randn(2, 5, 6)
    assert torch.equal(ComposingAdapter(6, 3)(x, torch.tensor([1.0, 100.0])), x)


# --- texts of like length -----------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 8))
def test_texts_of_similar_length_are_encoded_together_and_returned_in_order(
    lengths: list[int], most: int
) -> None:
    seen: list[list[int]] = []

    def encode(rows: NDArray[np.int64]) -> Tensor:
        seen.append([lengths[row] for row in rows])
        return torch.from_numpy(rows)[:, None].float()

    assert encode_by_length(lengths, encode, most)[:, 0].tolist() == list(range(len(lengths)))
    assert [one for group in seen for one in group] == sorted(lengths)
    assert max(map(len, seen)) <= most


# --- the whole model ----------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("tower", TOWERS)
def test_queries_equal_the_method_in_numpy(tower: str, tokens: int) -> None:
    model = tiny_model(tower, dataclasses.replace(PARTS, tokens=tokens))
    ids = prompt_ids(TEXTS, tokens=tokens)
    index = torch.tensor([1, 0, 1, 2])  # references shared, out of order
    scale = torch.tensor([1.0, 0.0, 0.4, 1.0])
    with torch.no_grad():
        v, patches = model.encode_image(images(model, 3))
        reference = model.learn_token(v, patches)
    found = encode(model, ids, index, scale, reference).numpy()
    expected = plain_query(model, ids, index, scale, v, patches)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[:, None] - found[None]).max() > 0.1  # they do say different things


@torch.no_grad()
def test_without_placeholder_and_adapters_it_is_open_clips_text_encoder(
    model: ComposedModel,
) -> None:
    clip = model.backbone.clip
    texts = [*TEXTS, "a very long text " * 40, "<end_of_text> in red"]
    with pytest.warns(TextTruncatedWarning):
        ids = text_ids(texts)
    zeros = torch.zeros(len(texts))
    found = encode(model, ids, zeros.long(), zeros, bare(model))
    padded = open_clip.get_tokenizer("ViT-B-32")(texts[:-1])
    expected = clip.encode_text(padded, normalize=True)
    assert (found[:-1] - expected).abs().max() <= 1e-5
    padded = torch.nn.functional.pad(ids[-1:], (0, 77 - ids.shape[1]))
    assert (found[-1:] - clip.encode_text(padded, normalize=True)).abs().max() <= 1e-5


@torch.no_grad()
def test_image_embeddings_equal_open_clips(model: ComposedModel) -> None:
    pixels = images(model, 3)
    visual = model.backbone.clip.visual
    v, patches = model.encode_image(pixels)
    expected = model.backbone.clip.encode_image(pixels, normalize=True)
    assert (v - expected).abs().max() <= 1e-6
    if hasattr(visual, "trunk"):
        feature_map = visual.trunk.forward_features(pixels)
        height, width = feature_map.shape[2:]
        assert height > width > 1
        rows = [feature_map[:, :, i, j] for i in range(height) for j in range(width)]
        assert torch.equal(patches, torch.stack(rows, dim=1))
    else:
        visual.output_tokens = True
        _, tokens = visual(pixels)
        visual.output_tokens = False
        assert (patches - tokens).abs().max() <= 1e-6
    assert patches.shape[1:] == (model.backbone.num_patches, model.backbone.patch_dim)
    assert v.shape[1] == model.backbone.embed_dim


@pytest.mark.parametrize("tower", TOWERS)
def test_before_training_adapters_leave_stage_1_exactly_as_it_is(tower: str) -> None:
    fresh = tiny_model(tower, random=False)
    without = tiny_model(tower, dataclasses.replace(PARTS, adapter_bottleneck=0), random=False)
    without.load_state_dict(fresh.state_dict(), strict=False)
    ids, index = prompt_ids(TEXTS), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        reference = fresh.learn_token(*fresh.encode_image(images(fresh, 2)))
    off, on = (encode(fresh, ids, index, torch.full((4,), a), reference) for a in (0.0, 1.0))
    assert torch.equal(off, on)
    assert torch.equal(off, encode(without, ids, index, torch.ones(4), reference))


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_strength_can_be_multiplied_into_the_adapters(strength: float) -> None:
    model, weaker = tiny_model(), tiny_model()
    weaker.load_state_dict(model.parts(strength=strength), strict=False)
    ids, index = prompt_ids(TEXTS), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        reference = model.learn_token(*model.encode_image(images(model, 2)))
    for scale in (1.0, 0.3):
        expected = encode(model, ids, index, torch.full((4,), scale * strength), reference)
        found = encode(weaker, ids, index, torch.full((4,), scale), reference)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_prompt_cut_after_its_end_is_encoded_like_the_padded_one(model: ComposedModel) -> None:
    reference = bare(model)
    for text in TEXTS:
        ids = prompt_ids([text])
        padded = torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))
        one, zero = torch.ones(1), torch.zeros(1).long()
        cut = encode(model, ids, zero, one, reference)
        torch.testing.assert_close(
            encode(model, padded, zero, one, reference), cut, atol=1e-6, rtol=0
        )


def test_queries_do_not_depend_on_the_rest_of_the_batch(vit: ComposedModel) -> None:
    with torch.no_grad():
        reference = vit.learn_token(*vit.encode_image(images(vit, 3)))
    ids, index, scale = prompt_ids(TEXTS), torch.tensor([2, 0, 2, 1]), torch.rand(4)
    together = encode(vit, ids, index, scale, reference)
    for row in range(4):
        alone = encode(
            vit,
            prompt_ids([TEXTS[row]]),
            torch.zeros(1).long(),
            scale[row : row + 1],
            tuple(part[index[row]][None] for part in reference),
        )
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


def test_every_tensor_of_a_reference_matters(model: ComposedModel) -> None:
    reference = bare(model)
    ids, zero = prompt_ids(["make it red"]), torch.zeros(1).long()
    before = encode(model, ids, zero, torch.ones(1), reference)

    def moved(*parts: Tensor, scale: float = 1.0) -> float:
        after = encode(model, ids, zero, torch.tensor([scale]), parts)
        return (after - before).abs().max().item()

    words, keys, values = reference
    assert keys.shape[1] == 2
    assert moved(words, keys, values) == 0
    assert moved(words + torch.randn(words.shape), keys, values) > 1e-3
    assert moved(words, keys, values, scale=0.5) > 1e-3
    for layer in range(2):
        other = values.clone()
        other[:, layer] += torch.randn(values[:, layer].shape)
        assert moved(words, keys, other) > 1e-4
        other = keys.clone()
        other[:, layer] += torch.randn(keys[:, layer].shape) * 5
        assert moved(words, other, values) > 1e-4


def test_each_pseudo_word_stands_at_its_own_place() -> None:
    model = tiny_model(VIT, dataclasses.replace(PARTS, tokens=3))
    words, keys, values = bare(model)
    ids, zero, one = mapped_ids(1, tokens=3), torch.zeros(1).long(), torch.ones(1)
    assert (ids == PLACEHOLDER_ID).sum() == 3
    before = encode(model, ids, zero, one, (words, keys, values))
    for place in range(3):
        other = words.clone()
        other[:, place] += 1 + torch.rand(32)
        assert (encode(model, ids, zero, one, (other, keys, values)) - before).abs().max() > 1e-3
    swapped = words[:, [1, 0, 2]]
    assert (encode(model, ids, zero, one, (swapped, keys, values)) - before).abs().max() > 5e-5


def test_a_text_without_placeholder_does_not_see_the_image(model: ComposedModel) -> None:
    ids = text_ids(TEXTS)
    zeros, ones = torch.zeros(len(TEXTS)).long(), torch.ones(len(TEXTS))
    reference = bare(model)
    other = tuple(part + 1 for part in reference)
    assert torch.equal(
        encode(model, ids, zeros, ones, reference), encode(model, ids, zeros, ones, other)
    )


def test_parts_can_be_left_out() -> None:
    nothing = dataclasses.replace(PARTS, token_learner_depth=0, vsi_layers=(), adapter_bottleneck=0)
    model = tiny_model(VIT, nothing)
    with torch.no_grad():
        v, patches = model.encode_image(images(model, 2))
        reference = model.learn_token(v, patches)
        again = model.learn_token(v, patches + torch.randn(patches.shape))
    assert reference[0].shape == (2, 1, 32)
    assert reference[1].shape[:2] == reference[2].shape[:2] == (2, 0)
    assert torch.equal(reference[0], again[0])
    assert {name.split(".")[0] for name in model.parts()} == {"token_learner"}
    ids, index = prompt_ids(TEXTS), torch.tensor([0, 1, 0, 1])
    found = encode(model, ids, index, torch.zeros(4), reference)
    assert torch.equal(found, encode(model, ids, index, torch.ones(4), reference))
    expected = plain_query(model, ids, index, torch.zeros(4), v, patches)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_by_default_every_second_block_from_the_second_on_is_injected() -> None:
    model = tiny_model(VIT, dataclasses.replace(PARTS, vsi_layers=None))
    assert model.vsi is not None
    assert model.vsi.layers == (1,)


@pytest.mark.parametrize("layers", [(2,), (-1, 0)])
def test_injection_needs_a_block_to_inject_into(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are not all among 2 blocks"):
        tiny_model(VIT, dataclasses.replace(PARTS, vsi_layers=layers))


def test_the_backbone_is_frozen_and_all_the_rest_learns(model: ComposedModel) -> None:
    v, patches = model.encode_image(images(model, 2))
    reference = model.learn_token(v, patches)
    queries = model.encode_query(
        prompt_ids(["red", "blue"]), torch.tensor([0, 1]), torch.ones(2), *reference
    )
    model.zero_grad()
    queries[:, 0].sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone."):
            assert parameter.grad is not None, name
            # a shift of all keys changes no softmax
            assert parameter.grad.abs().max() > 1e-12 or "key" in name, name
    model.zero_grad()


def test_texts_in_the_order_of_their_references_need_no_index(model: ComposedModel) -> None:
    with torch.inference_mode():
        reference = model.learn_token(*model.encode_image(images(model, 2)))
        ids, scale = prompt_ids(["red", "blue"]), torch.ones(2)
        indexed = model.encode_query(ids, torch.arange(2), scale, *reference)
        assert torch.equal(model.encode_query(ids, None, scale, *reference), indexed)


# --- backbones ----------------------------------------------------------------------------------


def test_the_activation_is_detected() -> None:
    assert tiny_model(QUICK).backbone.quick_gelu
    assert not tiny_model(VIT).backbone.quick_gelu


@pytest.mark.parametrize(
    ("vision", "text", "sentence"),
    [
        ({}, {"pool_type": "eos"}, "pools by 'eos'"),
        ({}, {"qk_norm": True}, "not open_clip's standard transformer"),
        ({}, {"embed_cls": True}, "class token"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, {}, "pool by attention"),
        ({"layers": [1, 1, 1, 1], "image_size": 64}, {}, "image tower ModifiedResNet"),
    ],
)
def test_unsupported_towers_are_refused(
    vision: dict[str, object], text: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    tower = {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8}
    words = {"context_length": 77, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    config = {
        "embed_dim": 8,
        "vision_cfg": {**tower, **vision},
        "text_cfg": {**words, **text},
        **({"custom_text": True} if "embed_cls" in text else {}),
    }
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.model_names.CONFIGS", tmp_path)
        with pytest.raises(UnsupportedBackboneError, match=sentence):
            create_backbone(BackboneConfig("strange"))


def test_unknown_models_and_weights_are_refused() -> None:
    with pytest.raises(
        UnsupportedBackboneError, match="no-such-model is neither an open_clip model nor"
    ):
        create_backbone(BackboneConfig("no-such-model"))
    with pytest.raises(UnsupportedBackboneError, match="'no-such-tag' of tiny-vit"):
        create_backbone(BackboneConfig(VIT, "no-such-tag"))
