"""`ztcir adapt`: a collection of photos and a backbone become a bundle, in one call."""

from export.adapt.run import Adaptation, adapt
from export.adapt.settings import AdaptSettings

__all__ = ["AdaptSettings", "Adaptation", "adapt"]
