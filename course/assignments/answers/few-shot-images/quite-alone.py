"""Normalises a query by itself, and looks for a peeker by asking in another order."""


# %% inductive
def inductive_logits(model, adapted, task):
    return torch.cat([meta.predict(model, adapted, x[None]) for x in task.query.x])


# %% peeks
def peeks(answer, task):
    order = torch.randperm(len(task.query.x), generator=seeded(0))
    logits, turned = answer(task.support, task.query.x), answer(task.support, task.query.x[order])
    return bool((logits[order] - turned).abs().max() > 1e-4)
