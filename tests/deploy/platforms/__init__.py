"""Files for other people's platforms, by the schemas of those projects."""
