-- A session that waits for its user is idle, and its lease counts as well.
DROP INDEX traces_by_lease;
CREATE INDEX traces_by_lease ON traces (lease_expires_at)
    WHERE lease_expires_at IS NOT NULL AND status IN ('running', 'waiting', 'idle');

-- What a trace has to do with others.
ALTER TABLE traces ADD COLUMN links TEXT NOT NULL DEFAULT '[]'; -- JSON

-- A trace whose parent became known later is moved: shown and counted below its new parent. Who may only work below one trace does
-- not get to see more by that. For them it goes on being below cover_key, the trace_key of what was its parent when it came. Not an
-- id, as a deleted trace's id may be given to another trace.
ALTER TABLE traces ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE traces ADD COLUMN cover_key INTEGER;
CREATE INDEX traces_by_cover ON traces (cover_key) WHERE moved;
