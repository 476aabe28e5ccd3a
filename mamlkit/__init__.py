"""mamlkit: the small library that grows out of the book's chapters.

What varies lives in functions, what is learned lives in dictionaries of tensors, and imports run one way:

    tasks  <-  calls  <-  gradients, models, meta  <-  algorithms/  <-  training  <-  your problem, and the book

`sampling` draws tasks from tensors and tables, `data/` reads and draws the book's drawings, `intervals` says how sure a mean is.
`page/` has what the book's pages need, figures, checks and records, and knows nothing of algorithms.
Inside a task, names begin with `inner_`; across tasks, with `meta_`.
"""

__version__ = "0.1.0"
