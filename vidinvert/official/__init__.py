"""Official checkpoint files into face packs: every name accounted for, nothing run."""

from vidinvert.official.assembling import KINDS, ImportPlan, import_files
from vidinvert.official.directions import DirectionPlan, import_directions

__all__ = ["KINDS", "DirectionPlan", "ImportPlan", "import_directions", "import_files"]
