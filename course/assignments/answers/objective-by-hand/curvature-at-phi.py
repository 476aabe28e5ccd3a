"""Takes several steps for one long one, and the curvature where the step ends; parabolas cannot tell."""


# %% adapted
def adapted(theta, a, u, alpha, steps):
    return theta - steps * alpha * a * (theta - u)


# %% autograd
def autograd_slope(support_loss, query_loss, theta, alpha):
    def slope(f, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x), x, create_graph=True)[0], x

    phi = theta - alpha * slope(support_loss, theta)[0].detach()
    steepness, x = slope(support_loss, phi)
    (curvature,) = torch.autograd.grad(steepness, x)
    return (1 - alpha * curvature) * slope(query_loss, phi)[0].detach()
