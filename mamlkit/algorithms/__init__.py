"""One module per paper; each gives an `adapt(model, params, support, ...) -> params`."""
