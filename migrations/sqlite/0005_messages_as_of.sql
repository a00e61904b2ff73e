-- A message that streams is not written at each update, which would write its whole text again and again. Its row has a body as
-- of event as_of; readers apply the message_updated events behind that. NULL: the body, or the event, is the message as it stands.
ALTER TABLE messages ADD COLUMN as_of INTEGER;
