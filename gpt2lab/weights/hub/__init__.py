"""Downloading checkpoints from the Hugging Face Hub."""
