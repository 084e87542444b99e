"""The contenders, a file for each: the same work as their users do it."""
