"""Send new weights to whatever samples: in process, through a folder, or by NCCL; imports `engines`."""
