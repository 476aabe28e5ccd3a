"""Malformed calls of every public function: each ends before anything is changed, in an error that names argument and cure."""

from __future__ import annotations

import linecache
import math
import re
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mamlkit import gradients, intervals, meta, models, sampling, training
from mamlkit.algorithms import (
    cavia,
    fedavg,
    imaml,
    learned_optimiser,
    leo,
    maml,
    mamlpp,
    meta_curvature,
    meta_sgd,
    protonet,
    reptile,
    ridge,
    scaffold,
)
from mamlkit.data import image_sets, texts
from mamlkit.page import checks, figures, records
from mamlkit.tasks import Batch, Task, one_by_one, part

NAN, INF = math.nan, math.inf
NOT_WHOLE = [0, -1, 1.5, "3", None, NAN, True]


def change(part: str, how) -> object:
    """A change of one tensor of a batch or a task: `change("support.x", how)(task)`."""
    first, _, rest = part.partition(".")
    return lambda value: value._replace(
        **{first: (change(rest, how) if rest else how)(getattr(value, first))}
    )


TENSORS = {
    "numpy": lambda t: t.numpy(), "list": lambda t: t.tolist(), "None": lambda t: None, "0-d": lambda t: t.flatten()[0],
    "meta": lambda t: t.to("meta"), "empty": lambda t: t[:0], "short": lambda t: t[:-1], "double": lambda t: t.double(),
}  # fmt: skip
LABELS = {
    "-100": lambda y: y * 0 - 100, "-1": lambda y: y - 1, "n_way": lambda y: y + 1, "column": lambda y: y[..., None],
    "one-hot": lambda y: nn.functional.one_hot(y), "float one-hot": lambda y: nn.functional.one_hot(y, 4).float(),
    "int32": lambda y: y.int(),
}  # fmt: skip


def changes(part: str, bad: dict) -> dict[str, object]:
    """What can be wrong with one tensor of a batch or a task."""
    return {f"{part} {name}": change(part, how) for name, how in bad.items()}


PARAMS = {
    "None": lambda p: None, "list": lambda p: list(p.values()), "empty": lambda p: {}, "numpy": lambda p: {k: t.numpy() for k,
        t in p.items()},
    "unknown name": lambda p: {**p, "neck": torch.ones(1)}, "double": lambda p: {k: t.double() for k, t in p.items()},
    "shape": lambda p: {k: t[:1] for k, t in p.items()}, "on meta": lambda p: {k: t.to("meta") for k, t in p.items()},
}  # fmt: skip
VECTOR = {
    **{k: PARAMS[k] for k in ("None", "list", "empty", "numpy")}, "fewer": lambda p: {"a": p["a"]}, "more": lambda p: {**p,
        "c": p["a"]},
    "broadcast": lambda p: {**p, "a": p["a"][:1]},
}  # fmt: skip
BATCH = {
    "None": lambda b: None,
    "x alone": lambda b: b.x,
    "list": list,
    **changes("x", TENSORS),
    **changes("y", LABELS),
}
TASK = {"None": lambda t: None, "support alone": lambda t: t.support, "empty support": change("support",
        lambda b: Batch(b.x[:0], b.y[:0])),
        **changes("support.x", TENSORS), **changes("query.y", LABELS)}  # fmt: skip
STACK = {**TASK, "unstacked": lambda t: Task(*(Batch(b.x[0], b.y[0]) for b in t)), "no examples": change("support.x",
        lambda x: x[:, :0]),
         "other number": change("query", lambda b: Batch(b.x[:1], b.y[:1])), "list of tasks": lambda t: [t, t],
        **changes("support.y", LABELS)}  # fmt: skip
