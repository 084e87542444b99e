"""Reading and writing files: JSON, bytes, torch files. Nothing here knows a model."""
