"""Importers: each format by small files written here, the limits, and every real run of ../shared/data."""
