"""The tests. The folders mirror the package; tests of several rooms together lie here."""
