-- What an agent is may become known later (trace_updated), so it is found by the new words as well.
DROP TRIGGER traces_text_update;
CREATE TRIGGER traces_text_update AFTER UPDATE OF task, agent_type ON traces
WHEN old.task IS NOT new.task OR old.agent_type IS NOT new.agent_type BEGIN
    INSERT INTO traces_text (traces_text, rowid, trace_id, task, agent_type)
    VALUES ('delete', old.trace_key, old.trace_id, old.task, old.agent_type);
    INSERT INTO traces_text (rowid, trace_id, task, agent_type)
    VALUES (new.trace_key, new.trace_id, new.task, new.agent_type);
END;
