-- What caches need in order to follow the users table, whoever changes it.

-- The version orders what is cached of a row, so a change that does not move it on (by hand, in psql) must.
CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER users_next_version BEFORE UPDATE ON users
    FOR EACH ROW WHEN (NEW.version <= OLD.version) EXECUTE FUNCTION next_version();

-- A deletion tells the version of the row that is gone, not its key alone.
ALTER TABLE users REPLICA IDENTITY FULL;

CREATE PUBLICATION cachingapi FOR TABLE users;
