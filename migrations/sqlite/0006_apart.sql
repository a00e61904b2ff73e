-- A trace that was restored before its parent is apart: below nothing, whatever trace comes to have the parent's id. Otherwise who
-- may only work below one trace could make up that parent there, and so see what is not theirs. Somebody who may see every trace
-- takes it in by putting the parent there.
ALTER TABLE traces ADD COLUMN apart INTEGER NOT NULL DEFAULT 0;
UPDATE traces SET apart = 1 WHERE parent_trace_id IS NOT NULL AND parent_trace_id NOT IN (SELECT trace_id FROM traces);
