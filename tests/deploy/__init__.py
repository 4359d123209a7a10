"""Deployment: what deploy/ holds is valid, and was built and run by the tools that it is for."""
