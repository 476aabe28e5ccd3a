"""Break MAML on purpose: every break must turn a test red.

    python tests/mutants.py            # all of them
    python tests/mutants.py --list
    python tests/mutants.py "swap support and query"

Each mutant is one edit of the kit, made in a copy of it; the tests named beside it must then fail (pytest's exit code 1: an error
while collecting does not count). The unbroken copy must pass first, or nothing would be shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """An edit `old -> new` of one file, the only place where `old` stands, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str = "tests/test_meta.py tests/test_maml.py -k 'not conv and not chunk'"


MUTANTS = [
    Mutant("detach the graph", "algorithms/maml.py", "} if first_order else phi", "}"),
    Mutant("first order keeps the graph", "algorithms/maml.py", "} if first_order else phi", "} and phi"),
    Mutant("forget a step", "algorithms/maml.py", "range(inner_steps)", "range(max(inner_steps - 1, 0))"),
    Mutant("climb instead of descend", "algorithms/maml.py", "p - inner_lr *", "p + inner_lr *"),
    Mutant("reuse adapted weights", "algorithms/maml.py", "    return shared | phi",
           "    params.update(phi)\n    return shared | phi"),
    Mutant("forget what only= leaves out", "algorithms/maml.py", "    return shared | phi", "    return phi | shared | params"),
    Mutant("swap support and query", "meta.py", "adapt(params, task.support)\n    return batch_loss(model, adapted, task.query)",
           "adapt(params, task.query)\n    return batch_loss(model, adapted, task.support)"),
    Mutant("judge on the support set", "meta.py",
           "batch_loss(model, adapted, task.query)", "batch_loss(model, adapted, task.support)"),
    Mutant("no inner loop", "meta.py",
           "return batch_loss(model, adapted, task.query)", "return batch_loss(model, params, task.query)"),
    Mutant("sum over tasks instead of mean", "meta.py", "name: g.mean(0)", "name: g.sum(0)"),
    Mutant("softmax twice", "meta.py",
           "F.cross_entropy(predictions, batch.y)", "F.cross_entropy(predictions.softmax(-1), batch.y)",
           "tests/test_meta.py tests/test_maml.py -k 'strided or torchs_sgd'"),
    Mutant("differentiate outside vmap", "meta.py",
           "vmap(grad_and_value(task_loss), (None, 0), chunk_size=chunk_size)(params, tasks)",
           "(lambda g, v: (tree_map(lambda t: t[None], g), v[None]))("
           "*grad_and_value(lambda p: vmap(task_loss, (None, 0))(p, tasks).mean())(params))",
           "tests/test_meta.py -k 'slope or (judge and strided and adjoint)'"),
    Mutant("a step on a loss that is not finite", "meta.py",
           "if not all(torch.isfinite(t).all() for t in (loss, *gradients.values())):", "if False:"),
    Mutant("batch norm keeps running statistics", "models.py", "nn.BatchNorm2d(channels, track_running_stats=False)",
           "nn.BatchNorm2d(channels)", "tests/test_models_and_sampling.py"),
    Mutant("labels in the order of the classes", "sampling.py", ".topk(n_way).indices", ".topk(n_way).indices.sort(-1).values",
           "tests/test_models_and_sampling.py"),
    Mutant("the query holds the support drawings", "sampling.py", "batch(x[:, :, k_shot:])", "batch(x[:, :, :k_query])",
           "tests/test_models_and_sampling.py"),
    Mutant("Hessian without its vector", "gradients.py", "dot(grad(loss)(p), vector)", "dot(grad(loss)(p), grad(loss)(p))",
           "tests/test_models_and_sampling.py"),
    Mutant("Reptile walks backwards", "algorithms/reptile.py", "axpy(-1, adapted, params)", "axpy(-1, params, adapted)",
           "tests/test_reptile.py"),
    Mutant("Reptile forgets where it is", "algorithms/reptile.py",
           "maml.adapt(model, phi, part", "maml.adapt(model, params, part", "tests/test_reptile.py"),
    Mutant("the spring pulls twice as hard", "algorithms/imaml.py", "strength / 2 * dot", "strength * dot",
           "tests/test_imaml.py"),
    Mutant("implicit MAML forgets the curvature", "algorithms/imaml.py", "axpy(1 / strength, hvp(", "axpy(0.0, hvp(",
           "tests/test_imaml.py"),
    Mutant("conjugate gradient keeps its first direction", "gradients.py",
           "direction = axpy(_ratio(rr, before), direction, residual)", "direction = residual", "tests/test_gradients.py"),
    Mutant("a scalar without its gradient", "gradients.py", "name: p - p.detach() for", "name: p.detach() - p.detach() for",
           "tests/test_gradients.py"),
    Mutant("processes keep their gradients to themselves", "training.py", "    dist.all_reduce(flat)\n", "",
           "tests/test_training.py -k two_processes"),
    Mutant("resume without the optimiser's state", "training.py", '    run.optimizer.load_state_dict(saved["optimizer"])\n', "",
           "tests/test_training.py -k resumed"),
    Mutant("resume without the generator's state", "training.py", '    run.generator.set_state(saved["generator"].cpu())\n', "",
           "tests/test_training.py -k resumed"),
    Mutant("processes draw the same tasks", "training.py", "t.chunk(n_ranks, axis)[rank]", "t.chunk(n_ranks, axis)[0]",
           "tests/test_training.py -k two_processes"),
    Mutant("a stopped seed poisons the others", "training.py", "p[seed] = math.nan", "p[:] = math.nan",
           "tests/test_training.py -k 'diverges and stopped'"),
    Mutant("a diverged seed goes on unnoticed", "training.py", "self.stopped.add(seed)", "continue",
           "tests/test_training.py -k 'diverges'"),
    Mutant("wait for the device in every step", "training.py", "losses[run.step] = step()", "losses[run.step] = step().item()",
           "tests/test_training.py -k never_waits"),
    Mutant("the last parameters instead of the best", "training.py", "torch.where(better, p, self.best[name])", "p.clone()",
           "tests/test_training.py -k 'best'"),
    Mutant("seeds share their tasks", "training.py", "t.unflatten(0, (n_seeds, -1))",
           "t.unflatten(0, (n_seeds, -1))[:1].expand(n_seeds, *[-1] * t.dim())", "tests/test_training.py -k seeds_trained"),
]  # fmt: skip


