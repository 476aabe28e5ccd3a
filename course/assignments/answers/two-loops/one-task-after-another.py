"""Works on the parameters that it was given: steps after each task, and leaves gradients behind."""


# %% exact
def exact_gradient(support_loss, query_loss, params, adapt):
    for p in params.values():
        p.requires_grad_()
    loss = query_loss(adapt(support_loss, params))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in params.items()}


# %% meta
def meta_training_step(task_gradient, params, tasks, meta_lr):
    losses = []
    for task in tasks:
        loss, gradients = task_gradient(params, task)
        params = {name: p - meta_lr / len(tasks) * gradients[name] for name, p in params.items()}
        losses.append(loss)
    return params, torch.stack(losses).mean()
