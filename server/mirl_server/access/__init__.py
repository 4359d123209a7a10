"""API keys, authentication and quotas. May import `settings`, `http` and `observability.logs`."""
