"""Latent embedding optimisation, LEO (Rusu et al., ICLR 2019, arXiv:1807.05960).

Each class n of a task gets a code z_n of few numbers, read from the support features e by a linear encoder and a relation network
r, that looks at all pairs; a linear decoder makes the class's row of the head from it (equations 1 to 4; N classes, K shots):

    (mu_n, log sigma_n) = mean over i in class n, all j of r(E e_i, E e_j),      z_n = mu_n + sigma_n * noise
    (m_n, log s_n) = D z_n,                                                      w_n = m_n + s_n * noise

Inside a task, gradient descent moves the codes first (equation 6), then the decoded head itself:

    z <- z - alpha * grad_z L_support(w(z)),    w <- w - alpha' * grad_w L_support(w)

Across tasks the body, E, r and D learn from (equations 7 and 8; z' is the code after its last step)

    L_query(w) + beta * KL(N(mu, sigma^2) || N(0, 1)) + gamma * norm(constant(z') - z)^2 + lambda * mean((C - I)^2)

where C holds the cosines between the columns of D. Without noise, w = D z, by the half of D that makes m, moves by
-alpha * D D' grad_w L: gradient descent on the head, preconditioned.

Differs from the paper: the body may learn along, where the paper's features are fixed. The support loss is a mean over examples,
where the authors' code sums over classes: its alpha and alpha' count N times. The KL is its closed form, a sum over the numbers
of a code and a mean over classes, as is the encoder's penalty; that code takes one sample, and means, so its beta and gamma are
`latent` times ours. The last penalty is a mean of squares, as in that code. Its standard deviation exp(u) - 1 + offset, cut at 0,
is exp(u) for a code here and exp(u) * sqrt(2 / (features + N)) for the head. It gives each example a classifier of its own and
takes the mean; here a class has one. It draws the matrices by Glorot's rule, here torch does. Weight decay of the meta-optimiser
is left to the caller, and so are dropout and learned rates.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamlkit import models
from mamlkit.algorithms import maml
from mamlkit.calls import checked
from mamlkit.meta import Loss, batch_loss, predict
from mamlkit.tasks import Batch, Params, Task, check_batch, part

MATRICES = ("encoder.weight", "relation.0", "relation.1", "relation.2", "decoder.weight")


@checked
def initial_params(model: nn.Module, *, latent: int = 64) -> Params:
    """The body's parameters under `model.`, and drawn as torch draws them, the matrices of encoder, relation network and decoder.

    With `features` the size of what the head reads: `encoder.weight` `(latent, features)`, `relation.0` to `relation.2`
    `(2 * latent, 2 * latent)`, `decoder.weight` `(2 * features, latent)`. The head has none: it is decoded.

    Raises:
        ValueError: `latent` below 1, or a model that is no `Network` with a linear head.

    Rusu et al. (2019), section 2.3. Derived in chapter `context-and-latent`.
    """
    _, head = _body_and_head(model)
    features = head.in_features
    body = {
        f"model.{name}": p for name, p in models.initial_params(model).items() if name.startswith("body.")
    }
    shapes = {"encoder.weight": (features, latent)} | {
        f"relation.{i}": (2 * latent, 2 * latent) for i in range(3)
    }
    shapes["decoder.weight"] = (latent, 2 * features)
    drawn = {name: nn.Linear(*shape, bias=False).to(head.weight) for name, shape in shapes.items()}
    return body | {name: layer.weight.detach() for name, layer in drawn.items()}


def _body_and_head(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    if not (isinstance(model, models.Network) and isinstance(model.head, nn.Linear)):
        raise ValueError(
            f"model is a {type(model).__name__}, but its head is decoded; give Network(body, nn.Linear(...))"
        )
    return model.body, model.head


class Codes(NamedTuple):
    """Of each class, `(n_way, latent)`: where its code is drawn from, the code, and the code after its last step."""

    mean: Tensor
    log_std: Tensor
    drawn: Tensor
    adapted: Tensor


@checked
def encode(params: Params, features: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """The mean and the log of the standard deviation of each class's code, both `(n_way, latent)`.

    Args:
        features: `(n, features)` of the support set, in any order.
        labels: `(n,)`; a class without an example has zeros.

    Rusu et al. (2019), equation 1. Derived in chapter `context-and-latent`.
    """
    codes = features @ params["encoder.weight"].T
    n = len(codes)
    pairs = torch.cat([codes[:, None].expand(-1, n, -1), codes.expand(n, -1, -1)], -1)
    for i in range(2):
        pairs = F.relu(pairs @ params[f"relation.{i}"].T)
    relations = (pairs @ params["relation.2"].T).mean(1)
    of_class = (labels[:, None] == torch.arange(n_way, device=labels.device)).to(relations.dtype)
    mean, log_std = (of_class.T @ relations / of_class.sum(0).clamp(min=1)[:, None]).chunk(2, -1)
    return mean, log_std


def _draw(mean: Tensor, log_std: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + log_std.exp() * noise


@checked
def adapt_with_codes(
    model: nn.Module,
    params: Params,
    support: Batch,
    *,
    inner_lr: float | Tensor,
    inner_steps: int,
    finetune_lr: float | Tensor = 0.0,
    finetune_steps: int = 0,
    loss: Loss = batch_loss,
    first_order: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Params, Codes]:
    """The model's parameters and the codes: the body as it is, the decoded head after its codes' steps and then its own.

    Args:
        model: a `Network` with a linear head; a bias in that is 0 and stays so.
        params: as `initial_params` of this module makes them; other names in it, learned rates say, do no harm.
        support: `x` of shape `(n, ...)`, `y` of shape `(n,)` integer.
        inner_lr: alpha, of the codes; a tensor if it is learned. The authors' code starts it at 1, which is N here.
        inner_steps: K >= 0; 5 in the authors' code.
        finetune_lr: alpha', of the head; 0.001 in the authors' code, which is 0.001 * N here.
        finetune_steps: K' >= 0; 5 in the authors' code.
        loss: what the steps lower, `(model.head, its params, Batch(features, y)) -> scalar`: features are computed once.
        first_order: take the inner gradients as constants.
        generator: where noise comes from, for the code once and for the head at each decoding; without it everything is at
            its mean, as at meta-test. Under `vmap` each task has noise of its own. For `meta_train` give its own generator,
            whose state is in the checkpoint.

    Raises:
        ValueError: steps below 0, an empty support set, targets that are no labels, `params` that lack a matrix, or a model
            that is no `Network` with a linear head.

    Rusu et al. (2019), Algorithm 1. Derived in chapter `context-and-latent`.
    """
    (body, head), shared = _body_and_head(model), part(params, "model.")
    _check(params, support)
    features = predict(body, part(shared, "body."), support.x)
    mean, log_std = encode(params, features, support.y, head.out_features)
    z = _draw(mean, log_std, generator)
    seen = Batch(features.detach() if first_order else features, support.y)
    log_offset = math.log(2 / (head.in_features + head.out_features)) / 2

    def decoded(at: Params) -> Params:
        m, log_s = (at["z"] @ at["decoder"].T).chunk(2, -1)
        w = _draw(m, log_s + log_offset, generator)
        return {"weight": w} if head.bias is None else {"weight": w, "bias": w.new_zeros(len(w))}

    def decoded_loss(head: nn.Module, at: Params, seen: Batch) -> Tensor:
        return loss(head, decoded(at), seen)

    start = {"z": z, "decoder": params["decoder.weight"]}
    descend = partial(maml.adapt, head, support=seen, first_order=first_order)
    at = descend(params=start, inner_lr=inner_lr, inner_steps=inner_steps, loss=decoded_loss, only="z")
    tuned = descend(
        params=decoded(at), inner_lr=finetune_lr, inner_steps=finetune_steps, loss=loss, only="weight"
    )
    return shared | {f"head.{name}": p for name, p in tuned.items()}, Codes(mean, log_std, z, at["z"])


def adapt(model: nn.Module, params: Params, support: Batch, **settings: Any) -> Params:
    """What `adapt_with_codes`, which has the arguments and the errors, makes of the model's parameters.

    Rusu et al. (2019), Algorithm 1. Derived in chapter `context-and-latent`.
    """
    return adapt_with_codes(model, params, support, **settings)[0]


def _check(params: Params, support: Any) -> None:
    check_batch("support", support)
    if lacking := [name for name in MATRICES if name not in params]:
        raise ValueError(
            f"params has the names {', '.join(params)}, but lacks {', '.join(lacking)}; "
            f"make it with leo.initial_params(model)"
        )
    device = params["decoder.weight"].device
    if device != support.y.device:  # a product of the two would hold anything
        raise ValueError(
            f"params are on {device} but support on {support.y.device}; move both to one with .to(device)"
        )
    if support.y.dtype != torch.int64 or support.y.dim() != 1:
        raise ValueError(
            f"support.y is {support.y.dtype} {tuple(support.y.shape)}, but a code belongs to a class: "
            f"give int64 labels of shape (n,)"
        )


@checked
def task_loss(
    model: nn.Module,
    params: Params,
    task: Task,
    *,
    kl_weight: float = 0.0,
    encoder_weight: float = 0.0,
    orthogonality_weight: float = 0.0,
    loss: Loss = batch_loss,
    **settings: Any,
) -> Tensor:
    """The query loss after adaptation and the penalties, a scalar; without them it is `query_loss` with `adapt`.

    Args:
        kl_weight: beta, of the codes' distance from N(0, 1); the authors' 0.001 is 0.001 / latent here.
        encoder_weight: gamma, of the squared way from a code to where its steps end, which is taken as a constant; the authors'
            1e-9 is 1e-9 / latent here.
        orthogonality_weight: lambda_2, of the cosines between the decoder's columns.
        settings: those of `adapt_with_codes`.

    Rusu et al. (2019), equations 7 and 8. Derived in chapter `context-and-latent`.
    """
    adapted, codes = adapt_with_codes(model, params, task.support, loss=loss, **settings)
    kl = (codes.mean**2 + (2 * codes.log_std).exp() - 1 - 2 * codes.log_std).sum(-1).mean() / 2
    way = ((codes.adapted.detach() - codes.drawn) ** 2).sum(-1).mean()
    columns = F.normalize(params["decoder.weight"], dim=0)
    cosines = columns.T @ columns
    crossed = ((cosines - torch.eye(len(cosines)).to(cosines)) ** 2).mean()
    penalties = kl_weight * kl + encoder_weight * way + orthogonality_weight * crossed
    return loss(model, adapted, task.query) + penalties
