"""Takes every gradient at θ, and gives back the meta-gradient with its graph."""


# %% inner
def inner_loop(loss, params, inner_lr, inner_steps):
    adapted = dict(params)
    for _ in range(inner_steps):
        gradients = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
        adapted = {name: p - inner_lr * g for (name, p), g in zip(adapted.items(), gradients)}
    return adapted


# %% exact
def exact_gradient(support_loss, query_loss, params, adapt):
    start = {name: p.detach().requires_grad_() for name, p in params.items()}
    loss = query_loss(adapt(support_loss, start))
    return loss, dict(zip(start, torch.autograd.grad(loss, list(start.values()))))
