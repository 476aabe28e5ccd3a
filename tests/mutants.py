"""Break the kit on purpose: every break must turn a test red.

    python tests/mutants.py            # a share of them, another one after each commit
    python tests/mutants.py --all
    python tests/mutants.py --list
    python tests/mutants.py "swap support and query"

A mutant is one edit, made in a copy. No test is chosen for it: the whole unit suite of the kit runs until its first failure
(pytest's exit code 1; an error while collecting is not counted), beginning with the file that bears the module's name, then
with what turned red before; what starts other processes comes last. One process imports the heavy packages and forks for each
mutant. At the end the tests that turned red must pass on the unbroken kit, or they would show nothing.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHARE, WORKERS, PATIENCE = 30, 2, 900  # mutants a run, processes side by side, seconds for one mutant
# what tests the book, its gates, a browser or the race, and not the kit
OTHERS = ("site", "browser", "interactive", "gates", "hygiene", "same_code", "benchmark")
SLOW = ("subprocess", "spawn", "Popen", "torch.compile", "compiled")


class Mutant(NamedTuple):
    """An edit `old -> new` of one file, the only place where `old` stands."""

    name: str
    file: str
    old: str
    new: str


# By file, below mamlkit/ or as it stands: the name of the break, what stands there once, what stands there then.
EDITS: dict[str, list[tuple[str, str, str]]] = {
    "algorithms/maml.py": [
        ("detach the graph", "} if first_order else phi", "}"),
        ("first order keeps the graph", "} if first_order else phi", "} and phi"),
        ("forget a step", "range(inner_steps)", "range(max(inner_steps - 1, 0))"),
        ("climb instead of descend", "p - inner_lr *", "p + inner_lr *"),
        ("reuse adapted weights", "    return shared | phi", "    params.update(phi)\n    return shared | phi"),
        ("forget what only= leaves out", "    return shared | phi", "    return phi | shared | params"),
        ("only= asks for part of a name", "if name.startswith(only)}", "if only in name}"),
    ],
    "meta.py": [
        ("swap support and query", "adapt(params, task.support)\n    return batch_loss(model, adapted, task.query)",
         "adapt(params, task.query)\n    return batch_loss(model, adapted, task.support)"),
        ("judge on the support set", "batch_loss(model, adapted, task.query)", "batch_loss(model, adapted, task.support)"),
        ("no inner loop", "return batch_loss(model, adapted, task.query)", "return batch_loss(model, params, task.query)"),
        ("sum over tasks instead of mean", "name: g.mean(0)", "name: g.sum(0)"),
        ("softmax twice", "F.cross_entropy(predictions, batch.y)", "F.cross_entropy(predictions.softmax(-1), batch.y)"),
        ("differentiate outside vmap", "vmap(grad_and_value(task_loss), (None, 0), chunk_size=chunk_size)(params, tasks)",
         "(lambda g, v: (tree_map(lambda t: t[None], g), v[None]))(*grad_and_value(lambda p: vmap(task_loss, "
         "(None, 0))(p, tasks).mean())(params))"),
        ("a step on a loss that is not finite",
         "if not all(torch.isfinite(t).all() for t in (loss, *gradients.values())):", "if False:"),
        ("evaluate never adapts",
         "return metric(model, adapt(params, task.support), task.query)", "return metric(model, params, task.query)"),
        ("evaluate adapts on the query",
         "metric(model, adapt(params, task.support), task.query)", "metric(model, adapt(params, task.query), task.query)"),
        ("evaluate measures on the support",
         "metric(model, adapt(params, task.support), task.query)", "metric(model, adapt(params, task.support), task.support)"),
        ("evaluate loses the last task of a stack",
         "each = [_task_gradient(task_loss, params, tree_map(lambda t, i=i: t[i], tasks)) for i in range(n)]",
         "each = [_task_gradient(task_loss, params, tree_map(lambda t, i=i: t[i], tasks)) for i in range(max(n - 1, 1))]"),
        ("a query sees the other queries",
         "torch.cat([task.support.x, x[None]]))[-1]", "torch.cat([task.support.x, task.query.x, x[None]]))[-1]"),
        ("the nearest neighbour goes by the ink", "F.normalize(batch.x.flatten(2), dim=-1) for", "batch.x.flatten(2) for"),
        ("the interval knows only the normal law", "half_width = _student_t_975(n - 1) *", "half_width = 1.96 *"),
        ("the interval of one degree too many", "_student_t_975(n - 1)", "_student_t_975(n)"),
        ("the squared errors are summed",
         "F.mse_loss(predictions, batch.y)", "F.mse_loss(predictions, batch.y, reduction='sum')"),
        ("meta_step adds to what p.grad holds",
         "p.grad = gradients[name]", "p.grad = gradients[name] + (0 if p.grad is None else p.grad)"),
        ("any optimiser will do", "if not any(id(p) in held for p in params.values()):", "if False:"),
    ],
    "models.py": [
        ("batch norm keeps running statistics",
         "nn.BatchNorm2d(channels, track_running_stats=False)", "nn.BatchNorm2d(channels)"),
        ("an MLP without ReLU", "        layers.append(nn.ReLU())\n", ""),
        ("an MLP forgets its batch norm", "            layers.append(nn.BatchNorm1d(n_out, track_running_stats=False))",
         "            layers.append(nn.Identity())"),
        ("the maximum for the mean", "x.mean((-2, -1))", "x.amax((-2, -1))"),
    ],
    "sampling.py": [
        ("labels in the order of the classes", ".topk(n_way).indices", ".topk(n_way).indices.sort(-1).values"),
        ("the query holds the support drawings", "batch(x[:, :, k_shot:])", "batch(x[:, :, :k_query])"),
        ("the last class is never drawn",
         "(meta_batch_size, classes, generator=", "(meta_batch_size, max(classes - 1, n_way), generator="),
        ("the last drawing is never drawn", "(meta_batch_size, n_way, per_class, generator=",
         "(meta_batch_size, n_way, max(per_class - 1, k_shot + k_query), generator="),
        ("always the first drawings",
         "drawings.topk(k_shot + k_query).indices", "drawings.topk(k_shot + k_query).indices.sort(-1).indices"),
        ("all classes draw the same numbers",
         "torch.rand(meta_batch_size, n_way, per_class, generator=generator, device=device)",
         "torch.rand(meta_batch_size, 1, per_class, generator=generator, device=device).expand(-1, n_way, -1)"),
        ("the phase moves the wave the other way", "torch.sin(x - phase)", "torch.sin(x + phase)"),
        ("the query never comes near 5", "-5 + 10 * unit", "-5 + 9 * unit"),
        ("the phase goes round twice", "math.pi * phase", "2 * math.pi * phase"),
    ],
    "gradients.py": [
        ("Hessian without its vector", "dot(grad(loss)(p), vector)", "dot(grad(loss)(p), grad(loss)(p))"),
        ("conjugate gradient keeps its first direction",
         "direction = axpy(_ratio(rr, before), direction, residual)", "direction = residual"),
        ("a scalar without its gradient", "name: p - p.detach() for", "name: p.detach() - p.detach() for"),
    ],
    "algorithms/reptile.py": [
        ("Reptile walks backwards", "axpy(-1, adapted, params)", "axpy(-1, params, adapted)"),
        ("Reptile forgets where it is", "maml.adapt(model, phi, part", "maml.adapt(model, params, part"),
        ("Reptile sees one part only", "t[k % inner_batches :: inner_batches]", "t[0 :: inner_batches]"),
    ],
    "algorithms/imaml.py": [
        ("the spring pulls twice as hard", "strength / 2 * dot", "strength * dot"),
        ("implicit MAML forgets the curvature", "axpy(1 / strength, hvp(", "axpy(0.0, hvp("),
        ("iMAML descends one step less", "range(inner_steps)", "range(max(inner_steps - 1, 0))"),
        ("iMAML's query gradient at theta",
         "batch_loss(model, at, task.query))(phi)", "batch_loss(model, at, task.query))(params)"),
        ("iMAML takes the curvature of the query",
         "batch_loss(model, at, task.support), phi, v", "batch_loss(model, at, task.query), phi, v"),
    ],
    "notebook.py": [
        ("setup always seeds torch with 0", "torch.manual_seed(seed)", "torch.manual_seed(0)"),
    ],
    "checks.py": [
        ("a claim that is false passes", "    if not _truth(condition):", "    if condition is None:"),
    ],
    "_front/gradient_descent.js": [
        ("a parabola drawn as |x|", "ends.map((x) => [x, x * x])", "ends.map((x) => [x, Math.abs(x)])"),
        ("the natural logarithm on an axis of powers of ten", "Math.log10(Math.max", "Math.log(Math.max"),
        ("descent half as steep", "stepSize * 2 * visited[k]", "stepSize * visited[k]"),
    ],
    "training.py": [
        ("processes keep their gradients to themselves", "    dist.all_reduce(flat)\n", ""),
        ("processes draw the same tasks", "t.chunk(n_ranks, axis)[rank]", "t.chunk(n_ranks, axis)[0]"),
        ("each process looks at its own clock", '            clock.asked = gradients[""]\n', ""),
        ("processes may start apart", "    if n_ranks > 1:\n        _refuse_other_starts(run, n_ranks)\n", ""),
        ("processes may draw from other generators", "    if len(set(digests)) > 1:", "    if False:"),
        ("a stopped seed poisons the others", "p[seed] = math.nan", "p[:] = math.nan"),
        ("a diverged seed goes on unnoticed", "run.stopped.add(seed)", "continue"),
        ("wait for the device in every step", "run.losses[run.step] = step()", "run.losses[run.step] = step().item()"),
        ("the last parameters instead of the best", "_where_seed(newest_is_best, p, run.best[name])", "p.clone()"),
        ("a later tie is better", "values[-1] > values[:-1]", "values[-1] >= values[:-1]"),
        ("an infinite validation is the best",
         "values = torch.where(values.isfinite(), values, -math.inf)", "values = values.nan_to_num(-math.inf)"),
        ("the start is the best of what was never judged", "_where_seed(judged, run.best[name], p)", "run.best[name]"),
        ("a NaN validation passes in silence", "if not math.isfinite(number) and seed not in run.stopped:", "if False:"),
        ("validate may change the parameters",
         "(*run.params.values(), run.generator.get_state())] if watched", "(run.generator.get_state(),)] if watched"),
        ("validate is never watched", "watched=run.step - first <= validate_every", "watched=False"),
        ("seeds share their tasks",
         "t.unflatten(0, (n_seeds, -1))", "t.unflatten(0, (n_seeds, -1))[:1].expand(n_seeds, *[-1] * t.dim())"),
        ("any compiler is trusted", "problem = _differs(fast, plain)", "problem = ''"),
        ("a compiler's NaN is trusted",
         "if not bool(off <= eps**0.25 * (size + least)):", "if bool(off > eps**0.25 * (size + least)):"),
        ("no compiler is trusted", "eps**0.25 * (size + least)", "eps**2 * (size + least)"),
        ("the step of a bad compiler is lost", "        return plain\n", "        return fast\n"),
        ("one cache for all instruction sets", "config.patch(cache_key_tag=tag)", "config.patch(cache_key_tag='')"),
    ],
    "checkpoints.py": [
        ("resume without the optimiser's state", '    run.optimizer.load_state_dict(saved["optimizer"])\n', ""),
        ("resume without the generator's state", "    run.generator.set_state(state)\n", ""),
        ("resume without the best", '        run.best[name].copy_(saved["best"][name])\n', ""),
        ("a flipped bit passes", "damaged = parts.testzip()", "damaged = None"),
        ("a checkpoint of other contents passes", "    if not all(sound.values()):", "    if False:"),
        ("an optimiser without memory passes", "return _remembered(saved) == _remembered(trial.state_dict())", "return True"),
        ("other rates pass", 'if a != b and "initial_lr" not in here:', "if False:"),
        ("a scheduled rate is refused", 'if a != b and "initial_lr" not in here:', "if a != b:"),
        ("the generator is touched first", "    torch.Generator(run.generator.device).set_state(state)\n",
         "    run.generator.set_state(state)\n    torch.ones(2).view(3)\n"),
        ("drafts stay for ever", "    sweep_drafts(path)\n", ""),
        ("a checkpoint is written in place",
         "write_atomically(path, memory.getbuffer())", "path.write_bytes(memory.getbuffer())"),
        ("config may hold what JSON does not know", "sort_keys=True, allow_nan=False)", "sort_keys=True, default=str)"),
    ],
    "files.py": [
        ("a file is written in place",
         "    draft, file = _draft_of(target)\n", "    draft, file = target, open(target, 'wb')\n"),
        ("a link is replaced", "def write_atomically(path: str | Path, data: bytes | memoryview) -> None:",
         "def write_atomically(path, data, os=type('', (), {**vars(__import__('os')), 'path': type('', (), "
         "{'realpath': str})})):"),
        ("a draft that is being written is swept", "if locked or (locked is None and old):", "if True:"),
        ("drafts are never swept", "                    draft.unlink()\n", "                    pass\n"),
        ("other files are swept", "ours.fullmatch(draft.name)", "draft.name.startswith('.file.')"),
        ("permissions are lost", "os.chmod(draft, stat.S_IMODE(target.stat().st_mode))", "os.chmod(draft, 0o600)"),
        ("a pipe is replaced", "if not stat.S_ISREG(target.stat().st_mode):", "if False:"),
    ],
    "records.py": [
        ("a hand-edited record is shown", "        if digest != _digest(data):", "        if False:"),
        ("the digest forgets provenance",
         "    text = json.dumps(content, sort_keys=True", "    text = json.dumps({**content, 'provenance': 0}, sort_keys=True"),
        ("weights are used unchecked", "        if hashlib.sha256(data).hexdigest() != digest:", "        if False:"),
        ("a name may stand twice", "    if len(dict(pairs)) < len(pairs):", "    if False:"),
        ("a record of any size is read",
         "    if (size := path.stat().st_size) > LARGEST:", "    if (size := path.stat().st_size) < 0:"),
        ("a schema of True", "        if type(schema) is not int or schema != SCHEMA:", "        if schema != SCHEMA:"),
        ("any day will do", '    return value == moment.isoformat(timespec="seconds")', "    return True"),
        ("a line break in a device", "value.isprintable()", "True"),
        ("mark-up in a caption", 'not set("<>&") & {*value}', "True"),
        ("half a character is text", '        case str() if not re.search("[\\ud800-\\udfff]", value):', "        case str():"),
        ("too many brackets", "    except (ValueError, RecursionError) as error:", "    except ValueError as error:"),
        ("brackets over a file that is no record", "KeyError, RecursionError):", "KeyError):"),
        ("the message does not say where it looked", "{os.path.abspath(path)} is not there; ", "it is not there; "),
        ("another run replaces a record", "    if path.exists() and (difference := ", "    if False and (difference := "),
        ("a record is written in place", "    write_atomically(path, text.encode())", "    path.write_bytes(text.encode())"),
    ],
    "datasets.py": [
        ("glyphs forgets the seed in its key", "{float(noise)} {seed} numpy", "{float(noise)} numpy"),
        ("glyphs forgets the noise in its key", "{float(noise)} {seed} numpy", "{seed} numpy"),
        ("a foreign cache stops glyphs",
         "    except Exception:  # whatever", "    except (OSError, ValueError, KeyError):  # whatever"),
        ("a cache of another key is read", "hashlib.sha256(key.encode())\n    for", "hashlib.sha256()\n    for"),
        ("a cache's contents are not compared",
         '    if str(arrays.pop("checksum")) != _checksum(key, arrays):', '    if arrays.pop("checksum") is None:'),
        ("held-out alphabets stay in meta-train", '"meta-train": background & ~held_out', '"meta-train": background'),
        ("the random splits overlap", "parts = dict(zip(get_args(Split), np.split(order, [1100, 1200]), strict=True))",
         "parts = dict(zip(get_args(Split), (order[:1100], order[1000:1100], order[1200:]), strict=True))"),
        ("~ is a folder's name", "Path(os.path.expanduser(named))", "Path(named)"),
        ("an address is a folder", '    if re.match(r"\\w\\w+:/", str(named)):', "    if False:"),
    ],
    "letters.py": [
        ("the elastic noise is halved", "ELASTIC = 0.14", "ELASTIC = 0.07"),
        ("no rotation", "HALF_TURN = 0.17", "HALF_TURN = 0.0"),
        ("all letters share their noise", "default_rng([seed, ord(letter.character)])", "default_rng([seed])"),
    ],
    "omniglot_files.py": [
        ("packed drawings of another width",
         "bits.dtype != np.uint8 or bits.shape[1:] != (math.ceil(SIDE * SIDE / 8),)", "bits.dtype != np.uint8"),
        ("negative alphabets wrap", "((alphabet < 0) | (alphabet >= len(names))", "((alphabet >= len(names))"),
        ("a packed character twice", "        if len(set(labels)) < len(labels):", "        if False:"),
        ("a drawing twice in an archive",
         '                    if int(match["drawer"]) in drawings:', "                    if False:"),
        ("bombs are unpacked", "    if (size := archive.getinfo(name).file_size) > LARGEST:",
         "    if (size := archive.getinfo(name).file_size) < 0:"),
        ("pictures of another size",
         "                        if picture.size != (SIDE, SIDE):", "                        if False:"),
        ("the packed file is not held against its sum", " and sha256(drawings) != DRAWINGS:", " and False:"),
    ],
    "book/experiments/sinusoids.py": [
        ("sinusoids unpacks a pair", "    for name, run in trained.items():", "    for name, (_, run) in trained.items():"),
        ("the baseline's weights are not kept", "for m in trained for n, p", 'for m in ["maml"] for n, p'),
        ("any --steps", "type=whole(CURVE, of=CURVE)", "type=int"),
        ("other settings are found out at the end",
         '        records.check_place(path, "sinusoids", asdict(config))', "        pass"),
    ],
    "book/experiments/omniglot.py": [
        ("the record before the weights",
         "    weights = {}\n", "    weights = {}\n    write(name, asdict(config), metrics, at, started, 0.0)\n"),
        ("traps without runs",
         "    if missing := [of for of in settings if not", "    if missing := [of for of in settings if False and not"),
    ],
    "book/experiments/options.py": [
        ("nan minutes", "    if not found > 0:", "    if found <= 0:"),
        ("a GPU that is not there", "    if (found.index or 0) >= n:", "    if False:"),
    ],
}  # fmt: skip

MUTANTS = [Mutant(name, file, *edit) for file, edits in EDITS.items() for name, *edit in edits]


def place(mutant: Mutant, root: Path) -> Path:
    """The file it edits."""
    return root / mutant.file if mutant.file.startswith("book/") else root / "mamlkit" / mutant.file


def stale(mutant: Mutant) -> str:
    """Why the edit can't be made, or nothing."""
    path = place(mutant, ROOT)
    times = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else None
    return (
        ""
        if times == 1
        else f"no file {mutant.file}"
        if times is None
        else f"{mutant.old!r} stands {times} times"
    )


