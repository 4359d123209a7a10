"""API keys, authentication and quotas; imports settings only."""
