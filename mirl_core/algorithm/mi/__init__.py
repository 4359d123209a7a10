"""Mutual information (MI) between descriptions and their image; imports what the algorithm may import."""
