"""The Helm chart: its values, what it renders, and the manifests made from it."""
