"""Moves the weights in place, and with them the start of the next task; names each drawing by itself."""


# %% adapt
def mended_adapt(params, support, inner_lr, inner_steps):
    fast = dict(params)
    for _ in range(inner_steps):
        gradients = grad(lambda p: batch_loss(model, p, support))(fast)
        for weight, gradient in zip(fast.values(), gradients.values()):
            weight -= inner_lr * gradient
    return fast


# %% draw
def mended_draw(images, n_way, k_shot, k_query, generator):
    task = sick_draw(images, n_way, k_shot, k_query, generator)
    support, query = (torch.randperm(len(batch.y), generator=generator) for batch in task)
    return Task(
        Batch(task.support.x, task.support.y[support]),
        Batch(task.query.x, task.query.y[query]),
    )
