"""Counts a rare task as much as a likely one, and finds no step but none."""


# %% joint
def joint_optimum(tasks):
    return sum(t.b * t.v for t in tasks) / sum(t.b for t in tasks)


# %% maml
def maml_optimum(tasks, alpha):
    kept = [1 - alpha * t.a for t in tasks]
    above = sum(t.b * c * (t.v - alpha * t.a * t.u) for c, t in zip(kept, tasks))
    return above / sum(t.b * c**2 for c, t in zip(kept, tasks))


# %% equal
def equal_step(a1, a2):
    return 0.0
