"""The inner loop takes the right steps and keeps no graph of them."""


# %% inner
def inner_loop(loss, params, inner_lr, inner_steps):
    for _ in range(inner_steps):
        gradients = torch.autograd.grad(loss(params), list(params.values()))
        params = {name: p - inner_lr * g for (name, p), g in zip(params.items(), gradients)}
    return params
