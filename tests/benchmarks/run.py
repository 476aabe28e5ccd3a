"""The race: the same meta-step by the kit and by its peers, side by side in one run, on a CPU or a GPU.

    make benchmark
    python tests/benchmarks/run.py --seconds 2 --only sinusoid
    python tests/benchmarks/run.py --full --racers mamlkit "plain loop"

All have the same network, initial weights, tasks, loss, inner gradient descent and Adam; the kit goes through `meta_train`, as a
reader does. Before any clock starts, each racer's meta-gradient is compared in float64 with the kit's, taken task by task; who
differs is disqualified. Then each racer waits in a process of its own, since the allocator's settings, compiled code and memory
belong to a process, and short bursts take turns, so that the machine's moods hit all alike.

How to read the table, the fastest first: meta-steps per second as the median of the bursts, with the lowest and the highest;
milliseconds per task; MiB, the peak memory of the process less what it had before its first step (on a GPU the peak of its
tensors), to which compiled racers add their compiler's; the median over torchopt's and over the fastest peer's, where above 1
is faster than they are. A racer that can't run, dies or doesn't answer is a sentence above the table.

Who may be missing: learn2learn, whose package does not build on Python 3.11 and newer; torchopt at first order, which its
MetaSGD has not; JAX on a GPU without its CUDA build. On a CPU the kit and JAX take convolutions task by task, which is faster
there, and only on the sinusoid, where dispatch is what costs, the kit races compiled too. Precision is float32, as each library
understands it.

It runs on Linux and macOS, with the defaults some ten minutes on two cores: half are imports, checks and compilers. Only a quiet
machine gives numbers worth keeping: beside another program, rates with two threads were seen to fall a hundredfold.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import signal
import statistics
import sys
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

# No torch in this process: on Linux the peak memory of a child starts at its parent's, which must stay small.

RACERS = ("mamlkit", "mamlkit, compiled", "torchopt", "higher", "learn2learn", "plain loop", "JAX")


class Race(NamedTuple):
    """What everybody computes: `network` is "sinusoid" or "conv4"."""

    network: str
    n_way: int
    n_tasks: int
    inner_steps: int
    first_order: bool

    def __str__(self) -> str:
        kind = "K = 10" if self.network == "sinusoid" else f"{self.n_way}-way 1-shot"
        steps = f"{self.inner_steps} inner step{'s' * (self.inner_steps > 1)}"
        order = "first order" if self.first_order else "second order"
        return f"{self.network}, {kind}, {self.n_tasks} tasks, {steps}, {order}"


def races(only: str | None, full: bool, cuda: bool) -> list[Race]:
    """The program; a GPU gets the meta-batches of the MAML paper, a CPU a few tasks, whose time it takes one after the other."""
    n_tasks = {5: 32, 20: 16} if cuda else {5: 4, 20: 1}
    sinusoid = [Race("sinusoid", 1, 25, inner_steps, False) for inner_steps in (1, 5)]
    conv = [
        Race("conv4", n_way, n_tasks[n_way], inner_steps, first_order)
        for n_way in (5, 20)
        for inner_steps in (1, 5)
        for first_order in (False, True)
        if full or (n_way, inner_steps) == (5, 1)
    ]
    return {"sinusoid": sinusoid, "conv": conv, None: sinusoid + conv}[only]


class Out(Exception):
    """Why a racer is out of the race, in a sentence."""


def work(line: Connection, threads: int, contestant: tuple[Any, ...]) -> None:
    """A worker's life: take a command, answer it, until the line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the starter, who then closes the line
    import racers

    with suppress(EOFError, OSError):
        racers.set_up(threads)
        me = racers.Contestant(*contestant) if contestant else racers
        while True:
            command, arguments = line.recv()
            try:
                answer = getattr(me, command)(*arguments)
            except ModuleNotFoundError as why:
                answer = Out(f"not installed here (no module {why.name})")
            except NotImplementedError as why:
                answer = Out(f"left out ({why})")
            except Exception as why:
                reason = " ".join(str(why).split())[:150]
                answer = Out(f"does not run here ({type(why).__name__}: {reason})")
            line.send(answer)


