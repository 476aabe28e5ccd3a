"""Judges at θ and not after the step, and takes the equal step for the one that solves the steeper task."""


# %% loss
def loss_after(theta, task, alpha):
    return 0.5 * task.b * (theta - task.v) ** 2


# %% slope
def slope_after(theta, task, alpha):
    return task.b * (theta - task.v)


# %% equal
def equal_step(a1, a2):
    return 1 / max(a1, a2)
