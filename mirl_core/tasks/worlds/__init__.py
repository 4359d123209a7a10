"""The worlds of the bundled models: column charts, coloured handwritten digits and easy-VQA, frozen by hash;
imports numpy, Pillow and the data sets' libraries."""
