"""The networks of the papers, as plain modules: a body that makes features and a linear head that reads them.

Batch norm everywhere uses the statistics of the batch at hand and keeps none (`track_running_stats=False`), at meta-test too, as
the MAML paper's code does: predictions on a query set are then *transductive*, each one depends on the other queries. Measured in
chapter `few-shot-images`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamlkit.calls import checked
from mamlkit.tasks import Params, check_counts, check_names


class Network(nn.Module):
    """A body `(n, ...) -> (n, features)`, then a linear head `(n, features) -> (n, outputs)`; names start `body.` and `head.`"""

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


@checked
def initial_params(model: nn.Module) -> Params:
    """A copy of the model's parameters by name, detached: the theta that meta-training starts from.

    Those that are frozen, `requires_grad_(False)`, are left out: the model's own stand in for them and nothing moves them. A
    tied weight has the first of its names.

    Raises:
        ValueError: nothing is left to learn.
    """
    learned = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    check_counts(**{"the model's number of parameters that require grad": len(learned)})
    return learned


@checked
def adapted_module(model: nn.Module, params: Params) -> nn.Module:
    """A copy of `model` that holds `params`, to be saved, exported or served; ties, buffers and all that `params` lacks are kept.

    Raises:
        ValueError: a name that the model has not, or another shape.
    """
    copied = copy.deepcopy(model)
    check_names(copied, params)
    own = dict(copied.named_parameters(remove_duplicate=False)) | dict(copied.named_buffers())
    with torch.no_grad():
        for name, p in params.items():
            if own[name].shape != p.shape:
                raise ValueError(
                    f"params has {name} of shape {tuple(p.shape)}, but the model {tuple(own[name].shape)}"
                )
            own[name].copy_(p)
    return copied


@checked
def mlp(sizes: Sequence[int], *, batch_norm: bool = False) -> Network:
    """A multi-layer perceptron with ReLU between its layers, `(n, ...)` flattened to `(n, sizes[0]) -> (n, sizes[-1])`.

    `mlp([1, 40, 40, 1])` is the sinusoid network of Finn et al. (2017), section 5.1; `mlp([784, 256, 128, 64, 64, n_way],
    batch_norm=True)` their Omniglot MLP, section 5.2.

    Raises:
        ValueError: fewer than two sizes, or one below 1.
    """
    check_counts(2, **{f"len(sizes={sizes})": len(sizes)})
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise(sizes[:-1]):
        layers.append(nn.Linear(n_in, n_out, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(n_out, track_running_stats=False))
        layers.append(nn.ReLU())
    return Network(nn.Sequential(*layers), nn.Linear(sizes[-2], sizes[-1]))


class PatchConv2d(nn.Conv2d):
    """The same numbers as a plain `nn.Conv2d` without bias, as one matrix product of all patches with the kernels.

    Made for the first layer, whose images have few channels: there it is several times faster on a CPU than a convolution, and
    leaves its result with the channels last in memory, which later layers like best. Under `vmap` over kernels it is a batched
    matrix product, where a convolution becomes a slow grouped one.

    Raises:
        ValueError: a bias, groups, dilation, or padding other than as many zeros on every side.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        sides = {*self.padding}
        plain = self.bias is None and self.groups == 1 and {*self.dilation} == {1}
        if not (
            plain and self.padding_mode == "zeros" and len(sides) == 1 and isinstance(self.padding, tuple)
        ):
            raise ValueError(
                f"{self} is not what PatchConv2d computes, which has neither bias, groups nor dilation and pads with as many "
                f"zeros on every side; pass bias=False, or take nn.Conv2d"
            )

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.kernel_size, self.stride, int(self.padding[0])
        patches = F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)
        kernels = self.weight.flatten(1).T.contiguous()  # laid out so that its gradient is a fast product too
        h = (x.shape[-2] + 2 * padding - kernel[0]) // stride[0] + 1
        maps: Tensor = patches @ kernels
        return maps.view(len(x), h, -1, self.out_channels).permute(0, 3, 1, 2)


class SpatialMean(nn.Module):
    """The mean of each feature map, `(n, channels, h, w) -> (n, channels)`."""

    def forward(self, x: Tensor) -> Tensor:
        # AdaptiveAvgPool2d(1) says the same but falls back to a slow loop when vmap meets channels that are last in memory.
        return x.mean((-2, -1))


@checked
def conv4(
    n_way: int,
    *,
    channels: int = 64,
    downsample: str = "pool",
    in_channels: int = 1,
    image_size: int = 28,
    patches: bool = False,
) -> Network:
    """Four blocks of 3x3 convolution, batch norm and ReLU, each halving the image, then a linear head.

    `(n, in_channels, image_size, image_size) -> (n, n_way)` logits. `downsample="pool"` max-pools 2x2 after each convolution
    (Vinyals et al. 2016, section 4.1); `"stride"` gives the convolutions stride 2 and averages the last feature map
    (strides: Finn et al. 2017, section 5.2; the average: their code), at about a quarter of the cost.

    `patches=True` makes every convolution a `PatchConv2d`, not only the first: on a GPU, where `vmap` gives each task kernels of
    its own, that is one batched matrix product instead of a grouped convolution.

    No convolution has a bias: batch norm subtracts it again and its gradient is exactly zero. With pooling, ReLU stands after it:
    the two commute, and ReLU then has a quarter of the work.

    Raises:
        ValueError: an unknown `downsample`, or an image too small to be halved four times.
    """
    if downsample not in ("pool", "stride"):
        raise ValueError(f"downsample={downsample!r}, but conv4 knows 'pool' and 'stride'")
    if downsample == "pool" and image_size < 16:
        raise ValueError(
            f"image_size={image_size}, but four poolings need at least 16 pixels; use downsample='stride'"
        )
    stride = 2 if downsample == "stride" else 1
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(4):
        block: list[nn.Module] = [
            (PatchConv2d if patches or i == 0 else nn.Conv2d)(
                channels if i else in_channels, channels, 3, stride=stride, padding=1, bias=False
            ),
            nn.BatchNorm2d(channels, track_running_stats=False),
            *([nn.MaxPool2d(2)] if downsample == "pool" else []),
            nn.ReLU(),
        ]
        blocks[f"block{i + 1}"] = nn.Sequential(*block)
    if downsample == "stride":
        blocks["mean"] = SpatialMean()
    blocks["flatten"] = nn.Flatten()
    features = channels * (image_size // 16) ** 2 if downsample == "pool" else channels
    return Network(nn.Sequential(blocks), nn.Linear(features, n_way))


@checked
def in_bfloat16(model: nn.Module) -> nn.Module:
    """The same module, changed in place: its products run in bfloat16, parameters, normalisation and logits stay float32.

    `torch.autocast` around the forward pass alone: a loss whose gradient is taken inside that context can't be differentiated
    again, and under `vmap` batch norm refuses to mix precisions. Derived in chapter `gpu-few-shot`.
    """
    model.forward = partial(_forward_in_bfloat16, type(model).forward, model)
    for part in model.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.register_forward_pre_hook(_in_float32)
    return model


def _forward_in_bfloat16(
    forward: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, x: Tensor
) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
        logits = forward(model, x)
    return logits.float()


def _in_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float(),)