MODULE = {"None": lambda m: None, "function": lambda m: m.forward, "class": lambda m: type(m)}
FUNCTION = {"None": lambda f: None, "text": lambda f: "maml", "number": lambda f: 3}
GENERATOR = {"None": lambda g: None, "seed": lambda g: 0, "class": lambda g: torch.Generator}
TENSOR = {"None": lambda t: None, "numpy": lambda t: t.numpy(), "list": lambda t: t.tolist()}
LOSS = {**FUNCTION, "shape (1,)": lambda f: lambda p, t: f(p, t)[None], "shape (3,)": lambda f: lambda p, t: f(p, t).repeat(3),
        "no tensor": lambda f: lambda p, t: 1.0, "no arguments": lambda f: lambda: 0, "returns None": lambda f: lambda p,
        t: None}  # fmt: skip
RATE = [NAN, INF, -INF, -0.1, "0.1", None, True]


def inputs() -> dict[str, object]:
    """Good arguments by name, made anew for every call."""
    torch.manual_seed(0)
    model = models.Network(nn.Flatten(), nn.Linear(4, 3))
    params, generator = models.initial_params(model), torch.Generator().manual_seed(1)
    batch = lambda n: Batch(torch.rand(2, n, 1, 2, 2), torch.arange(3).repeat(2, n // 3))  # noqa: E731
    tasks = Task(batch(6), batch(3))
    task = Task(*(Batch(b.x[0], b.y[0]) for b in tasks))
    adapt = partial(maml.adapt, model, inner_lr=0.1, inner_steps=1)
    regression = ridge.initial_params(model)
    vector = {"a": torch.rand(3), "b": torch.rand(2, 2)}
    normed = models.mlp([4, 3, 3], batch_norm=True)
    beside = {"rates": meta_sgd.initial_params(model, inner_lr=0.1), "matrices": meta_curvature.initial_params(model),
        "two steps": mamlpp.initial_params(model, inner_steps=2, inner_lr=0.1),
        "trajectory": partial(mamlpp.trajectory, model, inner_steps=2), "normed": normed,
        "norms": mamlpp.initial_params(normed, inner_steps=2, inner_lr=0.1),
        "normed trajectory": partial(mamlpp.trajectory, normed, inner_steps=2)}  # fmt: skip
    return {"model": model, "params": params, "tasks": tasks, "task": task, "support": task.support, "batch": task.support,
        "adapt": adapt, "x": task.support.x, "task_loss": partial(meta.query_loss, model, adapt),
        "meta_optimizer": torch.optim.SGD(params.values(), lr=0.1),
        "vector": vector, "ridge": regression, "generator": generator, "clients": tasks.support,
        "controls": scaffold.initial_controls(params, 2), "items": torch.rand(5, 4, 1, 2, 2), **beside}  # fmt: skip


CONTEXT = cavia.Context(models.mlp([6, 4, 3]), 2)
LEO = leo.initial_params(models.Network(nn.Flatten(), nn.Linear(4, 3)), latent=2)
LSTM = learned_optimiser.initial_params(models.Network(nn.Flatten(), nn.Linear(4, 3)), hidden=2)
INNER = {"inner_lr": RATE, "inner_steps": NOT_WHOLE[1:], "params": PARAMS, "support": BATCH, "model": MODULE}
# a head in closed form has its features' precision
SOLVED = {name: bad for name, bad in BATCH.items() if name != "x double"}
CHUNK = NOT_WHOLE[:4] + NOT_WHOLE[5:]
LEARNED = {k: PARAMS[k] for k in ("None", "list", "empty", "numpy")} | {
    "params of the model": lambda p: part(p, "model.")
}
CLIENTS = {"None": lambda c: None, "unstacked": lambda c: Batch(c.x[0], c.y[0]), "no clients": lambda c: [],
    "three": lambda c: one_by_one(c) * 2, "empty client": lambda c: [Batch(c.x[0][:0], c.y[0][:0])] * 2,
    **changes("x", {k: TENSORS[k] for k in ("numpy", "None", "empty", "short")}), **changes("y", {"-1": LABELS["-1"],
    "n_way": LABELS["n_way"]})}  # fmt: skip
WEIGHTS = {"None": lambda w: None, "list": lambda w: w.tolist(), "three": lambda w: torch.ones(3), "negative": lambda w: -w,
    "zeros": lambda w: 0 * w, "nan": lambda w: w * NAN, "column": lambda w: w[:, None]}  # fmt: skip
LEARNING = {"params": LEARNED, "inner_steps": NOT_WHOLE[1:], "support": BATCH, "model": MODULE}
# function, its good arguments, the bad values of each argument (a list, or named changes of the good one)
CALLS = [
    (maml.adapt, "model params support", {"inner_lr": 0.1, "inner_steps": 1}, {**INNER, "only": ["neck", 3, None]}),
    (reptile.adapt, "model params support", {"inner_lr": 0.1, "inner_steps": 1}, {"inner_lr": RATE,
        "inner_steps": NOT_WHOLE[1:], "inner_batches": [*NOT_WHOLE, 4]}),
    (imaml.adapt, "model params support", {"inner_lr": 0.1, "inner_steps": 1, "strength": 1.0}, {"inner_lr": RATE,
        "inner_steps": NOT_WHOLE[1:], "strength": [0, *RATE]}),
    (imaml.task_loss, "model adapt params task", {"strength": 1.0, "cg_steps": 2}, {"strength": [0, *RATE],
        "cg_steps": NOT_WHOLE, "adapt": FUNCTION}),
    (reptile.task_loss, "model adapt params task", {}, {"adapt": FUNCTION, "task": ["tasks"]}),
    (fedavg.server_round, "adapt params", {"clients": "clients", "weights": torch.tensor([2.0, 1.0])}, {"adapt": FUNCTION,
        "params": PARAMS, "clients": CLIENTS, "weights": WEIGHTS, "server_lr": [NAN, INF, "1", None]}),
    (scaffold.server_round, "model params", {"controls": "controls", "clients": "clients", "inner_lr": 0.1, "inner_steps": 2,
        "weights": torch.tensor([2.0, 1.0])}, {"model": MODULE, "params": PARAMS, "clients": CLIENTS, "weights": WEIGHTS,
        "inner_lr": [0, *RATE], "inner_steps": NOT_WHOLE, "server_lr": [NAN, INF, "1", None], "loss": FUNCTION,
        "controls": {"one client": lambda c: {k: t[:1] for k, t in c.items()}, "None": lambda c: None,
        "empty": lambda c: {}, "list": lambda c: list(c.values())}}),
    (scaffold.initial_controls, "params", {"n_clients": 2}, {"n_clients": NOT_WHOLE, "params": {k: PARAMS[k] for k in ("None",
        "list", "empty", "numpy")}}),
    (protonet.adapt, "model params support", {}, {"model": MODULE, "support": SOLVED,
        "params": {k: PARAMS[k] for k in ("None", "list", "empty", "numpy", "unknown name")}}),
    (ridge.adapt, "model support", {"params": "ridge"}, {"model": MODULE, "support": SOLVED,
        "params": {k: PARAMS[k] for k in ("None", "list", "empty", "numpy")}}),
    (ridge.initial_params, "model", {}, {"model": MODULE, "strength": [0, *RATE], "scale": [NAN, INF, "2", None]}),
    (meta_sgd.initial_params, "model", {"inner_lr": 0.1}, {"inner_lr": RATE, "model": MODULE}),
    (meta_sgd.adapt, "model support", {"params": "rates"}, {**LEARNING, "only": ["neck", 3, None],
        "params": {**LEARNED, "no rate.": lambda p: {k: t for k, t in p.items() if k != "rate.head.weight"}}}),
    (meta_curvature.initial_params, "model", {}, {"model": MODULE}),
    (meta_curvature.adapt, "model support", {"params": "matrices", "inner_lr": 0.1, "inner_steps": 1}, {**LEARNING,
        "inner_lr": RATE}),
    (mamlpp.initial_params, "model", {"inner_steps": 2, "inner_lr": 0.1}, {"model": MODULE, "inner_steps": NOT_WHOLE,
        "inner_lr": [v for v in RATE if v is not None]}),
    (mamlpp.adapt, "model support", {"params": "two steps", "inner_steps": 1}, {**LEARNING, "inner_steps": [3,
        *NOT_WHOLE[1:]], "inner_lr": [v for v in (0.1, *RATE) if v is not None], "only": ["neck", 3, None],
        "params": {**LEARNED, "no rates": lambda p: {k: t for k, t in p.items() if k[:5] != "rate."}}}),
    (mamlpp.trajectory, "model support", {"params": "two steps", "inner_steps": 1}, {**LEARNING, "inner_steps": [3]}),
    (mamlpp.task_loss, "model trajectory task", {"params": "two steps", "step_weights": [0.5, 0.5]}, {"trajectory": FUNCTION,
        "step_weights": [[], [1.0], [0.2] * 3, [0, 0], None, 1.0, ["1", 0], [NAN, 1], [INF, 1]]}),
    (mamlpp.annealed_weights, "", {"meta_step": 0, "inner_steps": 2, "annealing_steps": 3}, {"meta_step": NOT_WHOLE[1:],
        "inner_steps": NOT_WHOLE, "annealing_steps": NOT_WHOLE}),
    (mamlpp.running_statistics, "tasks", {"model": "normed", "params": "norms", "trajectory": "normed trajectory"}, {
        "trajectory": {**FUNCTION, "0 steps": lambda f: partial(f, inner_steps=0)},
        "tasks": {k: STACK[k] for k in ("None", "support alone", "unstacked", "no examples", "other number")},
        "model": {**MODULE, "model without": lambda m: m.head}}),
    (mamlpp.with_running_statistics, "", {"model": "normed"}, {"model": MODULE}),
    (cavia.adapt, "support", {"model": CONTEXT, "params": models.initial_params(CONTEXT), "inner_lr": 0.1, "inner_steps": 1},
        {**INNER, "model": {**MODULE, "no context": lambda m: m.network}, "loss": FUNCTION,
        "params": {k: v for k, v in PARAMS.items() if k != "double"}}),
    (leo.adapt, "model support", {"params": LEO, "inner_lr": 0.1, "inner_steps": 1}, {**INNER, "finetune_lr": RATE,
        "params": {**{k: v for k, v in PARAMS.items() if k != "unknown name"}, "decoder missing": lambda p: {k: t for k, t in
        p.items() if k != "decoder.weight"}}, "finetune_steps": NOT_WHOLE[1:], "generator": [0, torch.Generator],
        "model": {**MODULE, "no head": lambda m: m.head}, "loss": FUNCTION}),
    (leo.task_loss, "model task", {"params": LEO, "inner_lr": 0.1, "inner_steps": 1}, {"task": TASK, "inner_lr": RATE,
        "inner_steps": NOT_WHOLE[1:],
        **{f"{name}_weight": [NAN, INF, "0.1", None] for name in ("kl", "encoder", "orthogonality")}}),
    (leo.initial_params, "model", {}, {"latent": NOT_WHOLE, "model": {**MODULE, "no head": lambda m: m.head}}),
    (learned_optimiser.adapt, "model support", {"params": LSTM, "inner_lr": 0.1, "inner_steps": 1}, {**INNER, "only": ["neck",
        3, None], "params": {**{k: v for k, v in PARAMS.items() if k != "unknown name"}, "model.neck": lambda p: {**p,
        "model.neck": torch.ones(1)}, "lstm. missing": lambda p: {k: t for k, t in p.items() if k[:5] == "model"}}}),
    (learned_optimiser.path, "model support", {"params": LSTM, "inner_lr": 0.1, "inner_steps": 1}, {"inner_lr": RATE,
        "inner_steps": NOT_WHOLE[1:], "loss": FUNCTION}),
    (learned_optimiser.initial_params, "model", {}, {"hidden": NOT_WHOLE, "layers": NOT_WHOLE, "model": MODULE}),
    (meta.predict, "model params x", {}, {"model": MODULE, "params": {k: v for k, v in PARAMS.items() if k != "shape"},
        "x": {**TENSOR, "double": lambda x: x.double(), "wide": lambda x: x.repeat(1, 1, 2, 2)}}),
    (meta.batch_loss, "model params batch", {}, {"batch": BATCH, "params": PARAMS}),
    (meta.accuracy, "model params batch", {}, {"batch": BATCH, "params": PARAMS}),
    (meta.query_loss, "model adapt params task", {}, {"task": TASK, "adapt": FUNCTION}),
    (meta.meta_gradient, "task_loss params tasks", {}, {"task_loss": LOSS, "params": PARAMS, "tasks": STACK,
        "chunk_size": CHUNK}),
    (meta.meta_gradient, "task_loss params tasks", {"chunk_size": 1}, {"task_loss": LOSS, "params": PARAMS, "tasks": STACK}),
    (meta.meta_step, "task_loss params tasks meta_optimizer", {}, {
        "meta_optimizer": [None, "Adam", torch.optim.SGD([torch.ones(1)])], "chunk_size": CHUNK}),
    (meta.evaluate, "model adapt params tasks", {}, {"metric": FUNCTION, "tasks": STACK, "chunk_size": CHUNK}),
    (meta.evaluate, "model adapt params tasks", {"metric": meta.accuracy, "chunk_size": 1}, {"tasks": STACK}),
    (meta.inductive_accuracy, "model adapt params tasks", {}, {"tasks": STACK, "chunk_size": CHUNK}),
    (meta.nearest_neighbour, "tasks", {}, {"tasks": {k: v for k, v in STACK.items() if k[-3:] not in ("100", " -1", "way",
        "t32")}}),
    (intervals.mean_ci95, "", {"values": torch.rand(3)}, {"values": [None, "x", torch.ones(1), torch.ones(3, 2),
        torch.tensor([1.0, NAN]), [], 3.0]}),
    (models.initial_params, "model", {}, {"model": MODULE}),
    (models.in_bfloat16, "model", {}, {"model": MODULE}),
    (models.mlp, "", {"sizes": [2, 3]}, {"sizes": [[], [3], None, 3, "23", *([2, n] for n in NOT_WHOLE)]}),
    (models.conv4, "", {"n_way": 5}, {"n_way": NOT_WHOLE, "channels": NOT_WHOLE, "in_channels": NOT_WHOLE,
        "image_size": [*NOT_WHOLE, 15], "downsample": ["mean", None, 2]}),
    (gradients.dot, "", {"a": "vector", "b": "vector"}, {"a": VECTOR, "b": VECTOR}),
    (gradients.axpy, "", {"scale": 1.0, "x": "vector", "y": "vector"}, {"scale": [NAN, INF, "2", None], "x": VECTOR,
        "y": VECTOR}),
    (gradients.hvp, "", {"loss": lambda p: (p["a"] ** 3).sum() + p["b"].sum(), "params": "vector", "vector": "vector"},
        {"vector": VECTOR, "loss": [*FUNCTION.values()]}),
    (gradients.conjugate_gradient, "", {"matvec": lambda v: v, "b": "vector", "steps": 2}, {"steps": NOT_WHOLE,
        "matvec": FUNCTION, "b": {k: VECTOR[k] for k in ("None", "list", "empty")}}),
    (gradients.with_gradient, "", {"value": torch.tensor(1.0), "params": "vector", "gradients": "vector"},
        {"gradients": VECTOR, "value": [None, 1.0]}),
    (sampling.sinusoid, "x", {"amplitude": torch.ones(1), "phase": torch.ones(1)}, dict.fromkeys(("x", "amplitude", "phase"),
        TENSOR)),
    (sampling.draw_sinusoids, "generator", {"n": 3}, {"n": NOT_WHOLE, "generator": GENERATOR, "dtype": ["float32", None,
        torch.int64]}),
    (sampling.sinusoid_tasks, "generator", {"meta_batch_size": 2, "k_shot": 1, "k_query": 1}, {
        **dict.fromkeys(("meta_batch_size", "k_shot", "k_query"), NOT_WHOLE), "generator": GENERATOR, "support_range": [None,
        3, (1.0,), (NAN, 1.0), (0.0, INF), ("a", "b")]}),
    (sampling.class_tasks, "items generator", {"meta_batch_size": 2, "n_way": 3, "k_shot": 1, "k_query": 1}, {
        "meta_batch_size": NOT_WHOLE, **{k: [*NOT_WHOLE, 6] for k in ("n_way", "k_shot", "k_query")}, "generator": GENERATOR,
        "items": {**TENSOR, "one item": lambda t: t[0, 0, 0, 0, 0], "meta": lambda t: t.to("meta")}}),
    (checks.claim, "", {"sentence": "it holds", "condition": True}, {"sentence": ["", " ", None, 3], "condition": [None,
        [False], "False", 1, torch.tensor(0.3), torch.tensor([True])]}),
    (checks.exercise, "", {"label": "ex-1", "condition": lambda: None}, {"condition": [True, None, "x"], "label": ["", None,
        3]}),
    (figures.band, "", {"ax": "axes", "x": range(3), "values": np.ones((4, 3)), "look": "maml", "label": "MAML"}, {
        "values": [None, np.ones(3), np.ones((1, 3)), np.ones((4, 2)), np.full((4, 3), NAN), np.array([["a"] * 3] * 4), "x"],
        "x": [None, "x", range(2), [NAN] * 3],
        "look": ["mmal", None, 3], "label": [None, 3], "ax": [None, "ax"]}),
    (figures.label_line, "", {"ax": "axes", "text": "MAML", "look": "maml", "x": 0.5, "y": 0.5}, {"look": ["mmal", None],
        "ax": [None], "x": [None, "x", NAN], "y": [NAN, None], "text": [None, 3]}),
    (figures.task_grid, "support", {"query": "support", "predictions": torch.arange(3).repeat(2)}, {
        "support": {k: v for k, v in BATCH.items() if k.split()[-1] in ("None", "alone", "empty", "short", "0-d", "one-hot")},
        "query": {"None": lambda b: None, "x short": BATCH["x short"], "another class": lambda b: Batch(b.x, b.y + 1),
        "nothing": lambda b: Batch(b.x[:0], b.y[:0])},
        "predictions": [torch.arange(2), "x", torch.arange(6), torch.full((6,), NAN)], "per_class": NOT_WHOLE,
        "names": [["A"], 3, []]}),
]  # fmt: skip


def cases():
    """Each malformed call: its row, the argument, what is wrong with it, and the change that makes it so."""
    for row, (_, _, _, bad) in enumerate(CALLS):
        for argument, values in bad.items():
            named = values if isinstance(values, dict) else {repr(v)[:40]: lambda _, v=v: v for v in values}
            yield from ((row, argument, label, how) for label, how in named.items())


def arguments(row: int) -> dict[str, object]:
    _, by_name, fixed, _ = CALLS[row]
    good = inputs() | ({"axes": plt.subplots()[1]} if "axes" in fixed.values() else {})
    chosen = {name: good.get(v, v) if isinstance(v, str) else v for name, v in fixed.items()}
    return {name: good[name] for name in by_name.split()} | chosen


def judged(row: int, argument: str, label: str, how) -> tuple[str, str]:
    """ "clear", "right", "obscure" or "wrong", and what came of it."""
    function, given = CALLS[row][0], arguments(row)
    given[argument] = how(given.get(argument))
    kept = [given[name] for name in ("params", "tasks", "generator") if name in given]
    before = state(kept)
    try:
        result = function(**given)
    except Exception as error:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        code, notes = frame.f_code.co_filename, "\n".join(getattr(error, "__notes__", []))
        own = "mamlkit" in code and "raise " in linecache.getline(code, line)
        text, words = f"{error} {notes}", (argument, *re.split("[ .]", label)[:2])
        named = any(re.search(rf"\b{re.escape(word)}\b", text) for word in words)
        same = all(map(torch.equal, before, state(kept)))
        clear = (own or "mamlkit" in notes) and named and len(text) >= 30 and same
        return ("clear" if clear else "obscure"), f"{type(error).__name__}: {text}"
    finally:
        plt.close("all")
    # Labels of another whole type mean the same.
    right = label.endswith("int32") and torch.equal(result, function(**arguments(row)))
    return ("right" if right else "wrong"), repr(result)[:300]


def state(value: object) -> list[torch.Tensor]:
    """Copies of the numbers in an argument."""
    leaves = [t.get_state() if isinstance(t, torch.Generator) else t for t in tree_leaves(value)]
    return [t.clone() for t in leaves if isinstance(t, torch.Tensor) and not t.is_meta]


def test_every_malformed_call_is_refused_in_words_and_changes_nothing() -> None:
    judgements = [(case, *judged(*case)) for case in cases()]

    bad = [f"{verdict}: {CALLS[row][0].__qualname__}, {argument} {label}: {text}"
           for (row, argument, label, _), verdict, text in judgements if verdict in ("obscure", "wrong")]  # fmt: skip
    assert not bad, "\n".join(bad)
    assert len(judgements) >= 433


BY_WORDS = Path(__file__).with_name("bad_calls.txt").read_text(encoding="utf-8").splitlines()


def calls_of_the_table():
    """Of each line of `bad_calls.txt`, or of each of its values: a name, the call, and the words of its error."""
    for line in BY_WORDS:
        if line and not line.startswith("#"):
            module, bad, call, words = line.split(" | ")
            for value in bad.split("; ") if "BAD" in call else [bad]:
                filled = call.replace("BAD", value), words.replace("BAD", re.escape(value))
                yield pytest.param(*filled, id=f"{module}-{value}")


def names_of_the_table(tmp_path: Path) -> dict[str, object]:
    """What the calls in `bad_calls.txt` use: a good call of `meta_train`, a good record, and what they are made of."""
    model = models.mlp([1, 4, 1])
    params, now = models.initial_params(model), datetime.now(UTC)
    task_loss = partial(meta.query_loss, model, partial(maml.adapt, model, inner_lr=0.01, inner_steps=1))

    def sample(generator, n=4):
        return sampling.sinusoid_tasks(n, k_shot=2, k_query=2, generator=generator)

    def train(**changes):
        settings = {"task_loss": task_loss, "params": params, "sample_tasks": sample, "meta_steps": 2}
        settings |= {"meta_optimizer": partial(torch.optim.Adam, lr=0.01), "progress": False}
        return training.meta_train(**{**settings, "generator": torch.Generator().manual_seed(0), **changes})

    rows, group = Batch(torch.ones(12, 1), torch.ones(12, 1)), torch.tensor([7] * 5 + [2] * 7)
    where = records.Provenance("0" * 40, True, "a.py", "ab" * 32, "1", "3", "2", None, "cpu", "float32",
                               "2026-01-31T12:00:00+00:00", 1.0)  # fmt: skip
    good = {"experiment": "omniglot", "config": {}, "metrics": {"loss": 0.5}, "provenance": where}
    collected = {"device": "cpu", "dtype": torch.float32, "started": now}
    return {
        **globals(), **vars(models), **vars(training), **vars(records), **vars(texts), **vars(image_sets), **vars(sampling),
        "good": SimpleNamespace(**inputs()), "tmp_path": tmp_path, "model": model, "params": params, "rows": rows, "group": group,
        "replace": replace, "sample": sample, "seeds": lambda n: training.stack_seeds([params] * n), "train": train,
        "NOW": now, "WHERE": where, "RECORD": records.Record(**good), "record": lambda **c: records.Record(**{**good, **c}),
        "collect": lambda **c: records.provenance(__file__, **{**collected, **c}),
    }  # fmt: skip


@pytest.mark.parametrize(("call", "words"), [*calls_of_the_table()])
def test_a_malformed_call_is_refused_in_these_words(call, words, tmp_path) -> None:
    with pytest.raises((ValueError, FileNotFoundError, FileExistsError), match=words):
        eval(call, names_of_the_table(tmp_path))
