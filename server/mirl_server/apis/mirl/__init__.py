"""MIRL's own routes (`/v1/mirl/score`, `/v1/mirl/describe`) and the server's small ones (`/v1/models`,
`/ready`)."""
