"""MIRL's own routes: `/v1/mirl/score`, `/v1/mirl/describe`, `/v1/models` and `/ready`."""
