"""Questions, data sets, worlds and resampling, which evaluation and training share; imports neither of
them."""
