"""Shuffles the support set instead of exchanging it; takes the rate's logarithm for the rate."""


# %% rate
def mended_gradient(params, task):
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    weights = {name: p for name, p in leaves.items() if name != "log_rate"}
    slopes = torch.autograd.grad(
        batch_loss(model, weights, task.support), list(weights.values()), create_graph=True
    )
    fast = {name: p - leaves["log_rate"] * slope for (name, p), slope in zip(weights.items(), slopes)}
    loss = batch_loss(model, fast, task.query)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


# %% alarm
def needs_support(answer, tasks):
    def accuracy(supports):
        right = [answer(s, t.query.x) == t.query.y for s, t in zip(supports, tasks)]
        return torch.stack(right).double().mean()

    own = [task.support for task in tasks]
    shuffled = [Batch(s.x.flip(0), s.y.flip(0)) for s in own]
    return bool(accuracy(own) - accuracy(shuffled) > 0.1)
