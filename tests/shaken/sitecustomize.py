"""Every network starts a few roundings away from where it would, as if a processor that nobody has had computed it.

`tests/portable.py` puts this folder where a kernel finds it. What a page says of a training must not depend on it.
"""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


def _shaken(reset):
    def moved(layer):
        reset(layer)
        with torch.no_grad():
            for p in layer.parameters(recurse=False):
                p.mul_(1 + 4 * torch.finfo(p.dtype).eps)

    return moved


for layer in (nn.Linear, nn.Embedding, nn.LSTMCell, _ConvNd):
    layer.reset_parameters = _shaken(layer.reset_parameters)
