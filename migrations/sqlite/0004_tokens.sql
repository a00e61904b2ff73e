-- Who may come in. Rows are never removed: that one was ever created is what closes the door for those without one.
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY,
    hash BLOB NOT NULL, -- SHA-256 of the whole token, which has too many random bits for a slow hash to add anything
    scopes TEXT NOT NULL, -- with commas: read, write, control, admin
    trace_id TEXT, -- only this trace and its sub-traces, whether it is there or still to come; NULL: every trace
    label TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at REAL, -- Unix time in seconds
    revoked_at TEXT
) WITHOUT ROWID;
