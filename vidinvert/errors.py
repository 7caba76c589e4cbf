"""The exceptions that a user of vidinvert may meet.

VidinvertError
├── MediaError
│   ├── OpenError      a file cannot be read as a video
│   ├── DecodeError    a video stopped decoding, or decodes to something else than it promised
│   └── EncodeError    the output cannot be written
├── FaceError
│   ├── NoFaceError    no face where one is needed
│   └── TrackLostError a face left the picture where it is needed
├── CheckpointError
│   ├── MissingError       a pack or a file of it is not there
│   ├── ChecksumError      a file is not the one its pack describes
│   └── KeyMismatchError   the parameters in a file are not those of the network
├── AnalysisError   a saved analysis is damaged or of another clip, pack or schema
├── BatchError         a batch cannot go on: another run is at it, or no worker starts
└── PlanError          an edit, a filter or an option that cannot be carried out

Every message says what was seen, what was expected, and what to do. Mistakes of a programmer
(a wrong shape, a wrong dtype) stay `ValueError` or `TypeError`.
"""


class VidinvertError(Exception):
    """Failed for a reason the user can do something about."""


class MediaError(VidinvertError):
    """Failed while reading or writing a media file."""


class OpenError(MediaError):
    """Could not open the file as a video."""


class DecodeError(MediaError):
    """Could not decode every frame of the video."""


class EncodeError(MediaError):
    """Could not write the output."""


class FaceError(VidinvertError):
    """Failed while looking for or following a face."""


class NoFaceError(FaceError):
    """Found no face to work on."""


class TrackLostError(FaceError):
    """Lost a face in frames where it is needed."""


class CheckpointError(VidinvertError):
    """Failed while loading weights."""


class MissingError(CheckpointError):
    """Did not find a pack, or a file that its description names."""


class ChecksumError(CheckpointError):
    """Read a file whose content is not the one its pack describes."""


class KeyMismatchError(CheckpointError):
    """Read parameters that do not fit the network."""


class AnalysisError(VidinvertError):
    """Read a saved analysis that does not fit."""


class BatchError(VidinvertError):
    """Could not run a batch at all; a clip that fails does not raise."""


class PlanError(VidinvertError):
    """Was asked for something that cannot be carried out."""
