"""Which servers there are, and which one a request goes to: may import `engines.remote.server`."""
