"""Plain transformers, the numerical reference: may import torch, transformers and `engines.common`."""
