-- When a run was, what it used, and what it belongs to. Sums are 0 where nothing is known; *_costed counts the traces of which
-- the cost is. The values of traces that are there already are folded from their events by whoever opens the log next.
ALTER TABLE traces ADD COLUMN total_costed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN total_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN total_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN total_cache_read INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN total_cache_write INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN total_reasoning INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN tree_costed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN tree_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN tree_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN tree_cache_read INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN tree_cache_write INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN tree_reasoning INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN started_at TEXT NOT NULL DEFAULT '';
ALTER TABLE traces ADD COLUMN ended_at TEXT;
ALTER TABLE traces ADD COLUMN active_at TEXT NOT NULL DEFAULT '';
ALTER TABLE traces ADD COLUMN session_id TEXT;
ALTER TABLE traces ADD COLUMN user_id TEXT;
ALTER TABLE traces ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'; -- JSON
ALTER TABLE traces ADD COLUMN models TEXT NOT NULL DEFAULT '[]'; -- JSON
UPDATE traces SET started_at = created_at, active_at = updated_at, ended_at = completed_at,
    total_costed = total_cost != 0, tree_costed = tree_cost != 0;

-- Lists go by when a run began, or by when something happened in it last.
CREATE INDEX traces_by_start ON traces (started_at, trace_key);
CREATE INDEX traces_by_activity ON traces (active_at, trace_key);
CREATE INDEX traces_by_session ON traces (session_id, started_at) WHERE session_id IS NOT NULL;
CREATE INDEX traces_by_user ON traces (user_id, started_at) WHERE user_id IS NOT NULL;
CREATE INDEX traces_with_error ON traces (started_at) WHERE error IS NOT NULL;

-- By which words traces are found: kind is 'tag' or 'model'.
CREATE TABLE trace_words (
    kind TEXT NOT NULL,
    word TEXT NOT NULL,
    trace_key INTEGER NOT NULL,
    PRIMARY KEY (kind, word, trace_key)
) WITHOUT ROWID;
CREATE INDEX trace_words_by_trace ON trace_words (trace_key);

CREATE TRIGGER traces_text_update AFTER UPDATE OF task ON traces WHEN old.task IS NOT new.task BEGIN
    INSERT INTO traces_text (traces_text, rowid, trace_id, task, agent_type)
    VALUES ('delete', old.trace_key, old.trace_id, old.task, old.agent_type);
    INSERT INTO traces_text (rowid, trace_id, task, agent_type)
    VALUES (new.trace_key, new.trace_id, new.task, new.agent_type);
END;

INSERT INTO meta SELECT 'unfolded_from', '0' WHERE EXISTS (SELECT 1 FROM traces);
