"""Leaves out that φ moves less than θ, by hand and by autograd."""


# %% slope
def slope_after(theta, task, alpha):
    phi = theta - alpha * task.a * (theta - task.u)
    return task.b * (phi - task.v)


# %% autograd
def autograd_slope(support_loss, query_loss, theta, alpha):
    theta = theta.detach().requires_grad_()
    (slope,) = torch.autograd.grad(support_loss(theta), theta)
    return torch.autograd.grad(query_loss(theta - alpha * slope), theta)[0]
