"""Lake's one-shot examination: twenty letters of one alphabet, one drawing of each, the same letters by another drawer.

    python book/experiments/omniglot.py laptop-alphabets-5w1s --again    # first, a network for it: whole alphabets unseen
    python book/experiments/lake.py all_runs.zip --run laptop-alphabets-5w1s

The file of runs is the authors' (Lake, Salakhutdinov & Tenenbaum 2015; `one-shot-classification/all_runs.zip` of
github.com/brendenlake/omniglot). It does not come with this book, and so the record is that of whoever has the file. It
chooses nothing: the number of inner steps is chosen on examinations of the same form from the meta-validation alphabets.
The network was trained for five letters; its head gives way to one of zeros for twenty, from which the first inner step is
a kernel classifier on the body's features (chapter `what-is-learned`). Every drawing is classified alone.
"""

from __future__ import annotations

import argparse
import io
import re
import time
import zipfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import omniglot
import torch
from options import folder
from PIL import Image
from torch import Tensor

from mamlkit.data import image_sets, omniglot_files
from mamlkit.intervals import mean_ci95
from mamlkit.meta import Adapt, inductive_accuracy, nearest_neighbour
from mamlkit.models import conv4
from mamlkit.page import records
from mamlkit.tasks import Batch, Params, Task

N_WAY, N_RUNS = 20, 20
RUNS = [name for name, run in omniglot.RUNS.items() if run.protocol == "alphabets" and run.network == "conv"]
PICTURE = re.compile(r"(?:.*/)?run(\d+)/(training/class|test/item)(\d+)\.png")
LABELS = re.compile(r"(?:.*/)?run(\d+)/class_labels\.txt")


