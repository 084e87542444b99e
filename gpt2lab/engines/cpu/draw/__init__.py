"""Drawing the next tokens of many rows at once in compiled code.

It gives the tokens and log-probabilities of `generation.sampler`, the reference in NumPy. Sums are
added up in another order there, so a row is drawn here only where no rounding of either can change
the result; for the few others the answer is -1, and the caller asks NumPy.
"""
