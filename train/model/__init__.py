"""The model in PyTorch: the frozen CLIP backbone, the parts trained around it, and checkpoints."""

from __future__ import annotations

from train.model.backbone import Backbone, BackboneConfig, create_backbone
from train.model.checkpoint import (
    CheckpointError,
    find_checkpoint,
    hash_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    same_tensors,
    write_checkpoint,
)
from train.model.composed_model import ComposedModel
from train.model.loading import (
    check_backbone,
    check_stage,
    describe_model,
    load_backbone,
    load_model,
    own_weights,
)
from train.model.prompts import encode_by_length, mapped_ids, masked_ids, prompt_ids, text_ids
from train.model.text_tower import CLIP_TOWER, TextTower
from train.model.vocabulary import text_layout, tower_tokenizer, write_tokenizer
from train.model_names import UnsupportedBackboneError
from train.settings import CONFIGS, ModelConfig, model_config

__all__ = [
    "CLIP_TOWER",
    "CONFIGS",
    "Backbone",
    "BackboneConfig",
    "CheckpointError",
    "ComposedModel",
    "ModelConfig",
    "TextTower",
    "UnsupportedBackboneError",
    "check_backbone",
    "check_stage",
    "create_backbone",
    "describe_model",
    "encode_by_length",
    "find_checkpoint",
    "hash_tensors",
    "load_backbone",
    "load_model",
    "load_optimizer_tensors",
    "mapped_ids",
    "masked_ids",
    "model_config",
    "optimizer_tensors",
    "own_weights",
    "prompt_ids",
    "read_checkpoint",
    "same_tensors",
    "text_ids",
    "text_layout",
    "tower_tokenizer",
    "write_checkpoint",
    "write_tokenizer",
]
