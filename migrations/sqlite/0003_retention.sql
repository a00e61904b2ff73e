-- Retention. What is trimmed or deleted is gone at once for whoever reads: first_event_id moves up, or the trace's row goes.
-- Its other rows follow in small transactions, so that no append waits for hundreds of thousands of them.
CREATE TABLE leftovers (
    trace_key INTEGER PRIMARY KEY,
    upto_event_id INTEGER -- the last event that was trimmed; NULL: the trace was deleted, nothing of it stays
);

-- Finding what is too old or too long without looking at every trace. 499: a log is trimmed by 500 events at a time.
CREATE INDEX traces_by_creation ON traces (created_at);
CREATE INDEX traces_long ON traces (trace_key) WHERE last_event_id - first_event_id >= 499;

-- Until when the process that looks for what is to go has that to itself (Unix time in seconds).
INSERT INTO meta VALUES ('retention_until', '0');
