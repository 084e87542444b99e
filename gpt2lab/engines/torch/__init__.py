"""GPT-2 in PyTorch as an inference engine."""
