"""crs_sc."""
