-- The version must not go back either: an entry of a later version would stay cached over the row. Scripts in Redis count in doubles.
DROP TRIGGER users_next_version ON users;
CREATE TRIGGER users_next_version BEFORE UPDATE ON users
    FOR EACH ROW WHEN (
        NEW.version < OLD.version
        OR NEW.version = OLD.version
            AND (NEW.id, NEW.email, NEW.display_name, NEW.role, NEW.created_at)
                IS DISTINCT FROM (OLD.id, OLD.email, OLD.display_name, OLD.role, OLD.created_at)
    ) EXECUTE FUNCTION next_version();

ALTER TABLE users ADD CONSTRAINT users_version CHECK (version < 9007199254740992);