class Worker:
    """A process that runs `work`, ended with the `with` block; `contestant` is what `racers.Contestant` takes."""

    def __init__(self, threads: int, patience: float, *contestant: Any):
        spawn = multiprocessing.get_context("spawn")
        self.line, theirs = spawn.Pipe()
        self.patience = patience
        self.process = spawn.Process(target=work, args=(theirs, threads, contestant), daemon=True)
        self.process.start()
        theirs.close()  # so that the line breaks when the worker dies

    def ask(self, command: str, *arguments: Any) -> Any:
        """The worker's answer; raises `Out` if it has failed, died or says nothing for `patience` seconds."""
        try:
            self.line.send((command, arguments))
            if not self.line.poll(self.patience):
                self.process.kill()
                raise Out(f"no answer to {command!r} within {self.patience:g} s")
            answer = self.line.recv()
        except (EOFError, OSError):
            self.process.join(10)
            raise Out(f"died of {command!r}, exit code {self.process.exitcode}") from None
        if isinstance(answer, Out):
            raise answer
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def run(race: Race, options: argparse.Namespace) -> None:
    """Check, race and print one table."""
    print(f"\n{race}", flush=True)
    rates: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def start(racer: str) -> None:
            worker_of = (options.threads, options.patience, race, racer, options.device)
            with Worker(*worker_of) as judged:  # another process, so that checking costs the racer no memory
                difference = judged.ask("difference")
            if not difference < 1e-9:
                raise Out(f"disqualified, its meta-gradient differs by {difference:.1e}")
            worker = stack.enter_context(Worker(*worker_of))
            worker.ask("prepare", options.seconds)
            workers[racer], rates[racer] = worker, []

        def burst(racer: str) -> None:
            rates[racer].append(workers[racer].ask("burst", options.seconds))

        def finish(racer: str) -> None:
            memory[racer] = workers[racer].ask("memory")

        for turn in (start, *[burst] * options.rounds, finish):
            for racer in list(workers) if turn is not start else options.racers:
                if racer == "mamlkit, compiled" and race.network == "conv4" and options.device == "cpu":
                    continue
                try:
                    turn(racer)
                except Out as why:
                    workers.pop(racer, None)
                    print(f"  {racer}: {why}", flush=True)
    print(table(rates, memory, race.n_tasks), flush=True)


def table(rates: dict[str, list[float]], memory: dict[str, float], n_tasks: int) -> str:
    """The racers that `memory` knows, the fastest first, as lines of text."""
    medians = {racer: statistics.median(rates[racer]) for racer in memory}
    torchopt = medians.get("torchopt", math.nan)
    peer = max((m for racer, m in medians.items() if not racer.startswith("mamlkit")), default=math.nan)
    head = "steps/s", "lowest", "highest", "ms/task", "MiB", "to torchopt", "to fastest peer"
    lines = ["".join([" " * 20, *(f"{word:>{max(10, len(word) + 2)}}" for word in head)])]
    for racer, m in sorted(medians.items(), key=lambda item: -item[1]):
        numbers = f"{m:10.1f}{min(rates[racer]):10.1f}{max(rates[racer]):10.1f}{1e3 / m / n_tasks:10.2f}"
        line = f"  {racer:18}{numbers}{memory[racer]:10.0f}{m / torchopt:13.2f}{m / peer:17.2f}"
        lines.append(line.replace("nan", "  –"))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seconds", type=float, default=1.0, help="length of a burst, default %(default)s")
    add("--rounds", type=int, default=7, help="bursts of each racer, default %(default)s")
    add("--threads", type=int, default=2, help="CPU threads of each racer, default %(default)s")
    add("--device", choices=["cpu", "cuda"], help="where to race, default cuda if there is one")
    add("--only", choices=["sinusoid", "conv"], help="one part of the program")
    add("--full", action="store_true", help="conv4 also with 5 inner steps and at 20-way")
    add("--racers", nargs="+", choices=RACERS, default=RACERS, metavar="RACER", help=", ".join(RACERS))
    add("--patience", type=float, default=300, help="seconds to wait for an answer, default %(default)s")
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or options.rounds < 1 or options.threads < 1:
        parser.error("--seconds must be above 0, --rounds and --threads at least 1")
    try:
        with Worker(options.threads, options.patience) as worker:
            machine, gpu = worker.ask("machine")
    except Out as why:
        parser.error(f"no worker can start: {why}")
    if options.device == "cuda" and not gpu:
        parser.error("--device cuda, but torch finds no CUDA device here; use --device cpu")
    options.device = options.device or ("cuda" if gpu else "cpu")
    where = gpu if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(f"{where} ({machine})", flush=True)
    for race in races(options.only, options.full, options.device == "cuda"):
        run(race, options)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
        sys.exit(0)
    sys.exit(130)
