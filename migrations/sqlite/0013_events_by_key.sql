-- Events by one whole number, trace_key * 2^32 + event_id: a page of a trace's log is one range of the tree, as before. In a table
-- with a rowid SQLite keeps up to 4,061 bytes of a row in the tree, without one only 1,002: of an event of 1 to 4 KB the rest took
-- a page of its own. end_offset is the size of the log up to and with this event.
CREATE TABLE events_by_key (
    event_key INTEGER PRIMARY KEY,
    end_offset INTEGER NOT NULL,
    body BLOB NOT NULL -- canonical bytes
);
INSERT INTO events_by_key SELECT (trace_key << 32) + event_id, end_offset, body FROM events ORDER BY trace_key, event_id;
DROP TABLE events;
ALTER TABLE events_by_key RENAME TO events;
