"""Which recipe keeps a contract: choices in a recipe, trials of what they give, and the best of them.

`space` reads a recipe with choices; `sampler` suggests values for them; each suggestion is an ordinary recipe, which
`process` runs; what came of it is a `record`; `halving` decides what is tried next, `front` what is best.
"""
