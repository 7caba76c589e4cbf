"""Compare an edited clip with its source: fidelity, identity, steadiness, sound and timing."""

from vidinvert.evaluation.definitions import DEFINITIONS, Definition
from vidinvert.evaluation.report import Evaluation, evaluate_video

__all__ = ["DEFINITIONS", "Definition", "Evaluation", "evaluate_video"]
