-- What caches need in order to follow the users table, whoever changes it.

-- The version orders what is cached of a row, so a change that does not move it on (by hand, in psql) must. A password's hash
-- is not cached, nor shown.
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

-- A deletion tells the version of the row that is gone, not its key alone.
ALTER TABLE users REPLICA IDENTITY FULL;

CREATE PUBLICATION cachingapi FOR TABLE users;
