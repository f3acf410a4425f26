-- For change data capture: caches receive every change of the users table, made by any client.

-- The version orders the cached entries of a row. So this trigger increases it if a statement does not, for example in psql. A
-- password's hash is not cached, so its change does not count.
CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER users_next_version BEFORE UPDATE ON users
    FOR EACH ROW WHEN (
        NEW.version <= OLD.version
        AND (NEW.id, NEW.email, NEW.display_name, NEW.role, NEW.created_at)
            IS DISTINCT FROM (OLD.id, OLD.email, OLD.display_name, OLD.role, OLD.created_at)
    ) EXECUTE FUNCTION next_version();

-- A deletion in the replication stream then has the version of the row, not only its key.
ALTER TABLE users REPLICA IDENTITY FULL;

CREATE PUBLICATION cachingapi FOR TABLE users;
