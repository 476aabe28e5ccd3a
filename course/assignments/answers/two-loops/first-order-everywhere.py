"""Sells first order as the whole: no second derivative anywhere."""


# %% exact
def exact_gradient(support_loss, query_loss, params, adapt):
    adapted = {name: p.detach().requires_grad_() for name, p in adapt(support_loss, params).items()}
    loss = query_loss(adapted)
    return loss.detach(), dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values()))))


# %% product
def product_form(support_loss, query_loss, params, inner_lr):
    start = {name: p.detach().requires_grad_() for name, p in params.items()}
    slopes = torch.autograd.grad(support_loss(start), list(start.values()))
    adapted = {
        name: (p - inner_lr * s).detach().requires_grad_() for (name, p), s in zip(start.items(), slopes)
    }
    return dict(zip(adapted, torch.autograd.grad(query_loss(adapted), list(adapted.values()))))
