"""One checkpoint format in each file: recognise, shape, load and, where it can be written, save."""
