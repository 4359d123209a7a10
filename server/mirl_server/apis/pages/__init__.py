"""Pages for people: `/` and `/docs`, and the names in the API's document. May import `http` and below."""
