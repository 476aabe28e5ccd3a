"""Where drawings and texts come from: glyphs of the fonts inside matplotlib, Omniglot, docstrings, CLINC150."""
