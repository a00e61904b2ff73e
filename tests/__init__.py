"""The tests. The folders mirror the package; what spans it lies here."""
