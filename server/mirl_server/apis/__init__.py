"""The HTTP APIs: the route, the request reading and the response writing of each; imports `handling`."""
