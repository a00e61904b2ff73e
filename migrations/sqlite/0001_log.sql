-- The log: traces, their events, and what is derived from them so that nothing has to be scanned.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID; -- epoch

CREATE TABLE change_counter (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    change_seq INTEGER NOT NULL
);
INSERT INTO change_counter VALUES (1, 0);

-- trace_key stands for the trace in the other tables; AUTOINCREMENT, so that a deleted trace's key never comes back.
CREATE TABLE traces (
    trace_key INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL, -- what was asked for at creation, as JSON: the same again is no conflict
    task TEXT NOT NULL,
    agent_type TEXT NOT NULL,
    parent_trace_id TEXT,
    parent_goal_id TEXT,
    root_trace_id TEXT NOT NULL,
    metadata TEXT NOT NULL, -- JSON
    status TEXT NOT NULL,
    current_goal_id TEXT,
    first_event_id INTEGER NOT NULL, -- moves up when the past is trimmed
    last_event_id INTEGER NOT NULL,
    log_bytes INTEGER NOT NULL, -- of all its events, trimmed ones included: end_offset of the last
    total_messages INTEGER NOT NULL DEFAULT 0,
    total_tokens INTEGER NOT NULL DEFAULT 0,
    total_cost REAL NOT NULL DEFAULT 0,
    tree_messages INTEGER NOT NULL DEFAULT 0, -- with sub-traces
    tree_tokens INTEGER NOT NULL DEFAULT 0,
    tree_cost REAL NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    completed_at TEXT,
    summary TEXT,
    error TEXT, -- JSON
    lease_s REAL,
    lease_expires_at REAL, -- Unix time in seconds
    change_seq INTEGER NOT NULL -- of the last transaction that changed this row
);
CREATE INDEX traces_by_change ON traces (change_seq);
CREATE INDEX traces_by_status ON traces (status, trace_key);
CREATE INDEX traces_by_agent_type ON traces (agent_type, trace_key);
CREATE INDEX traces_by_parent ON traces (parent_trace_id, trace_key) WHERE parent_trace_id IS NOT NULL;
CREATE INDEX traces_by_root ON traces (root_trace_id, trace_key);
CREATE INDEX traces_by_lease ON traces (lease_expires_at)
    WHERE lease_expires_at IS NOT NULL AND status IN ('running', 'waiting');

-- Text search by substring (three characters at least: trigrams), over columns that never change.
CREATE VIRTUAL TABLE traces_text USING fts5 (
    trace_id, task, agent_type, content = 'traces', content_rowid = 'trace_key', tokenize = 'trigram'
);
CREATE TRIGGER traces_text_insert AFTER INSERT ON traces BEGIN
    INSERT INTO traces_text (rowid, trace_id, task, agent_type)
    VALUES (new.trace_key, new.trace_id, new.task, new.agent_type);
END;
CREATE TRIGGER traces_text_delete AFTER DELETE ON traces BEGIN
    INSERT INTO traces_text (traces_text, rowid, trace_id, task, agent_type)
    VALUES ('delete', old.trace_key, old.trace_id, old.task, old.agent_type);
END;

-- Clustered by (trace, event_id): a page of a trace's log is one range of the tree. end_offset is the size of the log up to
-- and with this event, so that a page can be cut by bytes without reading the bodies behind it.
CREATE TABLE events (
    trace_key INTEGER NOT NULL,
    event_id INTEGER NOT NULL,
    end_offset INTEGER NOT NULL,
    body BLOB NOT NULL, -- canonical bytes
    PRIMARY KEY (trace_key, event_id)
) WITHOUT ROWID;

-- Messages as they now stand. body is NULL while a message is as it was added: then it is in its event.
CREATE TABLE messages (
    trace_key INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    goal_id TEXT,
    event_id INTEGER NOT NULL, -- of its message_added
    body BLOB,
    PRIMARY KEY (trace_key, sequence)
) WITHOUT ROWID;
CREATE UNIQUE INDEX messages_by_id ON messages (trace_key, message_id);
CREATE INDEX messages_by_goal ON messages (trace_key, goal_id, sequence) WHERE goal_id IS NOT NULL;

CREATE TABLE producers (
    trace_key INTEGER NOT NULL,
    producer TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (trace_key, producer)
) WITHOUT ROWID;

-- The state after some events, every 500, so that opening a trace costs a page and not a fold of everything.
CREATE TABLE snapshots (
    trace_key INTEGER NOT NULL,
    event_id INTEGER NOT NULL,
    body BLOB NOT NULL, -- JSON
    PRIMARY KEY (trace_key, event_id)
) WITHOUT ROWID;

-- Ids are never reused: a trace created again under a deleted one's id goes on after its last event.
CREATE TABLE deleted_traces (
    trace_id TEXT PRIMARY KEY,
    last_event_id INTEGER NOT NULL,
    change_seq INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX deleted_traces_by_change ON deleted_traces (change_seq);
