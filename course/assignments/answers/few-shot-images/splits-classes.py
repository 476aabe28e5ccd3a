"""Splits the classes and not the letters, and numbers them in the order of the alphabet."""


# %% split
def split(n_letters, n_test, generator):
    order = torch.randperm(4 * n_letters, generator=generator)
    return order[4 * n_test :], order[: 4 * n_test]


# %% draw
def draw_task(images, n_way, k_shot, k_query, generator):
    classes = torch.randperm(len(images), generator=generator)[:n_way].sort().values
    drawings = torch.stack([torch.randperm(images.shape[1], generator=generator) for _ in classes])
    x, labels = images[classes[:, None], drawings], torch.arange(n_way)
    return Task(
        Batch(x[:, :k_shot].flatten(0, 1), labels.repeat_interleave(k_shot)),
        Batch(x[:, k_shot : k_shot + k_query].flatten(0, 1), labels.repeat_interleave(k_query)),
    )
