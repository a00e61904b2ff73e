-- Questions, kept in the append's transaction, so that the inbox, expiry and a recorder that comes back need no scan.
-- body is the question while it is open, answer is {"value", "by"} once it is answered; what else there is to know is in the log.
CREATE TABLE inputs (
    trace_key INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    event_id INTEGER NOT NULL, -- of its input_requested
    asked_at TEXT NOT NULL,
    expires_at REAL, -- Unix time in seconds
    state TEXT NOT NULL, -- open, answered, expired or closed (by the end of its trace)
    body BLOB, -- JSON
    answer BLOB, -- JSON
    PRIMARY KEY (trace_key, request_id)
) WITHOUT ROWID;
CREATE INDEX inputs_open ON inputs (asked_at, trace_key, event_id) WHERE state = 'open';
CREATE INDEX inputs_by_expiry ON inputs (expires_at) WHERE state = 'open' AND expires_at IS NOT NULL;
CREATE INDEX inputs_by_event ON inputs (trace_key, event_id);

-- Questions that are open already are in folded states, out of SQL's reach: whoever opens the log next puts them in.
INSERT INTO meta SELECT 'inputs_unfilled', '1' WHERE EXISTS (SELECT 1 FROM traces WHERE status IN ('waiting', 'lost'));
