"""Innermost loops as LLVM vectors, because no compiler vectorises them in this form by itself.

builder: short names for instructions, and functions that kernels share. products: multiply and add,
the one file that knows instruction sets. tile: rows times panels. vector_math, rows: activations,
softmax and int8 blocks. memory: pointers, atomic words, prefetch, spinning.
"""
