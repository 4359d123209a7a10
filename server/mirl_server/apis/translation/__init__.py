"""Read other APIs' requests into chat's fields, and rename errors back; imports `handling`."""
