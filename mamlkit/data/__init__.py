"""Where drawings come from: glyphs of the fonts that matplotlib brings along, and Omniglot."""
