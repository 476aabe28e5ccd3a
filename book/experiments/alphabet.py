"""How often the network of the figure "Draw your own alphabet" is right on drawings of people that it never saw.

    python book/experiments/alphabet.py --help
    python book/experiments/alphabet.py           # a few minutes on a CPU, and the record

Omniglot's meta-test characters, those of the run `omniglot-laptop-conv-5w1s`, are thinned to lines, followed with a pen, and
read as the page reads its readers' strokes: centred, scaled and inked by `pixels`. Three kinds of seeds are in it: the network is
the shipped first seed of that run, whose record has all three; the tasks are drawn from one; the ready-made alphabets from one.
Thinning: Zhang & Suen, "A fast parallel algorithm for thinning digital patterns", Communications of the ACM 27, 1984.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from options import folder

from mamlkit.algorithms import maml
from mamlkit.data.image_sets import omniglot
from mamlkit.intervals import mean_ci95
from mamlkit.meta import inductive_accuracy, nearest_neighbour
from mamlkit.models import conv4
from mamlkit.page import records
from mamlkit.page.widgets.draw_alphabet import Drawing, pixels
from mamlkit.sampling import class_tasks

RECORDS = Path(__file__).parent.parent / "records"


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of the record."""

    run: str = "omniglot-laptop-conv-5w1s"
    """The record whose weights are the network's."""
    per_class: int = 10
    """Drawings of each character, the first of the twenty."""
    n_tasks: int = 600
    """Tasks that measure: five characters, one drawing of each to learn from, one to ask about."""
    tolerance: float = 0.8
    """Pixels of 105 by which a simplified line may leave the thinned one."""
    alphabets: tuple[str, ...] = ("Tengwar", "Hebrew", "Burmese_(Myanmar)")
    """Alphabets of which the page has five characters ready-made."""
    ready: int = 3
    """Drawings of each of those: one to learn from, then those to ask about."""


def thin(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Lines one pixel wide in the middle of the ink of images `(n, h, w)` (Zhang & Suen 1984)."""
    x = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))  # from north, clockwise
    while True:
        before = x.sum()
        for half in range(2):
            near = np.stack([np.roll(x, shift, (1, 2)) for shift in around])
            north, east, south, west = near[::2]
            inked, edges = near.sum(0), (~near & np.roll(near, -1, 0)).sum(0)
            gone = (inked >= 2) & (inked <= 6) & (edges == 1)
            if half:
                gone &= ~(north & east & west) & ~(north & south & west)
            else:
                gone &= ~(north & east & south) & ~(east & south & west)
            x = x & ~gone
        if x.sum() == before:
            return x[:, 1:-1, 1:-1]


def follow(lines: NDArray[np.bool_], tolerance: float) -> Drawing:
    """A thinned image as strokes: from ends to ends, straight on where lines cross."""
    every = set(map(tuple, np.argwhere(lines).tolist()))
    left, strokes = set(every), []

    def near(place: tuple[int, int], where: set[tuple[int, int]]) -> list[tuple[int, int]]:
        row, column = place
        steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]
        return [at for r, c in steps if (at := (row + r, column + c)) in where]

    while left:
        start = min([p for p in left if len(near(p, left)) <= 1] or left)
        left.discard(start)
        path = [*near(start, every - left)[:1], start]
        while ahead := near(path[-1], left):
            heading = np.subtract(path[-1], path[-min(5, len(path))])

            def straight(
                place: tuple[int, int], heading=heading, here=path[-1]
            ) -> tuple[float, float, tuple[int, int]]:
                way = np.subtract(place, here)
                return float(way @ heading / np.hypot(*way)), -float(np.abs(way).sum()), place

            path.append(max(ahead, key=straight))
            left.discard(path[-1])
        path += [place for place in near(path[-1], every) if place not in path[-3:]][:1]
        if len(path) > 3 or not strokes:
            strokes.append((np.array(path, dtype=float)[:, ::-1] + 0.5) / len(lines))
    return [simplify(s, tolerance / len(lines)).round(2).flatten().tolist() for s in strokes]


def simplify(line: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Fewer points of a line, none of it further off than the tolerance (Ramer 1972; Douglas & Peucker 1973)."""
    if len(line) < 3:
        return line
    way, off = line[-1] - line[0], line - line[0]
    long = np.hypot(*way)
    far = np.abs(way[0] * off[:, 1] - way[1] * off[:, 0]) / long if long else np.hypot(*off.T)
    turn = int(far.argmax())
    if far[turn] <= tolerance:
        return line[[0, -1]]
    return np.concatenate([simplify(line[: turn + 1], tolerance)[:-1], simplify(line[turn:], tolerance)])


def measure(config: Config) -> dict[str, object]:
    """Accuracies by task of the network and of the nearest neighbour, on drawings as they stand and as the page reads them."""
    stored = records.load_weights(RECORDS / f"{config.run}.json")
    params = {name: p.float() for name, p in stored.items()}
    settings = records.load(RECORDS / f"{config.run}.json").config
    model = conv4(len(params["head.bias"]), channels=settings["channels"], downsample="stride")
    adapt = partial(maml.adapt, model, inner_lr=settings["inner_lr"], inner_steps=1)
    data, large = (omniglot("meta-test", protocol=settings["protocol"], size=size) for size in (28, 105))
    ink = large.images[:, : config.per_class, 0].numpy() > 0.5
    drawings = [[follow(lines, config.tolerance) for lines in thin(character)] for character in ink]
    read = torch.stack([torch.stack([pixels(drawing) for drawing in character]) for character in drawings])
    metrics: dict[str, object] = {"inner_lr": settings["inner_lr"]}
    for kind, images in (
        ("as they stand", data.images[:, : config.per_class]),
        ("as the page reads them", read),
    ):
        generator = torch.Generator().manual_seed(0)
        tasks = class_tasks(
            images, config.n_tasks, n_way=model.head.out_features, k_shot=1, k_query=1, generator=generator
        )
        right = {
            "network": inductive_accuracy(model, adapt, params, tasks, chunk_size=10),
            "nearest neighbour": nearest_neighbour(tasks),
        }
        print(kind, {name: str(mean_ci95(values)) for name, values in right.items()})
        metrics[kind] = {name: values.tolist() for name, values in right.items()}
    metrics["ready"] = ready_made(config, data.groups, drawings)
    return metrics


def ready_made(
    config: Config, groups: tuple[str, ...], drawings: list[list[Drawing]]
) -> dict[str, list[list[Drawing]]]:
    """Of each alphabet five characters at random."""
    generator, found = torch.Generator().manual_seed(0), {}
    for alphabet in config.alphabets:
        here = [i for i, group in enumerate(groups) if group == alphabet]
        order = torch.randperm(len(here), generator=generator)[:5].tolist()
        name = alphabet.partition("_")[0]
        found[name] = [drawings[here[i]][: config.ready] for i in order]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=folder, default=RECORDS, help="where the record goes")
    records_folder = parser.parse_args().records
    config, started = Config(), datetime.now(UTC)
    records.check_place(records_folder / "alphabet.json", "alphabet", asdict(config))
    metrics = measure(config)
    made = records.provenance(__file__, device="cpu", dtype=torch.float32, started=started)
    records.save(records.Record("alphabet", asdict(config), metrics, made), records_folder / "alphabet.json")


if __name__ == "__main__":
    main()
