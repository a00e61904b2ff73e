-- Lists go by when a run began. A run keeps its place when its first event comes long after it was made: began never grows.
-- Of each filter an index has the traces in this order (and by their key, which ends every index).
ALTER TABLE traces ADD COLUMN began TEXT GENERATED ALWAYS AS (min(started_at, created_at)) VIRTUAL;
DROP INDEX traces_by_start;
DROP INDEX traces_by_session;
DROP INDEX traces_by_user;
DROP INDEX traces_with_error;
DROP INDEX traces_by_status;
DROP INDEX traces_by_agent_type;
DROP INDEX traces_by_root;
CREATE INDEX traces_by_start ON traces (began);
CREATE INDEX traces_by_session ON traces (session_id, began) WHERE session_id IS NOT NULL;
CREATE INDEX traces_by_user ON traces (user_id, began) WHERE user_id IS NOT NULL;
CREATE INDEX traces_with_error ON traces (began) WHERE error IS NOT NULL;
CREATE INDEX traces_by_status ON traces (status, began);
CREATE INDEX traces_by_agent_type ON traces (agent_type, began);
CREATE INDEX traces_by_root ON traces (root_trace_id, began);
CREATE INDEX traces_by_parent_start ON traces (parent_trace_id, began) WHERE parent_trace_id IS NOT NULL;

ALTER TABLE trace_words RENAME TO old_words;
CREATE TABLE trace_words (
    kind TEXT NOT NULL, -- 'tag' or 'model'
    word TEXT NOT NULL,
    began TEXT NOT NULL,
    trace_key INTEGER NOT NULL,
    PRIMARY KEY (kind, word, began, trace_key)
) WITHOUT ROWID;
INSERT INTO trace_words SELECT kind, word, began, trace_key FROM old_words JOIN traces USING (trace_key);
DROP TABLE old_words;
CREATE INDEX trace_words_by_trace ON trace_words (trace_key);
