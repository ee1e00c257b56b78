"""The rivals: their losses, their prompts, and that their training resumes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_ablation import RECIPE, SETTINGS
from tiny_training import unflushed

from benchmarks.ablation.fit_rival import fit_rival
from benchmarks.ablation.rivals import (
    RIVALS,
    cosine_loss,
    likeliest_scale,
    projection_model,
    token_distillation,
    tokenizer_of,
)
from train.data import read_collection
from train.model import ComposedModel, load_model, masked_ids, text_ids
from train.settings import Compute, StageSettings
from train.stages.losses import noisy_text, self_masking_loss
from train.wordings import masked_caption


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with unflushed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.triplets.stage_two.DEVELOPMENT_TRIPLETS", 8)
        yield


class TestRivals:
    def test_distillation_is_the_loss_of_the_paper(self) -> None:
        rng = np.random.default_rng(0)
        inverted, predicted = rng.standard_normal((2, 3, 4))
        both = np.concatenate([inverted, predicted])
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        similar = np.exp(both @ both.T / 0.25)
        expected = 0.0
        for one in range(6):
            partner = (one + 3) % 6
            others = sum(similar[one, other] for other in range(6) if other != one)
            expected -= math.log(similar[one, partner] / others) / 6
        found = token_distillation(torch.tensor(inverted), torch.tensor(predicted), 0.25)
        assert found.item() == pytest.approx(expected, rel=1e-6)

    def test_distillation_by_hand(self) -> None:
        words = torch.eye(2)  # partners equal, all others at right angles
        found = token_distillation(words, 5 * words, 1.0)  # of any length
        assert found.item() == pytest.approx(math.log(1 + 2 / math.e), rel=1e-6)

    def test_the_likeliest_scale_is_the_one_that_drew_the_pairs(self) -> None:
        """Captions are drawn with the probabilities that a scale gives."""
        generator = torch.Generator().manual_seed(0)
        images = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator), dim=1)
        for scale in (4.0, 12.0):
            some = torch.nn.functional.normalize(torch.randn(20000, 8, generator=generator), dim=1)
            own = (scale * some @ images.T).softmax(1).multinomial(1, generator=generator)[:, 0]
            # one caption of each image, so that a batch holds it once
            rows = torch.tensor([int((own == image).nonzero()[0]) for image in range(64)])
            found = likeliest_scale(some[rows], images, 64)
            assert found == pytest.approx(scale, rel=0.35)

    def test_cosine_and_squared_error_by_hand(self) -> None:
        one, other = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
        assert cosine_loss(one, other).item() == pytest.approx(0.5)
        assert self_masking_loss(one, other).item() == pytest.approx((1 + 1) / 4)

    def test_noise_is_uniform_times_normal_over_the_projections_scale(self) -> None:
        embeds = torch.zeros(4000, 16)
        noise = noisy_text(embeds, np.random.default_rng(0)).numpy() * 4
        assert noise.std() == pytest.approx(math.sqrt(1 / 3), rel=0.02)  # E[u^2] = 1/3
        lengths = np.sqrt((noise**2).mean(axis=1))
        assert lengths.mean() == pytest.approx(0.5, abs=0.02)  # one u a text
        same = noisy_text(embeds, np.random.default_rng(0)).numpy() * 4
        np.testing.assert_array_equal(noise, same)

    @pytest.mark.parametrize(
        ("caption", "pieces"),
        [
            ("Red dress for women", [None, "for", None]),
            ("a photo of the navy-blue T-shirt", ["a", None, "of the", None]),
            ("Puma Men Black T-shirt", [None]),
            ("for the", ["a photo of", None]),
            ("", ["a photo of", None]),
            ("costs $ 20", [None]),
        ],
    )
    def test_keywords_are_masked(self, caption: str, pieces: list[str | None]) -> None:
        assert masked_caption(caption) == pieces

    def test_masked_captions_are_encoded_around_placeholders(self, ablation_data: Path) -> None:
        tokenizer = tokenizer_of(load_model(ablation_data / "clip")[0])
        plain = text_ids(["for the"])[0].tolist()
        found = masked_ids(tokenizer, [None, "for the", None])
        assert found == [plain[0], -1, *plain[1:-1], -1, plain[-1]]
        long = masked_ids(tokenizer, ["dress " * 40, None, "dress " * 40])
        assert (len(long), long[-1], long[41]) == (tokenizer.context_length, tokenizer.eot, -1)

    def test_several_placeholders_have_the_same_pseudo_word(self, ablation_data: Path) -> None:
        backbone, _ = load_model(ablation_data / "clip")
        model = projection_model(backbone.backbone, "lincir")
        tokenizer = tokenizer_of(model)
        ids = torch.tensor([masked_ids(tokenizer, [None, "for", None])])
        word = torch.randn(1, 1, model.backbone.text_width)
        nothing = torch.zeros(1, 0, 1, 1)
        zero = torch.zeros(1)
        once = model.encode_query(ids, zero.long(), zero, word, nothing, nothing)
        twice = model.encode_query(ids, zero.long(), zero, word.expand(-1, 2, -1), nothing, nothing)
        torch.testing.assert_close(once, twice)

    def test_a_rival_gets_only_the_embedding_at_length_sqrt_d(self, ablation_data: Path) -> None:
        backbone, _ = load_model(ablation_data / "clip")
        v = torch.nn.functional.normalize(torch.randn(2, 32), dim=-1)
        for name in RIVALS:
            model = projection_model(backbone.backbone, name)
            word, keys, values = model.learn_token(v, torch.randn(2, 4, 32))
            network = model.token_learner.network
            torch.testing.assert_close(word[:, 0], network(v * 32**0.5))  # type: ignore[operator]
            assert keys.numel() == values.numel() == 0
            assert not len(model.adapters)

    @pytest.mark.parametrize("rival", list(RIVALS))
    def test_an_interrupted_rival_resumes(
        self, ablation_data: Path, tmp_path: Path, rival: str
    ) -> None:
        images, _ = read_collection([str(ablation_data / "train-*.tar")])

        def fit(folder: str, stop_after: int | None = None) -> ComposedModel:
            stage = StageSettings(
                tmp_path / folder,
                ablation_data / "features",
                stop_after,
                compute=Compute(device="cpu"),
            )
            clip, texts = str(ablation_data / "clip"), tmp_path / "texts"
            return fit_rival(rival, clip, images, RECIPE.mapping, SETTINGS, stage, texts)

        whole = fit("whole").token_learner.state_dict()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.loop.run.FIRST_ESTIMATE", 1)
            _save_every_step(patch)
            fit("killed", stop_after=2)
        after = fit("killed").token_learner.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in whole.items())
        fresh = projection_model(load_model(ablation_data / "clip")[0].backbone, rival)
        assert any(
            not torch.equal(tensor, after[name])
            for name, tensor in fresh.token_learner.state_dict().items()
        )


def _save_every_step(patch: pytest.MonkeyPatch) -> None:
    from train.loop.run import Run

    start = Run.__init__

    def begin(self: Run, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **{**options, "save_every": 1})

    patch.setattr(Run, "__init__", begin)
