"""A tiny SigLIP: not causal, pooled at its last position, with a vocabulary that is made here.

SigLIP's own vocabularies would have to be downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_runs import write_configuration
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "a photo of that with without make it red blue green larger smaller shirt dress shoe longer "
    "sleeves for women men the same but in at night strasse cafe don t end eos unused pad"
)
LENGTH = 48
NON_CAUSAL = {"no_causal_mask": True, "context_length": LENGTH}
SIGLIP = {
    **NON_CAUSAL,
    "layers": 2,
    "hf_tokenizer_name": "vocabulary",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}


def write_vocabulary(folder: Path, kind: str) -> int:
    """Write a small vocabulary like SigLIP's ("t5") or SigLIP 2's ("gemma"); return its size."""
    corpus = [WORDS, WORDS[::-1], "abcdefghijklmnopqrstuvwxyz0123456789 äöüßéñ中文"]
    if kind == "t5":
        special = ["<pad>", "</s>", "<unk>"]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        end, pad = "</s>", "</s>"  # SigLIP pads with its end-of-text
    else:
        special = ["<pad>", "<eos>", "<bos>", "<unk>"]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
        end, pad = "<eos>", "<pad>"
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token=pad, unk_token="<unk>"
    )
    fast.save_pretrained(str(folder))
    return tokenizer.get_vocab_size()


def write_siglip(folder: Path, kind: str) -> Path:
    """Write a tiny SigLIP's configuration, with a vocabulary of that kind; return the folder."""
    size = write_vocabulary(folder / "vocabulary", kind)
    return write_configuration(
        folder, text={**SIGLIP, "vocab_size": size}, custom_text=True, init_logit_bias=-10
    )
