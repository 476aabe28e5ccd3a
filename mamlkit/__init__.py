"""mamlkit: the small library that grows out of the book's chapters.

What varies lives in functions, what is learned lives in dictionaries of tensors, and imports run one way:

    tasks  <-  gradients, models, sampling, datasets, meta  <-  algorithms  <-  training  <-  the book

`records`, `checks`, `figures`, `widgets` and `notebook` serve the chapters and know nothing of algorithms.
Inside a task, names begin with `inner_`; across tasks, with `meta_`.
"""

__version__ = "0.1.0"