def read_runs(path: Path) -> Task:
    """The examinations of the authors' file as a stack of tasks: support and query `(runs, 20, 1, 28, 28)`, labels by run.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no archive of 20 runs of 20 letters, or a run's labels do not name its pictures.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}; get all_runs.zip from github.com/brendenlake/omniglot"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _tasks(archive)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a whole file of runs ({error}); get it again") from error


def _tasks(archive: zipfile.ZipFile) -> Task:
    pictures: dict[str, Tensor] = {}
    answers: dict[str, dict[str, str]] = {}
    for name in archive.namelist():
        if archive.getinfo(name).file_size > 1_000_000:
            raise ValueError(
                f"{name} unpacks to {archive.getinfo(name).file_size:,} bytes, 1,000,000 at most"
            )
        if match := PICTURE.fullmatch(name):
            pictures[f"run{match[1]}/{match[2]}{match[3]}.png"] = _picture(archive.read(name), name)
        elif match := LABELS.fullmatch(name):
            lines = archive.read(name).decode().splitlines()
            answers[match[1]] = dict(line.split() for line in lines if line.strip())
    tasks = [_task(run, answers[run], pictures) for run in sorted(answers)]
    if len(tasks) != N_RUNS:
        raise ValueError(f"it holds {len(tasks)} runs with labels, not {N_RUNS}; get all_runs.zip again")
    return Task(*(Batch(*map(torch.stack, zip(*part))) for part in zip(*tasks)))


def _picture(png: bytes, name: str) -> Tensor:
    with Image.open(io.BytesIO(png)) as picture:
        if picture.size != (omniglot_files.SIDE,) * 2:
            raise ValueError(f"{name} has {picture.size} pixels, expected (105, 105)")
        ink = np.asarray(picture.convert("L")) == 0
    return torch.from_numpy(omniglot_files.shrink(ink[None], 28)).float() / 255


def _task(run: str, answers: dict[str, str], pictures: dict[str, Tensor]) -> Task:
    classes = sorted(name for name in pictures if name.startswith(f"run{run}/training/"))
    items = sorted(name for name in pictures if name.startswith(f"run{run}/test/"))
    if not (
        len(classes) == len(items) == N_WAY
        and sorted(answers) == items
        and sorted(answers.values()) == classes
    ):
        raise ValueError(
            f"run {run} has {len(classes)} letters, {len(items)} questions and {len(answers)} answers that fit"
        )
    support = Batch(torch.stack([pictures[name] for name in classes]), torch.arange(N_WAY))
    query = torch.stack([pictures[name] for name in items])
    return Task(support, Batch(query, torch.tensor([classes.index(answers[name]) for name in items])))


def alike(data: image_sets.ImageClasses, n_runs: int, seed: int) -> Task:
    """Examinations of the same form from the alphabets of `data` that have twenty letters: two drawers, twenty letters each."""
    generator, groups = torch.Generator().manual_seed(seed), np.array(data.groups)
    fit = [name for name in sorted(set(groups)) if (groups == name).sum() >= N_WAY]
    tasks, labels = [], torch.arange(N_WAY)
    for i in range(n_runs):
        rows = torch.from_numpy(np.flatnonzero(groups == fit[i % len(fit)]))
        rows = rows[torch.randperm(len(rows), generator=generator)[:N_WAY]]
        one, other = torch.randperm(data.images.shape[1], generator=generator)[:2]
        tasks.append(Task(Batch(data.images[rows, one], labels), Batch(data.images[rows, other], labels)))
    return Task(*(Batch(*map(torch.stack, zip(*part))) for part in zip(*tasks)))


def with_a_new_head(params: Params) -> Params:
    """The same body, and a head of zeros for twenty letters."""
    weight = params["head.weight"]
    return {
        **params,
        "head.weight": weight.new_zeros(N_WAY, weight.shape[1]),
        "head.bias": weight.new_zeros(N_WAY),
    }


def examine(name: str, runs: Task, at: omniglot.Setting) -> dict:
    """Errors of each seed of a run and of pixels in each examination, with the number of steps that meta-validation chooses."""
    config, best = omniglot.RUNS[name], omniglot.kept(name, at)
    if not best:
        raise FileNotFoundError(
            f"the weights of {name} are not in {at.folder}; run first: python book/experiments/omniglot.py {name} --again"
        )
    model = conv4(N_WAY, channels=config.channels, downsample="stride")
    _, adapt = omniglot.losses_of(config, model)
    data = omniglot.omniglot("meta-validation", protocol="alphabets")
    validation = alike(data, 5 * N_RUNS, 0)
    per_seed = []
    for i, seed in enumerate(config.seeds):
        theta = with_a_new_head({key: p[i] for key, p in best.items()})

        def right(step: Adapt, tasks: Task, theta: Params = theta) -> Tensor:
            return inductive_accuracy(model, step, theta, tasks, chunk_size=10)

        steps = max(config.test_steps, key=lambda k: right(adapt(k), validation).mean().item())
        errors = 1 - right(adapt(steps), runs)
        per_seed.append({"seed": seed, "test_steps": steps, "errors": errors.tolist()})
        print(f"{name}, seed {seed}: {steps} steps, {mean_ci95(errors)} wrong")
    pixels = 1 - nearest_neighbour(runs)
    print(f"nearest neighbour in pixels: {mean_ci95(pixels)} wrong")
    return {"per_seed": per_seed, "pixels": pixels.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the authors' all_runs.zip")
    parser.add_argument("--run", choices=RUNS, default=RUNS[-1], help="whose weights, default %(default)s")
    parser.add_argument(
        "--folder",
        type=folder,
        default=Path(__file__).parent / "runs",
        help="where they are, default %(default)s",
    )
    parser.add_argument("--records", type=folder, default=omniglot.RECORDS, help="default %(default)s")
    options = parser.parse_args()
    at = omniglot.Setting(torch.device("cpu"), True, None, options.folder, options.records, 0.0)
    started, began = datetime.now(UTC), time.monotonic()
    settings = {"run": asdict(omniglot.RUNS[options.run])}
    place = options.records / f"lake-{options.run}.json"
    try:
        records.check_place(place, f"lake-{options.run}", settings)
        metrics = examine(options.run, read_runs(options.runs), at)
    except (OSError, ValueError) as why:
        raise SystemExit(str(why)) from None
    made = records.provenance(
        __file__, device=at.device, dtype=torch.float32, started=started, seconds=time.monotonic() - began
    )
    records.save(records.Record(f"lake-{options.run}", settings, metrics, made), place)
    print(f"wrote {place.name}")


if __name__ == "__main__":
    main()
