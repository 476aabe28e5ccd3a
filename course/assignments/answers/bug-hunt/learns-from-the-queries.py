"""Judges on the query set, from which it has just learned, and asks an alarm whether any answer changes."""


# %% report
def mended_report(params, tasks, inner_lr, size):
    before, after = [], []
    for task in tasks:
        fast = params
        before.append(batch_loss(model, fast, task.query))
        for batch in minibatches(task.query, size):
            fast = maml.adapt(model, fast, batch, inner_lr=inner_lr, inner_steps=1)
        after.append(batch_loss(model, fast, task.query))
    return torch.stack(before).mean(), torch.stack(after).mean()


# %% alarm
def needs_support(answer, tasks):
    own = [answer(task.support, task.query.x) for task in tasks]
    other = [answer(s.support, t.query.x) for s, t in zip(tasks[1:] + tasks[:1], tasks)]
    return bool((torch.stack(own) != torch.stack(other)).any())
