"""One pass over a model that writes any number of files, and goes on where it was stopped."""
