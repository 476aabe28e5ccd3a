"""Takes the next seed for the queries, which is the next task's; gives the rate its gradient and the weights' away."""


# %% rate
def mended_gradient(params, task):
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    weights = {name: p for name, p in leaves.items() if name != "log_rate"}
    rate = leaves["log_rate"].exp()
    slopes = torch.autograd.grad(batch_loss(model, weights, task.support), list(weights.values()))
    fast = {name: p - rate * slope for (name, p), slope in zip(weights.items(), slopes)}
    loss = batch_loss(model, fast, task.query)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


# %% wave
def mended_wave(seed, k_shot, k_query):
    def inputs(n, seed):
        return 10 * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) - 5

    amplitude, phase = draw_sinusoids(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    support_x, query_x = inputs(k_shot, seed), inputs(k_query, seed + 1)
    support_y, query_y = (sinusoid(x, amplitude[0], phase[0]) for x in (support_x, query_x))
    return Task(Batch(support_x, support_y), Batch(query_x, query_y))
