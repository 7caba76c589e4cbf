"""Finds faces, follows them through a clip, and places crops on them."""

from vidinvert.faces.align import align, find_key_points, place_landmarks
from vidinvert.faces.crop import crop_batch
from vidinvert.faces.detect import FaceDetector
from vidinvert.faces.select import select_tracks
from vidinvert.faces.track import bridge_gaps, track_faces

__all__ = [
    "FaceDetector",
    "align",
    "bridge_gaps",
    "crop_batch",
    "find_key_points",
    "place_landmarks",
    "select_tracks",
    "track_faces",
]
