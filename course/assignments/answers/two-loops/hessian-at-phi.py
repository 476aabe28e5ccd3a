"""Takes the Hessian where the step ends, and detaches the loss instead of the parameters."""


# %% first
def first_order_gradient(support_loss, query_loss, params, adapt):
    start = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss = query_loss(adapt(support_loss, start))
    return loss.detach(), dict(zip(start, torch.autograd.grad(loss, list(start.values()))))


# %% product
def product_form(support_loss, query_loss, params, inner_lr):
    start = {name: p.detach().requires_grad_() for name, p in params.items()}
    slopes = torch.autograd.grad(support_loss(start), list(start.values()))
    adapted = {
        name: (p - inner_lr * s).detach().requires_grad_() for (name, p), s in zip(start.items(), slopes)
    }
    g = torch.autograd.grad(query_loss(adapted), list(adapted.values()))
    slopes = torch.autograd.grad(support_loss(adapted), list(adapted.values()), create_graph=True)
    inner_product = sum((s * v).sum() for s, v in zip(slopes, g))
    Hg = torch.autograd.grad(inner_product, list(adapted.values()), materialize_grads=True)
    return {name: v - inner_lr * h for name, v, h in zip(start, g, Hg)}
