-- The last event of each name that was trimmed from a trace, so that a filtered watch that comes back knows whether it has missed
-- any. The name '' stands for any: what was trimmed before this was noted, and names beyond a few hundred.
CREATE TABLE trimmed (
    trace_key INTEGER NOT NULL,
    name TEXT NOT NULL,
    event_id INTEGER NOT NULL,
    PRIMARY KEY (trace_key, name)
) WITHOUT ROWID;
