"""Media files: probing, decoding, encoding, and where the shots are."""

from vidinvert.media.codecs import has_encoder
from vidinvert.media.credentials import ManifestSigner, check_credentials
from vidinvert.media.decode import decode
from vidinvert.media.encode import VideoWriter, copy_clip
from vidinvert.media.grey import GREY_SUFFIX, GreyWriter
from vidinvert.media.hardware import HardwareDecoder, check_hardware
from vidinvert.media.joining import SEGMENT_FRAMES, SegmentedWriter
from vidinvert.media.overlap import divide_threads, map_ahead, read_ahead
from vidinvert.media.probe import probe
from vidinvert.media.shots import ShotDetector, load_shot_library
from vidinvert.media.sound import SoundComparison, compare_sound
from vidinvert.media.targets import MUXERS, PendingFile, check_target

__all__ = [
    "GREY_SUFFIX",
    "MUXERS",
    "SEGMENT_FRAMES",
    "GreyWriter",
    "HardwareDecoder",
    "ManifestSigner",
    "PendingFile",
    "SegmentedWriter",
    "ShotDetector",
    "SoundComparison",
    "VideoWriter",
    "check_credentials",
    "check_hardware",
    "check_target",
    "compare_sound",
    "copy_clip",
    "decode",
    "divide_threads",
    "has_encoder",
    "load_shot_library",
    "map_ahead",
    "probe",
    "read_ahead",
]
