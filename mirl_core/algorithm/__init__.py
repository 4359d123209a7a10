"""The algorithm as pure functions of numbers, strings and the Engine protocol; imports types, config,
errors and `engines.base` only."""
