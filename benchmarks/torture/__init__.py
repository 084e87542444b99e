"""Damaged and hostile input of every kind, each in a process of its own."""
