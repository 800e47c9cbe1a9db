"""Shipped recipes, one YAML file each; the header of a file names its source."""
