-- Big and binary content, stored once by its SHA-256 however many traces have it, in pieces, so that no write and no read of it
-- is long. A content that is not complete is being received, or is on its way out: it is removed when nothing has come for a day.
CREATE TABLE blobs (
    blob_key INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256 TEXT NOT NULL, -- in hexadecimal
    bytes INTEGER NOT NULL, -- of the pieces that are there
    complete INTEGER NOT NULL DEFAULT 0,
    added_at REAL NOT NULL -- when the last piece came (Unix time in seconds); 0: no trace has it any more
);
CREATE UNIQUE INDEX blobs_by_sha256 ON blobs (sha256) WHERE complete;
CREATE INDEX blobs_incomplete ON blobs (added_at) WHERE NOT complete;

CREATE TABLE blob_pieces (
    blob_key INTEGER NOT NULL,
    piece INTEGER NOT NULL, -- from 0; each has 1 MiB, but for the last
    body BLOB NOT NULL,
    PRIMARY KEY (blob_key, piece)
);

-- Which trace has which content.
CREATE TABLE trace_blobs (
    trace_key INTEGER NOT NULL,
    blob_key INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    event_id INTEGER NOT NULL, -- the last event that names it; 0: none yet; 2^62: it is part of the trace's state and stays
    added_at REAL NOT NULL,
    PRIMARY KEY (trace_key, blob_key)
) WITHOUT ROWID;
CREATE INDEX trace_blobs_by_blob ON trace_blobs (blob_key);
CREATE INDEX trace_blobs_unnamed ON trace_blobs (added_at) WHERE event_id = 0;
