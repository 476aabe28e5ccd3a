"""Draws drawings with replacement, and counts answers for independent."""


# %% draw
def draw_task(images, n_way, k_shot, k_query, generator):
    classes, labels = torch.randperm(len(images), generator=generator)[:n_way], torch.arange(n_way)

    def batch(k):
        drawings = torch.randint(images.shape[1], (n_way, k), generator=generator)
        return Batch(images[classes[:, None], drawings].flatten(0, 1), labels.repeat_interleave(k))

    return Task(batch(k_shot), batch(k_query))


# %% interval
def interval(right):
    return tuple(mean_ci95(right.double().flatten()))


def gap(right_a, right_b):
    return tuple(mean_ci95((right_a.double() - right_b.double()).flatten()))
