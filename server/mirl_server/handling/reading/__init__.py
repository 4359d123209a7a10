"""The fields of a gated request, from a JSON body to values; imports `http` and `media`."""
