"""Admission: where requests may come from, tokens and what they allow, the scope each call needs, guessing bounded."""
