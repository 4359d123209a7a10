"""The worlds of the bundled model: coloured handwritten digits and easy-VQA, frozen by hash; imports numpy,
Pillow and the data sets' libraries."""
