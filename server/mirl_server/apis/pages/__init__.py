"""Pages for people: `/` (the playground, or a start page), `/docs`, and the names in the API's document.

May import `http` and below.
"""
