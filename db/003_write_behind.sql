-- A fencing token orders the writes of a user, synchronous and write-behind: the row keeps the token of its last write, so that no
-- earlier write changes it, and none is applied twice.
ALTER TABLE users ADD COLUMN fence bigint NOT NULL DEFAULT 0;