def tested(tests: str, kit: Path) -> int:
    """pytest's exit code for `tests` with the kit found in `kit`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(kit),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -p no:randomly {tests}"
    return subprocess.run(command, shell=True, cwd=kit, env=environment, stdout=subprocess.DEVNULL).returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="mutants to try; all by default")
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    options = parser.parse_args()
    unknown = set(options.names) - {m.name for m in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; --list names them")
    chosen = [m for m in MUTANTS if not options.names or m.name in options.names]
    if options.list:
        print("\n".join(m.name for m in MUTANTS))
        return 0

    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        kit = Path(folder)
        skip = shutil.ignore_patterns("__pycache__", "benchmarks")
        for part in ("mamlkit", "tests"):
            shutil.copytree(ROOT / part, kit / part, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", kit)
        for tests in dict.fromkeys(m.tests for m in chosen):
            if tested(tests, kit) != 0:
                print(f"the unbroken kit fails `pytest {tests}`: mend that first")
                return 1
        for mutant in chosen:
            file = kit / "mamlkit" / mutant.file
            source = file.read_text()
            if source.count(mutant.old) != 1:
                print(
                    f"{mutant.name}: {mutant.old!r} stands {source.count(mutant.old)} times in {mutant.file}, not once"
                )
                return 1
            file.write_text(source.replace(mutant.old, mutant.new))
            code = tested(mutant.tests, kit)
            file.write_text(source)
            print(
                f"{'red ' if code == 1 else 'GREEN' if code == 0 else f'exit {code}'}  {mutant.name}",
                flush=True,
            )
            if code != 1:
                survivors.append(mutant.name)
    print(f"mutants: {len(chosen) - len(survivors)} passed, {len(survivors)} failed")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
