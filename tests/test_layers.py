import torch

from models.layers.convnext import ConvNeXtBlock


def test_convnext_padded_clip_equals_clip_alone():
    torch.manual_seed(0)
    blocks = [ConvNeXtBlock(16, layer_scale=1.0) for _ in range(3)]
    short, long = torch.randn(1, 16, 21), torch.randn(1, 16, 40)
    batch = torch.full((2, 16, 40), 7.0)
    batch[0, :, :21], batch[1] = short[0], long[0]
    mask = (torch.arange(40) < torch.tensor([[21], [40]])).float().unsqueeze(1)
    for block in blocks:
        short, long, batch = block(short), block(long), block(batch, mask)
    torch.testing.assert_close(batch[0, :, :21], short[0])
    torch.testing.assert_close(batch[1], long[0])


def test_convnext_has_the_published_parameter_names():
    shapes = {name: tuple(p.shape) for name, p in ConvNeXtBlock(16, 24).named_parameters()}
    assert shapes == {
        "gamma": (16,), "dwconv.weight": (16, 1, 7), "dwconv.bias": (16,), "norm.weight": (16,), "norm.bias": (16,),
        "pwconv1.weight": (24, 16), "pwconv1.bias": (24,), "pwconv2.weight": (16, 24), "pwconv2.bias": (16,),
    }
