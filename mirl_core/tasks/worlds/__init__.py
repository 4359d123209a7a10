"""The worlds that the bundled model lives in: coloured handwritten digits and easy-VQA, frozen by hash."""