class Watch:
    """A pytest plugin: the order of the tests, and the name of the one that failed."""

    def __init__(self, file: str, killers: list[str], report: Path):
        self.stem, self.killers, self.report = Path(file).stem, killers, report

    def pytest_collection_modifyitems(self, items: list) -> None:
        def late(item) -> tuple[bool, bool, bool]:
            source = inspect.getsource(item.function) if hasattr(item, "function") else ""
            slow = any(word in source for word in SLOW)
            return slow, self.stem not in item.path.stem, item.nodeid not in self.killers

        items.sort(key=late)

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.report.write_text(report.nodeid)


def start(folder: Path, base: Path, mutant: Mutant | None, killers: list[str], tests: list[str]) -> int:
    """Forks a process that runs the tests on a copy of `base`; its exit code is pytest's."""
    if pid := os.fork():
        return pid
    os.setsid()
    code = 70
    try:
        shutil.copytree(base, folder)
        if mutant:
            path = place(mutant, folder)
            path.write_text(
                path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8"
            )
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path[:] = [
            str(folder),
            *(p for p in sys.path if p and not Path(p).is_relative_to(ROOT / "tests")),
        ]
        with open(folder / "log.txt", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        import pytest

        watch = Watch(mutant.file if mutant else "", killers, folder / "killer.txt")
        once = [] if not mutant else ["-x"]
        code = int(pytest.main([*once, "-q", "-p", "no:cacheprovider", *tests], plugins=[watch]))
    finally:
        os._exit(code)


def warm(base: Path) -> None:
    """Copies what the tests need to `base` and imports what takes long; nothing here may start a thread."""
    leave = shutil.ignore_patterns("__pycache__", "*.ipynb", "_static", "mutants.py")
    for part in ("mamlkit", "tests", "book"):
        shutil.copytree(ROOT / part, base / part, ignore=leave)
    for page in (ROOT / "book").glob("*.ipynb"):
        (base / "book" / page.name).symlink_to(page)
    shutil.copy(ROOT / "pyproject.toml", base)
    for package in ("matplotlib.pyplot", "pytest", "torch.func", "torch._dynamo", "anywidget", "nbformat"):
        importlib.import_module(package)
    sys.dont_write_bytecode = True
    for ending in ("INT", "TERM"):
        signal.signal(getattr(signal, f"SIG{ending}"), lambda *_: sys.exit(1))


def run(chosen: list[Mutant]) -> list[str]:
    """What went wrong, a line each."""
    began, survivors, killers, running, waiting = time.monotonic(), [], [], {}, list(chosen)
    suite = ["tests", "mamlkit", "--doctest-modules", *(f"--ignore=tests/test_{name}.py" for name in OTHERS)]
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        warm(base)
        try:
            while waiting or running:
                while waiting and len(running) < WORKERS:
                    mutant = waiting.pop(0)
                    folder = Path(name) / f"{len(waiting)}"
                    running[start(folder, base, mutant, killers, suite)] = (mutant, folder, time.monotonic())
                for pid, (mutant, folder, since) in list(running.items()):
                    late = time.monotonic() - since > PATIENCE
                    if late:
                        os.killpg(pid, signal.SIGKILL)
                    done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
                    if not done:
                        continue
                    del running[pid]
                    code = "hangs" if late else os.waitstatus_to_exitcode(status)
                    killer = folder / "killer.txt"
                    by = killer.read_text() if code == 1 and killer.is_file() else ""
                    said = "red  " if by else "GREEN" if code == 0 else f"exit {code}"
                    print(f"{said} {time.monotonic() - since:4.0f} s  {mutant.name}  {by}", flush=True)
                    if by:
                        killers.append(by)
                    else:
                        survivors.append(mutant.name)
                        if code not in (0, "hangs"):
                            print((folder / "log.txt").read_text()[-2000:])
                    shutil.rmtree(folder, ignore_errors=True)
                time.sleep(0.05)
        finally:
            for pid in running:
                os.killpg(pid, signal.SIGKILL)
        if killers:
            folder = Path(name) / "unbroken"
            _, status = os.waitpid(
                start(folder, base, None, [], [*dict.fromkeys(killers), "--doctest-modules"]), 0
            )
            if status:
                print((folder / "log.txt").read_text()[-3000:])
                survivors.append("the unbroken kit fails these tests too: mend that first")
    print(f"{time.monotonic() - began:.0f} s; {len({*killers})} tests turned red")
    return survivors


def drawn() -> list[Mutant]:
    """A share of the mutants in a fixed mixed order; with each commit the next share, so that all have their turn."""
    count = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    mixed = random.Random(0).sample(MUTANTS, len(MUTANTS))
    first = int(count or 0) * SHARE % len(mixed)
    return (mixed + mixed)[first : first + min(SHARE, len(mixed))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"mutants to try; a share of {SHARE} by default")
    parser.add_argument("--all", action="store_true", help="try every mutant")
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    options = parser.parse_args()
    unknown = set(options.names) - {m.name for m in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; --list names them")
    if options.list:
        print("\n".join(m.name for m in MUTANTS))
        return 0
    named = [m for m in MUTANTS if m.name in options.names]
    chosen = MUTANTS if options.all else named or drawn()
    # an edit that can't be made tests nothing: it is red here whether it was drawn or not
    spent = [f"{m.name} ({m.file}): {why}, not once" for m in named or MUTANTS if (why := stale(m))]
    print("\n".join(spent), end="\n" * bool(spent))
    print(f"{len(chosen)} of {len(MUTANTS)} mutants", flush=True)
    failed = run([m for m in chosen if not stale(m)]) if not spent or options.all or named else []
    failed += [f"{line}; mend the edit" for line in spent]
    print("".join(f"not red: {line}\n" for line in failed), end="")
    print(f"mutants: {len(chosen) - len(failed)} passed, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    # before torch and NumPy are imported: a process with threads can't be forked safely
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
