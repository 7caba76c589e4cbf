"""The detector's outputs have the layout that insightface reads as SCRFD."""

import numpy as np
import torch

from vidinvert.networks.detector import (
    ANCHOR_SIZES,
    STRIDES,
    FaceDetectorNet,
    cell_points,
    row_scales,
)


def make_net() -> FaceDetectorNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return FaceDetectorNet(widths=(4, 4, 6, 8, 8), neck_width=8).eval()


def test_the_nine_outputs_are_scores_boxes_and_points_from_fine_to_coarse():
    height, width = 96, 128
    outputs = make_net()(torch.zeros(2, 3, height, width))
    rows = [(height // s) * (width // s) * 2 for s in STRIDES]
    expected = [(2, n, w) for w in (1, 4, 10) for n in rows]
    assert [tuple(output.shape) for output in outputs] == expected


def test_rows_run_over_the_cells_row_by_row_with_the_anchors_innermost():
    net = make_net()
    with torch.no_grad():
        net.tower.weight.zero_()
        net.tower.bias.fill_(1.0)
        net.score.weight.zero_()
        net.score.bias.copy_(torch.tensor([1.0, 2.0]))
    first = net(torch.zeros(1, 3, 64, 64))[0][0, :, 0]
    assert first.tolist() == [1.0, 2.0] * 64
    points = cell_points((64, 96))
    assert points[:6].tolist() == [[0, 0], [0, 0], [8, 0], [8, 0], [16, 0], [16, 0]]
    assert points[2 * 12].tolist() == [0, 8]


def test_a_picture_changes_only_the_rows_of_its_own_place():
    net = make_net()
    picture = torch.zeros(1, 3, 64, 512)
    changed = picture.clone()
    changed[..., :8, :8] = 1.0
    with torch.no_grad():
        moved = (net(picture)[0] - net(changed)[0])[0, :, 0].abs() > 0
    x = cell_points((64, 512))[: len(moved), 0]
    assert moved.any()
    assert x[moved].max() < 400


def test_box_distances_are_positive_and_start_near_the_anchors_size():
    net = make_net()
    with torch.no_grad():
        for layer in (net.box,):
            layer.weight.zero_()
            layer.bias.zero_()
        outputs = net(torch.zeros(1, 3, 64, 64))
    for boxes, stride, sizes in zip(outputs[3:6], STRIDES, ANCHOR_SIZES, strict=True):
        width = (boxes[0, :2, 0] + boxes[0, :2, 2]) * stride
        np.testing.assert_allclose(width.numpy(), sizes)


def test_every_row_knows_its_stride_and_anchor():
    strides, anchors = row_scales((64, 64))
    assert len(strides) == len(cell_points((64, 64))) == 2 * (64 + 16 + 4)
    assert strides[0] == 8
    assert strides[-1] == 32
    assert anchors[:3].tolist() == [16.0, 32.0, 16.0]
    assert anchors[-2:].tolist() == [256.0, 512.0]


def test_the_shipped_size_stays_below_two_megabytes():
    assert sum(p.numel() for p in FaceDetectorNet().parameters()) * 4 < 2_000_000
