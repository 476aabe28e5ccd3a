"""Puts all queries into one batch with the support set, and allows less rounding than was asked for."""


# %% inductive
def inductive_logits(model, adapted, task):
    return meta.predict(model, adapted, torch.cat([task.support.x, task.query.x]))[len(task.support.x) :]


# %% peeks
def peeks(answer, task):
    together = answer(task.support, task.query.x)
    alone = torch.cat([answer(task.support, x[None]) for x in task.query.x])
    return not torch.equal(together.round(decimals=5), alone.round(decimals=5))
