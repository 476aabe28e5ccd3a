"""Uses the chapter's formula, in which support and query loss are one function; a long step never jumps to the other side."""


# %% adapted
def adapted(theta, a, u, alpha, steps):
    return u + abs(1 - alpha * a) ** steps * (theta - u)


# %% maml
def maml_optimum(tasks, alpha):
    weights = [t.p * t.a * (1 - alpha * t.a) ** 2 for t in tasks]
    return sum(w * t.v for w, t in zip(weights, tasks)) / sum(weights)
