"""How far a face's landmarks may be moved before the picture between them would fold.

Moves come from straight lines fitted over many faces, and faces are not straight: a mouth that is
shut cannot be shut further, and a nose that slides towards an eye must not slide over it. So each
kind of move is held back by what room there is: of a move c towards something at a distance r,
c r / (c + r) is done. That is all of c while it is small, never r, and more for every further c.
Landmarks are 68 in Multi-PIE order.
"""

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

SMALLEST = 1e-9  # of distances, against division by 0
BRIDGE, CHIN = 27, 8
INNER_UPPER, INNER_LOWER = (61, 62, 63), (67, 66, 65)  # lips, point above point
# Upper and lower lids, then inner lips.
UPPER, LOWER = (37, 38, 43, 44, *INNER_UPPER), (41, 40, 47, 46, *INNER_LOWER)
# By inner upper lip: points of the outer contour above and below, and their share of its moves.
OUTER = {
    61: ((50, 58, 1.0), (49, 59, 0.7)),
    62: ((51, 57, 1.0),),
    63: ((52, 56, 1.0), (53, 55, 0.7)),
}
# Of what lips cannot close any more, outer contours do this share all the same: closed lips are
# pressed together, and grow thinner by at most this share of their thickness.
PRESSED, THINNER = 0.3, 0.6
MOUTH, CORNERS = slice(48, 68), (48, 54)
NARROWEST = 0.5  # of its own width: no mouth becomes narrower, however sad
NOSE = slice(27, 36)
INNER_CORNERS, CHEEKS = (39, 42), (3, 13)  # of the eyes; of the jaw: left, right in the picture
# How far the walls that a nose slides towards lie from the eyes' inner corners (0) to the cheeks.
WALLS = np.array([0.0, 0.1, 0.3, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6])


def hold_back(landmarks: Float64Array, moves: Float64Array) -> Float64Array:
    """Hold moves of landmarks back where there is no room for them.

    Args:
        landmarks: (T, 68, 2), any unit.
        moves: (T, 68, 2) in the same unit.

    Returns:
        (T, 68, 2); moves of lids, lips and nose that come near nothing are returned as they are.
    """
    limited = _close_at_most(landmarks, moves)
    limited = _narrow_at_most(landmarks, limited)
    return _slide_at_most(landmarks, limited)


def _share(move: Float64Array, room: Float64Array) -> Float64Array:
    """Return which share of moves >= 0 is done where there is that much room."""
    room = np.maximum(room, SMALLEST)
    return room / (room + move)


def _unit(vectors: Float64Array) -> Float64Array:
    """Return vectors (T, 2) scaled to a length of 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SMALLEST)


def _along(points: Float64Array, axis: Float64Array) -> Float64Array:
    """Return the component of (T, P, 2) along unit vectors (T, 2): (T, P)."""
    return (points * axis[:, None]).sum(axis=2)


def _close_at_most(landmarks: Float64Array, moves: Float64Array) -> Float64Array:
    """Let lids and lips come near each other; outer lips are held back with most of the inner's."""
    down = _unit(landmarks[:, CHIN] - landmarks[:, BRIDGE])
    gap = _along(landmarks[:, LOWER] - landmarks[:, UPPER], down)  # (T, pairs)
    closing = np.maximum(_along(moves[:, UPPER] - moves[:, LOWER], down), 0.0)
    back = 0.5 * (closing * (1.0 - _share(closing, gap)))[..., None] * down[:, None]
    limited = moves.copy()
    limited[:, UPPER] -= back  # (T, pairs, 2)
    limited[:, LOWER] += back
    for inner, outer in OUTER.items():
        pair = UPPER.index(inner)
        for above, below, share in outer:
            for lip, edge, sign in ((above, UPPER[pair], -1.0), (below, LOWER[pair], 1.0)):
                thick = _along(landmarks[:, [edge]] - landmarks[:, [lip]], down)[:, 0]
                kept = _not_pressed(np.linalg.norm(back[:, pair], axis=1), np.abs(thick))
                limited[:, lip] += sign * share * kept[:, None] * back[:, pair]
    return limited


def _not_pressed(undone: Float64Array, thick: Float64Array) -> Float64Array:
    """Return which share (T,) of what lips could not close is taken back of their outer contour."""
    return 1.0 - PRESSED * _share(PRESSED * undone, THINNER * thick)


def _narrow_at_most(landmarks: Float64Array, moves: Float64Array) -> Float64Array:
    """Let a mouth become narrower by less and less, down to `NARROWEST`."""
    left, right = CORNERS
    across = landmarks[:, right] - landmarks[:, left]
    width = np.linalg.norm(across, axis=1)  # (T,)
    across = _unit(across)
    narrower = np.maximum(((moves[:, left] - moves[:, right]) * across).sum(axis=1), 0.0)
    undone = 1.0 - _share(narrower, (1.0 - NARROWEST) * width)
    apart = moves[:, MOUTH] - moves[:, MOUTH].mean(axis=1, keepdims=True)
    limited = moves.copy()
    limited[:, MOUTH] -= (undone[:, None] * _along(apart, across))[..., None] * across[:, None]
    return limited


def _slide_at_most(landmarks: Float64Array, moves: Float64Array) -> Float64Array:
    """Let a nose slide towards an eye or a cheek by less and less."""
    left, right = INNER_CORNERS
    across = _unit(landmarks[:, right] - landmarks[:, left])
    nose, slide = _along(landmarks[:, NOSE], across), _along(moves[:, NOSE], across)  # (T, 9)
    rooms = []
    for ends, sign in zip(zip(INNER_CORNERS, CHEEKS, strict=True), (-1.0, 1.0), strict=True):
        corner, cheek = _along(landmarks[:, ends], across).T  # (T,), (T,)
        wall = corner[:, None] + WALLS * (cheek - corner)[:, None]
        rooms.append(sign * (wall - nose))
    undone = slide * (1.0 - _share(np.abs(slide), np.where(slide > 0, rooms[1], rooms[0])))
    limited = moves.copy()
    limited[:, NOSE] -= undone[..., None] * across[:, None]
    return limited
