"""Text to token ids and back: the tokenizer, byte-level BPE written out, vocabulary files."""
