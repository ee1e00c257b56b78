"""What the graphs give for one image, and the images that it was refined from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ztcir_sdk.modification import MAX_FORMER, join_texts

__all__ = ["EncodedImage", "FormerImage"]


@dataclass(eq=False)
class EncodedImage:
    """An image's output of the image encoder and, once it is needed, of the token learner."""

    embedding: NDArray[np.float32]
    """v, (D,), L2-normalised."""
    patches: NDArray[np.float32] | None
    """Patch features (N, d_v); None in a bundle without a token learner."""
    learned: Mapping[str, NDArray[np.float32]] | None = field(default=None, repr=False)
    """Outputs of the token learner, by name. Two threads may both set it, to equal values."""
    former: tuple[FormerImage, ...] = ()
    """The images that it was refined from, oldest first; see `ztcir_sdk.Reference.refine`."""

    def after(self, image: EncodedImage, asked: str | None) -> EncodedImage:
        """Return this image as one that was picked among the hits of another.

        Args:
            image: the image before it.
            asked: what was asked of `image`; None if it is not known, so that neither `image` nor
                those before it can help.
        """
        if asked is None:
            return replace(self, former=())
        former = [FormerImage(one.image, join_texts(one.asked, asked)) for one in image.former]
        former.append(FormerImage(replace(image, former=()), asked))
        return replace(self, former=tuple(former[-MAX_FORMER:]))


@dataclass(frozen=True, eq=False)
class FormerImage:
    """An image before the last one of a trail."""

    image: EncodedImage
    asked: str
    """Everything that was asked of it, and of those after it but the last."""
