"""The compiled CPU engine, from the layout of its weights to the threads that run its kernels."""
