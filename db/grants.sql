-- What the role of the service may do (roles.sql), if there is that role. Each migration ends with this.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cachingapi_service') THEN
        GRANT USAGE ON SCHEMA public TO cachingapi_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON users TO cachingapi_service;
        -- It compares the migrations that the database has with those that it needs.
        GRANT SELECT ON schemaversions TO cachingapi_service;
    END IF;
END $$;
