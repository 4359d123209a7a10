"""The APIs by which a request may come: what is theirs of it, in and out. The way through the gate is one."""
