"""`mirl-eval plan`: what a way of answering takes on a given engine, on paper; imports the algorithm's cost
model, the names of methods and the report's tables."""
