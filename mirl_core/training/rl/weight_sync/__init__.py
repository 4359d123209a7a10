"""Transfer of new weights to the engine that samples: in process, through a folder, or by NCCL; imports
`engines` and, for types, `model`."""
