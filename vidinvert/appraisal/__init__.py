"""What a face pack reaches on pictures of faces: how well it inverts, and what its edits do."""

from vidinvert.appraisal.appraise import Appraisal, appraise, appraise_inversion, choose_faces
from vidinvert.appraisal.edits import Editor, appraise_edits, edit_crops
from vidinvert.appraisal.instruments import Instruments, load_instruments
from vidinvert.appraisal.pictures import appraise_blend, appraise_masks, appraise_round_trip

__all__ = [
    "Appraisal",
    "Editor",
    "Instruments",
    "appraise",
    "appraise_blend",
    "appraise_edits",
    "appraise_inversion",
    "appraise_masks",
    "appraise_round_trip",
    "choose_faces",
    "edit_crops",
    "load_instruments",
]
