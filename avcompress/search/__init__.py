"""The cheapest precision of every layer that keeps a contract: what each choice loses, what it takes, which to take.

Layers that must change precision together are a group (`groups`). `sensitivity` says what a group loses in a precision,
`latency` what it takes there and what it takes to pass values on, `solve` chooses. What is chosen is an `Assignment`;
`stages` writes it as stages of an ordinary recipe.
"""
