"""Type of product -> the function that draws it; `drawings` decides what is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable

from ztcir_sdk.drawings import bags_and_shoes, garments
from ztcir_sdk.drawings.canvas import COLOUR_RANGES, PATTERNS, Canvas, Cloth, Fabric

__all__ = ["COLOUR_RANGES", "PATTERNS", "PRODUCTS", "Canvas", "Cloth", "Fabric"]

PRODUCTS: dict[str, Callable[[Canvas, random.Random], None]] = {
    "t-shirt": garments.t_shirt,
    "shirt": garments.shirt,
    "dress": garments.dress,
    "trousers": garments.trousers,
    "skirt": garments.skirt,
    "jacket": garments.jacket,
    "handbag": bags_and_shoes.handbag,
    "backpack": bags_and_shoes.backpack,
    "sneaker": bags_and_shoes.sneaker,
    "boot": bags_and_shoes.boot,
}
