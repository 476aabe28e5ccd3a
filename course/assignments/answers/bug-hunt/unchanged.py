"""Hands the sick programs back."""

# %% adapt
mended_adapt = sick_adapt

# %% rate
mended_gradient = sick_gradient

# %% wave
mended_wave = sick_wave

# %% report
mended_report = sick_report

# %% draw
mended_draw = sick_draw
