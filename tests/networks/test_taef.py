import torch

from vidinvert.networks.taef import taef_decoder, taef_encoder


@torch.inference_mode()
def test_the_teacher_works_at_an_eighth_of_the_size_with_32_channels():
    torch.manual_seed(0)
    latents = taef_encoder().eval()(torch.rand(1, 3, 32, 24))
    assert latents.shape == (1, 32, 4, 3)
    assert taef_decoder().eval()(latents).shape == (1, 3, 32, 24)
