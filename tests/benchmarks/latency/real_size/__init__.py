"""A model of real size with random weights, and the forced lengths of its samples."""
