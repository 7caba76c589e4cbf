import torch

from tests.training.tiny import perceptual
from vidinvert.networks.squeezenet import feature_distance


def random_images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 64, 64, generator=generator) * 2 - 1


def test_the_perceptual_distance_is_zero_for_equals_and_symmetric():
    network = perceptual()
    first, second = random_images(2), random_images(2, seed=1)
    assert network.distance(first, first) == 0.0
    there, back = network.distance(first, second), network.distance(second, first)
    assert there > 0.01
    torch.testing.assert_close(there, back)


def test_features_are_unit_vectors_and_the_distance_has_one_value_a_picture():
    network = perceptual()
    features = network(random_images(2))
    assert [tuple(f.shape[:2]) for f in features] == [(2, 96), (2, 256), (2, 384), (2, 512)]
    for tap in features:
        lengths = tap.norm(dim=1)
        assert torch.all((lengths - 1.0).abs() < 1e-4)
    per_picture = feature_distance(features, [tap.flip(0) for tap in features])
    assert per_picture.shape == (2,)
    torch.testing.assert_close(per_picture[0], per_picture[1])


def test_the_distance_teaches_the_picture_and_not_the_network():
    network = perceptual()
    picture = random_images(1).requires_grad_(True)
    network.distance(picture, random_images(1, seed=1)).backward()
    assert picture.grad is not None
    assert picture.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
