"""The contenders, a file for each: how its model is made from ours, and how it is best run."""
