-- Writes of a user are ordered by a fencing token, whether they are made at once or written behind: the row keeps that of its
-- last one, so that no earlier one changes it, and none is done twice.
ALTER TABLE users ADD COLUMN fence bigint NOT NULL DEFAULT 0;
